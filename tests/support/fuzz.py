"""Damaged copies of a valid file for one reader, in a process whose memory is capped: `fuzz.py
READER SEED COUNT CAP FOLDER`.

Reading a copy must end in time, with the reader's documented error or with a result; where
checksums guard the file the result must be the original's. Prints each distinct finding as a line
of JSON: seed of the copy, exception and its place.
"""

from __future__ import annotations

import importlib
import json
import random
import resource
import shutil
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from tests.support.mutate import mutate

SECONDS_EACH = 20
WEIGHTS = ("checkpoint", "foreign")
"""Beginnings of the names of readers in weight_readers.py."""


class Slow(BaseException):
    """Reading took too long; no reader catches it."""


def too_slow(number: int, frame: FrameType | None) -> None:
    """Signal handler."""
    raise Slow(f"more than {SECONDS_EACH} s")


def cap_memory(growth: int) -> None:
    """Let the address space grow by so many bytes at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + growth
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def damage(reader: Any, pristine: Path, folder: Path, seed: int) -> None:
    """Copy the valid input to `folder` with one of its files damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder)
    rng = random.Random(seed)
    path = rng.choice(sorted(path for pattern in reader.targets for path in folder.glob(pattern)))
    path.write_bytes(mutate(path.read_bytes(), reader.kind, rng))


def attempt(reader: Any, folder: Path, original: Any) -> str | None:
    """Read a damaged copy; what went wrong, if anything did."""
    signal.alarm(SECONDS_EACH)
    try:
        result = reader.read(folder)
    except reader.error:
        return None
    except BaseException as error:  # whatever it is, it is a finding
        frames = traceback.extract_tb(error.__traceback__)
        place = next(
            (frame for frame in reversed(frames) if "/repro/" in frame.filename), frames[-1]
        )
        return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
    return (
        None
        if original is None or result == original
        else "a result that differs from the original"
    )


def main(name: str, seed: int, count: int, cap: int, folder: Path) -> None:
    """Print findings, one of a kind."""
    reader = importlib.import_module(
        f"tests.support.{'weight_readers' if name.startswith(WEIGHTS) else 'readers'}"
    ).READERS[name]
    signal.signal(signal.SIGALRM, too_slow)
    pristine = folder / "valid"
    pristine.mkdir(parents=True)
    reader.make(pristine)
    original = reader.read(pristine)  # the valid file must be read
    cap_memory(cap)
    found = set()
    for number in range(seed, seed + count):
        (folder / "seed").write_text(str(number))  # known even if the process dies
        damage(reader, pristine, folder / "damaged", number)
        finding = attempt(reader, folder / "damaged", original if reader.exact else None)
        if finding and (kind := finding.partition(": ")[0]) not in found:
            found.add(kind)
            print(json.dumps({"seed": number, "finding": finding}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
