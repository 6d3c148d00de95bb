"""A worker whose rank 0 takes seconds to write the checkpoint of a stop, and whose other ranks end
at once: what a launcher must leave it the time for.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from repro.events import die_with_parent, emit

WRITE_SECONDS = 5.0


def main(fingerprint: str) -> None:
    """Until a stop is asked for; the attempt after it has nothing to do, and goes on."""
    work = Path("work") / fingerprint
    rank = os.environ.get("RANK", "0")
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    if rank == "0":
        emit({"event": "start", "fingerprint": fingerprint})
    (work / f"ready-{rank}").touch()
    while not asked:
        time.sleep(0.05)
    if rank == "0":
        time.sleep(WRITE_SECONDS)
        (work / "checkpoint-7").touch()
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    die_with_parent()
    main(json.loads(Path(sys.argv[1]).read_bytes())["runs"][0])
