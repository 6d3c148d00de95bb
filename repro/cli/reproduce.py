"""`python -m repro reproduce [PROFILE]`: DVC over data, poison, pretrain, clean and report.

DVC takes parameters from files alone (`dvc repro` has no override), so params.yaml is swapped for
the call and put back when it ends, whichever way it ends; a call that was killed is undone by the
next one. An edit that the user makes meanwhile stays.

Studies are no part of it: they are dated experiments, and hours of training must not begin where
nobody asked for them.

This process stands between the terminal and DVC. A signal to it ends DVC at once and the stage in
order: the stage sees that DVC is gone, and its runs write checkpoints. DVC writes some of its files
in place, so what such an end left torn is mended before the next start.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.cli.calls import require_package
from repro.events import PARENT, die_with_parent
from repro.files import held, replace_file
from repro.profile import load_profile, read_yaml
from repro.runs.signals import CALLER, stoppable
from repro.spec import SpecError

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")
LOCK_FILE = Path("dvc.lock")
STOPS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
SAVED = Path(".dvc/tmp/params.yaml.saved")
SAVED_LOCK = Path(".dvc/tmp/dvc.lock.saved")
RWLOCK = Path(".dvc/tmp/rwlock")
LOCK = Path(".dvc/tmp/profile.lock")
SWAPPED = """\
# For one call of `PROFILE={0} make reproduce`, which puts your own file back at its end; after a
# kill, the next call does.
profile: {0}
"""
"""The profile stands in it twice: where an edit sets another one, the two differ."""
APART = ("study",)
"""Stages that only `dvc repro STAGE@NAME` runs."""
END_SECONDS = 40.0
"""Time for DVC's stage to end when it is told to: checkpoints of all packs included."""


def reproduce(profile: str | None = None) -> int:
    """Check the profile's specifications, then run its stages; the exit status of `dvc repro`.

    SpecError for a specification, or a state of the folder, with which nothing can run; Stopped
    after a stop signal.
    """
    # From the Makefile: this call ends with make. What it starts has another parent, so the
    # variable must not be handed on.
    if PARENT in os.environ:
        die_with_parent(signal.SIGTERM)
        del os.environ[PARENT]

    # What is missing or mistaken is told before any file is touched.
    require_package("dvc")
    if profile:
        load_profile(profile)

    with profile_set(profile or None), lock_file_kept():
        mend_rwlock()

        # `--single-item` runs the stages that are named and follows no dependency to others.
        targets = stage_names(named_profile())
        return run([sys.executable, "-m", "dvc", "repro", "--single-item", *targets])


@contextlib.contextmanager
def profile_set(profile: str | None) -> Iterator[None]:
    """params.yaml names `profile` inside the block and is as it was after it; None changes nothing.

    SpecError if another call is at it: two profiles at once would mix in one dvc.lock.
    """
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{LOCK}: held by another `make reproduce` in this folder; wait for it or stop it"
    with held(LOCK, busy):
        # What a killed call left swapped goes back first.
        _restore()
        if profile is None:
            yield
            return

        # Saved before it is replaced: there is no moment at which the user's file is nowhere.
        replace_file(SAVED, PARAMS.read_bytes())
        replace_file(PARAMS, SWAPPED.format(profile).encode())
        try:
            yield
        finally:
            _restore()


def _restore() -> None:
    """Put the user's params.yaml back, unless it has been edited since: then the edit stays."""
    if not SAVED.exists():
        return

    # As this module wrote it, for whichever profile: nobody has edited it.
    content = PARAMS.read_text(encoding="utf-8") if PARAMS.exists() else ""
    named = re.search(r"^profile: (.*)$", content, re.MULTILINE)
    if named and content == SWAPPED.format(named[1]):
        replace_file(PARAMS, SAVED.read_bytes())
        SAVED.unlink()
        return

    # A kill between saving and swapping.
    if SAVED.read_text(encoding="utf-8") == content:
        SAVED.unlink()
        return

    # Edited: the edit stays, and what it replaces is kept beside for the user to compare.
    kept = SAVED.with_name("params.yaml.before")
    SAVED.replace(kept)
    _say(
        f"{PARAMS}: edited since `make reproduce` began; your edit stays, and what it was before "
        f"is {kept}"
    )


@contextlib.contextmanager
def lock_file_kept() -> Iterator[None]:
    """A dvc.lock that the end of an earlier call tore is what it was before that call.

    DVC writes it in place. What stages have done since is found again by contents and fingerprints.
    SpecError where somebody else's call tore it.
    """
    if SAVED_LOCK.exists() and LOCK_FILE.exists() and not _is_whole(LOCK_FILE):
        replace_file(LOCK_FILE, SAVED_LOCK.read_bytes())
        _say(
            f"{LOCK_FILE}: torn by the end of an earlier call; put back as it was before that call"
        )

    if LOCK_FILE.exists():
        content = LOCK_FILE.read_bytes()
        # No copy of ours to put back, as after a plain `dvc repro`: git has one.
        if not content.endswith(b"\n"):
            raise SpecError(
                f"{LOCK_FILE}: ends in the middle of a line; `git checkout {LOCK_FILE}` brings "
                "back the committed one"
            )
        replace_file(SAVED_LOCK, content)

    # Only where the block ends well; after an exception DVC may have torn the file.
    yield
    SAVED_LOCK.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    """Whether DVC could read the lock file: each entry of its last stage has path and hash."""
    # DVC writes from the beginning, so a tear shows in the stage that then comes last.
    try:
        stages = list(read_yaml(path)["stages"].values())
        entries = [*stages[-1].get("deps", []), *stages[-1].get("outs", [])]
        return "cmd" in stages[-1] and all(entry["path"] and entry["md5"] for entry in entries)
    except (SpecError, OSError, AttributeError, IndexError, KeyError, TypeError):
        return False


def mend_rwlock() -> None:
    """Remove DVC's list of readers and writers if an end tore it: DVC would refuse it for ever."""
    try:
        content = json.loads(RWLOCK.read_bytes())
    except FileNotFoundError:
        return
    except ValueError:
        content = None

    # It says only who reads and writes at this moment, so nothing of worth goes with it.
    if not isinstance(content, dict):
        RWLOCK.unlink()
        _say(f"{RWLOCK}: torn by the end of an earlier call; removed, DVC makes it again")


def named_profile() -> str:
    """The profile that params.yaml names; SpecError if it is none of specs/."""
    content = read_yaml(PARAMS)
    name = content.get("profile") if isinstance(content, dict) else None
    try:
        load_profile(str(name))
    except SpecError as error:
        raise SpecError(f"{PARAMS}: {error}") from None
    return str(name)


def stage_names(profile: str) -> list[str]:
    """Names of the profile's stages in the order of dvc.yaml, in which they can run."""
    stages: dict[str, Any] = read_yaml(GRAPH)["stages"]
    names = []
    for stage, content in stages.items():
        if stage in APART:
            continue

        # DVC names the cells of a matrix by their values, joined by hyphens.
        axes = content["matrix"].values()
        for values in itertools.product(*axes):
            label = "-".join(values).replace("${profile}", profile)
            names.append(f"{stage}@{label}")
    return names


def run(command: list[str]) -> int:
    """Exit status of `command`; Stopped after a stop signal, when nothing is left of it.

    The command gets a process group of its own, so that Ctrl-C in the terminal reaches this process
    alone. It dies with this process too, however that ends.
    """
    _adopt_orphans()

    # Stages call `python`: where no environment is activated, it is this one's.
    path = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
    environment = os.environ | {CALLER: str(os.getpid()), "PATH": os.pathsep.join(path)}

    process = None
    with stoppable():
        try:
            # A stop between the start and the name of what was started would leave it unattended.
            with _stops_held():
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    process_group=0,
                    preexec_fn=_die_with_this,
                )
            status = process.wait()
        finally:
            if process is not None:
                _end(process)

    # -N from Popen means ended by signal N; a shell tells that as 128 + N.
    return status if status >= 0 else 128 - status


def _die_with_this() -> None:
    """Between fork and exec of the command."""
    die_with_parent(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextlib.contextmanager
def _stops_held() -> Iterator[None]:
    """Keep stop signals waiting inside the block; one that came is heard at its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and all in its group: politely, after a while by force, to the last."""
    deadline = time.monotonic() + END_SECONDS
    number: int = signal.SIGTERM
    while _signal_group(process.pid, number):
        # One request is enough; from then on 0 only asks whether anybody is there.
        number = signal.SIGKILL if time.monotonic() > deadline else 0
        time.sleep(0.05)
        process.poll()
        _bury_orphans()


def _signal_group(group: int, number: int) -> bool:
    """Send the signal to a process group; whether anybody was there."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _adopt_orphans() -> None:
    """Have Linux make this process the parent of those below it whose own dies, to await them."""
    if sys.platform == "linux":
        set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER in linux/prctl.h
        ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def _bury_orphans() -> None:
    """Take note of adopted processes that have ended; else they would still seem to be there."""
    # (0, 0) where children are left but none of them has ended; the error where there is none.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _say(line: str) -> None:
    print(f"repro: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    # The command line proper, which is quiet while modules load.
    call = [sys.executable, "-m", "repro", "reproduce", *sys.argv[1:]]
    os.execv(sys.executable, call)  # noqa: S606
