"""`python -m repro reproduce [PROFILE]`: DVC over data, poison, pretrain, clean and report.

DVC takes parameters from files alone, so params.yaml is replaced for the call and put back at its
end; what a killed call left is put back by the next one. Studies are no part of it: they are dated
experiments, and hours of training must not begin where nobody asked for them.

This process stands between the terminal and DVC. A signal to it ends DVC at once and the stage in
order: its runs write checkpoints. DVC writes some of its files in place; what such an end tore is
mended before the next start.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repro.events import PARENT, die_with_parent
from repro.files import held, read_json, replace_file
from repro.profile import PARAMS, chosen_profile, load_profile
from repro.runs.signals import CALLER, STOP_SIGNALS
from repro.spec import SpecError
from repro.unchanged import CALL, code_state

SAVED_PARAMS = Path(".dvc/tmp/params.yaml.saved")
DVC_LOCK, SAVED_DVC_LOCK = Path("dvc.lock"), Path(".dvc/tmp/dvc.lock.saved")
WHOLE_END = re.compile(rb"\n      md5: .+\n(      .+\n)*\Z")
"""End of a dvc.lock: an output with its hash. DVC writes from the beginning."""
RWLOCK = Path(".dvc/tmp/rwlock")
BUSY = Path(".dvc/tmp/profile.lock")
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

    # A mistake is reported before any file changes, and before DVC reads params.yaml.
    load_profile(profile or chosen_profile())
    BUSY.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{BUSY}: held by another `make reproduce` in this folder; wait for it or stop it"
    with held(BUSY, busy), profile_for_call(profile):
        mend_dvc_files()
        os.environ[CALL] = json.dumps(code_state([""]))
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
    profile = content.rpartition(": ")[2].rstrip()
    if content == REPLACED.format(profile):
        # A rename needs no space: the call may end because the disk is full.
        SAVED_PARAMS.replace(PARAMS)
    else:
        SAVED_PARAMS.unlink()


def mend_dvc_files() -> None:
    """Put back a dvc.lock that the end of an earlier call tore, and keep a copy of it.

    Finished stages and runs that it then lacks are recognised by their contents. SpecError where no
    copy is there, because the torn call was not `reproduce`.
    """
    # DVC's list of who reads and writes at this moment. It refuses a torn one for ever, and that of
    # a killed process until it is collected, which a container's first process may never do.
    text = RWLOCK.read_text(encoding="utf-8") if RWLOCK.exists() else ""
    holders = map(int, re.findall(r'"pid": (\d+)', text))
    if read_json(RWLOCK) is None or not any(map(_runs, holders)):
        RWLOCK.unlink(missing_ok=True)

    lock = DVC_LOCK.read_bytes() if DVC_LOCK.exists() else b""
    if DVC_LOCK.exists() and SAVED_DVC_LOCK.exists() and not WHOLE_END.search(lock):
        lock = SAVED_DVC_LOCK.read_bytes()
        replace_file(DVC_LOCK, lock)
        print(f"repro: {DVC_LOCK}: torn by the end of an earlier call; put back as before it")
    # DVC refuses an empty file. An empty copy means that the call began without a dvc.lock.
    if not lock:
        DVC_LOCK.unlink(missing_ok=True)
    elif not lock.endswith(b"\n"):
        raise SpecError(
            f"{DVC_LOCK}: ends in the middle of a line; `git checkout {DVC_LOCK}` brings back "
            "the committed one; without git, delete it: finished runs are found again"
        )
    replace_file(SAVED_DVC_LOCK, lock)


def _runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def run(command: list[str]) -> int:
    """Exit status of `command`; Stopped after a stop signal, when nothing is left of it.

    Its process group is its own, so that Ctrl-C in the terminal reaches this process alone. It ends
    with this process, however that ends.
    """
    # Children of a child that dies come to this process, which can then wait for them.
    if sys.platform == "linux":
        set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER in linux/prctl.h
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)

    # Stages call `python`, which must be this one, with the pinned packages.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # A stop between the start and `try` would leave the process unattended.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    process = subprocess.Popen(
        command,
        env=os.environ | {CALLER: str(os.getpid()), "PATH": path},
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=_prepare,
    )
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        status = process.wait()
    finally:
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
