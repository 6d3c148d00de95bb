"""`python -m repro reproduce [PROFILE]`: DVC over data, poison, pretrain, clean and report.

DVC takes parameters from files alone, so a profile or values that a call names are written to
params.yaml and stay there, as with `dvc exp run -S`. Studies are no part of it: they are dated
experiments, and hours of training must not begin where nobody asked for them.

What DVC and the stages print goes into LOG; the board (repro/view) shows how far they are, and the
lines of LOG that are no mere noise. Nothing of the work hangs on the terminal or on a pipe.

This process stands between the terminal and DVC. A signal to it ends DVC at once and the stage in
order: its runs write checkpoints. DVC writes some of its files in place; what such an end tore is
mended before the next start.
"""

import ctypes
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from repro.events import PARENT, die_with_parent, say
from repro.files import held, read_json, replace_file
from repro.profile import (
    PARAMS,
    overrides_of,
    parse_override,
    whole_profile,
)
from repro.runs.signals import CALLER, STOP_SIGNALS
from repro.spec import SpecError
from repro.view.board import Board, drawing
from repro.view.end import end_of_call, lacks_pdf
from repro.view.watched import CALL_LOCK, Call, Watched

DVC_LOCK, SAVED_DVC_LOCK = Path("dvc.lock"), Path(".dvc/tmp/dvc.lock.saved")
WHOLE_END = re.compile(rb"\n      md5: .+\n(      .+\n)*\Z")
"""End of a dvc.lock: an output with its hash. DVC writes from the beginning."""
RWLOCK = Path(".dvc/tmp/rwlock")
STAGES = "[!s]*@*"
"""Glob of all stages but study@NAME. One pattern, because DVC reads dvc.lock once for each."""
LOG = Path("work/reproduce.log")
"""What DVC and the stages of the last call printed."""
STAGE_LINE = re.compile(r"Running stage '(?P<name>.+)':|Updating lock file")
"""DVC's line at the beginning of a stage, or at its end."""
NOISE = re.compile(
    r"Running stage '|Stage '.+' (?:didn't change|is cached)|> |Updating lock file"
    r"|Data and pipelines are up|To track the changes|\tgit add|To enable auto|\tdvc config"
    r"|Use `dvc push`|\d+ runs to make|report: open"
)
"""Lines of LOG that the board says better, or that are DVC's advice."""
END_SECONDS = 40.0
"""Time for the stage to end in order: checkpoints of all its runs included."""


def reproduce(profile: str, sets: Sequence[str] = ()) -> int:
    """Check the specifications, then run the stages; returns the exit status of `dvc repro`.

    `profile` and `sets`, each `FIELD=VALUE`, are written to params.yaml; values that it has for
    this profile stay beside them.

    SpecError for a specification, or a state of the folder, with which nothing can run; Stopped
    after a stop signal.
    """
    # From the Makefile: this call ends with make. What it starts has another parent.
    if PARENT in os.environ:
        die_with_parent(signal.SIGTERM)
        del os.environ[PARENT]

    # A mistake is reported before any file changes, and before DVC reads params.yaml.
    CALL_LOCK.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{CALL_LOCK}: held by another `make reproduce` in this folder; wait for it or stop it"
    with held(CALL_LOCK, busy):
        overrides = overrides_of(profile) | dict(map(parse_override, sets))
        whole_profile(profile, overrides, "--set" if sets else f"{PARAMS}: overrides")
        write_params(profile, overrides)
        mend_dvc_files()
        status = _run_stages(profile)
    SAVED_DVC_LOCK.unlink(missing_ok=True)
    return status


def _run_stages(profile: str) -> int:
    """Run DVC over the stages of params.yaml's profile with the board; the exit status of DVC."""
    # `--single-item` runs the stages that match and follows no dependency to a study.
    whole = [sys.executable, "-m", "dvc", "repro", "--single-item"]
    call = Call(profile, time.time())
    call.save()
    watched = Watched.of_profile(profile)
    heard = Heard(LOG, call)
    LOG.write_bytes(b"")
    with drawing(Board(watched, watched.look, heard.lines)):
        status = run([*whole, "--glob", STAGES], LOG)
        report = f"report@{profile}"
        made = f"Running stage '{report}'".encode() in LOG.read_bytes()
        if status == 0 and not made and lacks_pdf(profile):
            # DVC takes the report from its cache, which is of a time before LaTeX was here.
            status = run([*whole, "--force", report], LOG)

    lines = end_of_call(profile) if status == 0 else [f"all that was printed: {LOG}"]
    for line in lines:
        say(line)
    return status


class Heard:
    """What the stages of a call have printed: the news of it, and which of them runs."""

    def __init__(self, log: Path, call: Call) -> None:
        self.log = log
        self.call = call
        self.place = 0
        self.shown: set[str] = set()

    def lines(self) -> list[str]:
        """New whole lines that are worth showing; notes in the call which stages they name."""
        with self.log.open("rb") as file:
            file.seek(self.place)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.place += len(whole)
        shown = []
        stage = self.call.stage
        for line in whole.decode(errors="replace").splitlines():
            if match := STAGE_LINE.match(line):
                self.call.stage = match["name"] or ""
            # Every stage says again what holds for all.
            if line.strip() and line not in self.shown and not NOISE.match(line):
                self.shown.add(line)
                shown.append(line)
        if self.call.stage != stage:
            self.call.save()
        return shown


def write_params(profile: str, overrides: Mapping[str, Any]) -> None:
    """Write profile and overrides into params.yaml, whose comments stay, if it has others."""
    yaml = YAML(typ="rt")
    content = yaml.load(PARAMS.read_text(encoding="utf-8")) if PARAMS.exists() else {}
    if content.get("profile") == profile and overrides_of(profile) == overrides:
        return
    content |= {"profile": profile, "overrides": dict(overrides)}
    stream = io.StringIO()
    yaml.dump(content, stream)
    replace_file(PARAMS, stream.getvalue().encode())


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


def run(command: list[str], log: Path) -> int:
    """Exit status of `command`, whose output goes to the end of `log`; Stopped after a stop signal,
    when nothing is left of it.

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
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | {CALLER: str(os.getpid()), "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
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
