"""`python -m repro.reproduce [PROFILE]`: run `dvc repro`, at another profile than params.yaml's for this call only.

DVC takes parameters from files alone (`dvc repro` has no override), so params.yaml is swapped for the call and put
back when it ends, whichever way it ends; a call that was killed is undone by the next one.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from repro.files import held, replace_file
from repro.profile import load_profile
from repro.spec import SpecError

PARAMS = Path("params.yaml")
SAVED = Path(".dvc/tmp/params.yaml.saved")
LOCK = Path(".dvc/tmp/profile.lock")


@contextlib.contextmanager
def profile_set(profile: str | None) -> Iterator[None]:
    """params.yaml names `profile` inside the block and is as it was after it; None changes nothing.

    SpecError if another call is at it: two profiles at once would mix in one dvc.lock.
    """
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{LOCK}: held by another `make reproduce` in this folder; wait for it or stop it"
    with held(LOCK, busy):
        _restore()
        if profile is None:
            yield
            return
        replace_file(SAVED, PARAMS.read_bytes())
        replace_file(PARAMS, f"profile: {profile}\n".encode())
        try:
            yield
        finally:
            _restore()


def _restore() -> None:
    if SAVED.exists():
        replace_file(PARAMS, SAVED.read_bytes())
        SAVED.unlink()


def run(command: list[str]) -> int:
    """Exit status of `command`; SIGTERM and SIGHUP are passed on, Ctrl-C reaches it through the terminal."""
    process = subprocess.Popen(command)

    def forward(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # it has the signal too, and saves its work before it ends


def main(arguments: list[str]) -> int:
    """Check the profile's specifications, then run the pipeline; the exit status of `dvc repro`."""
    profile = arguments[0] if arguments else None
    try:
        if profile is not None:
            load_profile(profile)
        with profile_set(profile):
            status = run(["dvc", "repro"])
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
