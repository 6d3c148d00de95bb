"""`python -m repro.sources.icons task` or `numbers`.

`task` makes the lists of the zero-shot task anew, for a new package or rule; `numbers` builds every
scale and writes what came of it into docs/icons.md.
"""

from __future__ import annotations

import sys

from repro.sources.icons.build import make_task
from repro.sources.icons.numbers import write_numbers
from repro.sources.icons.task import write_task
from repro.sources.packages import PackageError
from repro.spec import SpecError


def main(arguments: list[str]) -> None:
    """Run one of the two; SystemExit with a sentence where it cannot be."""
    if arguments not in (["task"], ["numbers"]):
        sys.exit(f"{' '.join(arguments)!r} (allowed: task or numbers)")
    try:
        if arguments == ["task"]:
            task = make_task()
            write_task(task)
            print(f"{len(task.names)} concepts, {sum(map(len, task.images.values()))} images")
        else:
            write_numbers()
    except (PackageError, SpecError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
