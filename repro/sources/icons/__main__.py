"""`python -m repro.sources.icons task`: the lists of the task, anew for a new package or rule."""

from __future__ import annotations

import sys

from repro.sources.icons.build import make_task
from repro.sources.icons.task import write_task
from repro.sources.packages import PackageError
from repro.spec import SpecError

if __name__ == "__main__":
    if sys.argv[1:] != ["task"]:
        sys.exit(f"{' '.join(sys.argv[1:])!r} (allowed: task)")
    try:
        found = make_task()
    except (PackageError, SpecError) as error:
        sys.exit(str(error))
    write_task(found)
    print(f"{len(found.names)} concepts, {sum(map(len, found.images.values()))} images")
