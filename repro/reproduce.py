"""`python -m repro reproduce [PROFILE]`: DVC over data, poison, pretrain, clean and report.

DVC takes parameters from files alone, so params.yaml is replaced for the call and put back at its
end; what a killed call left is put back by the next one. Studies are no part of it: they are dated
experiments, and hours of training must not begin where nobody asked for them.

This process stands between the terminal and DVC. A signal to it ends DVC at once and the stage in
order: its runs write checkpoints. DVC writes some of its files in place; what such an end tore is
mended before the next start.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from repro.events import PARENT, die_with_parent
from repro.files import held, read_json, replace_file, replace_json
from repro.profile import PARAMS, chosen_profile, load_profile, read_yaml
from repro.runs.signals import CALLER, STOP_SIGNALS, stoppable
from repro.spec import SpecError
from repro.unchanged import CALL, code_state

SAVED_PARAMS = Path(".dvc/tmp/params.yaml.saved")
DVC_LOCK, SAVED_DVC_LOCK = Path("dvc.lock"), Path(".dvc/tmp/dvc.lock.saved")
RWLOCK = Path(".dvc/tmp/rwlock")
BUSY = Path(".dvc/tmp/profile.lock")
CODE_AT_CALL = Path(".dvc/tmp/code.json")
REPLACED = """\
# For one call of `PROFILE={0} make reproduce`, which puts your own file back at its end; after a
# kill, the next call does.
profile: {0}
"""
"""The profile stands in it twice: an edit of one of them shows."""
STAGES = "[!s]*@*"
"""Glob of all stages but study@NAME. One pattern, because DVC reads dvc.lock once for each."""
END_SECONDS = 40.0
"""Time for the stage to end in order: checkpoints of all its runs included."""


def reproduce(profile: str | None = None) -> int:
    """Check the specifications, then run the stages; returns the exit status of `dvc repro`.

    SpecError for a specification, or a state of the folder, with which nothing can run; Stopped
    after a stop signal.
    """
    # From the Makefile: this call ends with make. What it starts has another parent.
    if PARENT in os.environ:
        die_with_parent(signal.SIGTERM)
        del os.environ[PARENT]

    # A mistake is reported before any file changes.
    if profile:
        load_profile(profile)
    BUSY.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{BUSY}: held by another `make reproduce` in this folder; wait for it or stop it"
    with held(BUSY, busy), profile_for_call(profile):
        if not profile:
            # A mistake in params.yaml is reported before DVC reads it.
            load_profile(chosen_profile(PARAMS))
        mend_dvc_files()
        replace_json(CODE_AT_CALL, code_state([""]))
        os.environ[CALL] = str(CODE_AT_CALL.resolve())
        # `--single-item` runs the stages that match and follows no dependency to a study.
        status = run([sys.executable, "-m", "dvc", "repro", "--single-item", "--glob", STAGES])
    SAVED_DVC_LOCK.unlink(missing_ok=True)
    return status


@contextmanager
def profile_for_call(profile: str | None) -> Iterator[None]:
    """params.yaml names `profile` inside the block and is as before after it; None changes nothing.

    An edit of the user's inside the block stays.
    """
    _restore_params()
    if profile:
        # Saved before it is replaced: at no moment the user's file is nowhere.
        replace_file(SAVED_PARAMS, PARAMS.read_bytes())
        replace_file(PARAMS, REPLACED.format(profile).encode())
    try:
        yield
    finally:
        _restore_params()


def _restore_params() -> None:
    """Put the user's params.yaml back, unless the one of a call was edited meanwhile."""
    if not SAVED_PARAMS.exists():
        return
    content = PARAMS.read_text(encoding="utf-8") if PARAMS.exists() else ""
    named = re.search(r"^profile: (.*)$", content, re.MULTILINE)
    if named and content == REPLACED.format(named[1]):
        replace_file(PARAMS, SAVED_PARAMS.read_bytes())
    SAVED_PARAMS.unlink()


def mend_dvc_files() -> None:
    """Put back a dvc.lock that the end of an earlier call tore, and keep a copy of it.

    Finished stages and runs that it then lacks are recognised by their contents. SpecError where no
    copy is there, because the torn call was not `reproduce`.
    """
    # DVC's list of who reads and writes at this moment; torn, DVC would refuse it for ever.
    if RWLOCK.exists() and read_json(RWLOCK) is None:
        RWLOCK.unlink()

    if SAVED_DVC_LOCK.exists() and DVC_LOCK.exists() and not _is_whole(DVC_LOCK):
        replace_file(DVC_LOCK, SAVED_DVC_LOCK.read_bytes())
        print(f"repro: {DVC_LOCK}: torn by the end of an earlier call; put back as before it")
    # DVC refuses an empty file. An empty copy means that the call began without a dvc.lock.
    if DVC_LOCK.exists() and not DVC_LOCK.stat().st_size:
        DVC_LOCK.unlink()
    content = DVC_LOCK.read_bytes() if DVC_LOCK.exists() else b""
    if content and not content.endswith(b"\n"):
        raise SpecError(
            f"{DVC_LOCK}: ends in the middle of a line; `git checkout {DVC_LOCK}` brings back "
            "the committed one; without git, delete it: finished runs are found again"
        )
    replace_file(SAVED_DVC_LOCK, content)


def _is_whole(lock: Path) -> bool:
    """Whether it ends with a line and each entry of its last stage has path and hash.

    DVC writes from the beginning. A hash that is cut is a hash to a reader of YAML.
    """
    if not lock.read_bytes().endswith(b"\n"):
        return False
    try:
        last: dict[str, Any] = list(read_yaml(lock)["stages"].values())[-1]
        entries = [*last.get("deps", []), *last.get("outs", [])]
        return "cmd" in last and all(entry["path"] and entry["md5"] for entry in entries)
    except (SpecError, OSError, AttributeError, IndexError, KeyError, TypeError):
        return False


def run(command: list[str]) -> int:
    """Exit status of `command`; Stopped after a stop signal, when nothing is left of it.

    Its process group is its own, so that Ctrl-C in the terminal reaches this process alone. It ends
    with this process, however that ends.
    """
    # Children of a child that dies come to this process, which can then wait for them.
    if sys.platform == "linux":
        set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER in linux/prctl.h
        ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)

    # Stages call `python`, which must be this one, with the pinned packages.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    process = None
    with stoppable():
        try:
            # A stop between the start and its assignment would leave the process unattended.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            process = subprocess.Popen(
                command,
                env=os.environ | {CALLER: str(os.getpid()), "PATH": path},
                stdin=subprocess.DEVNULL,
                process_group=0,
                preexec_fn=_prepare,
            )
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            status = process.wait()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            if process is not None:
                _end_group(process)
    return status if status >= 0 else 128 - status


def _prepare() -> None:
    """In the new process: end with the one that started it, and take signals again."""
    die_with_parent(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End all in the process group: by SIGTERM, after END_SECONDS by SIGKILL."""
    deadline = time.monotonic() + END_SECONDS
    number: int = signal.SIGTERM
    with suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, number)
            # One request is enough; 0 only asks whether anybody is there.
            number = signal.SIGKILL if time.monotonic() > deadline else 0
            time.sleep(0.05)
            # An ended process stays in its group until it is waited for.
            process.poll()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
