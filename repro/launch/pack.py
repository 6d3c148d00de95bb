"""One pack of runs: torchrun around the worker, and Sacred around every run (`python -m repro run-pack PACK.json`).

Sacred lives here, outside torchrun, and the ranks know nothing of it: rank 0 reports events (`repro.wire`), and the
pack turns each run's events into one Sacred run. A worker that dies costs the run at hand one of its tries; torchrun
is started again for the runs that remain, and they resume from their checkpoints.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.events import Event, die_with_parent, parse
from repro.files import held, replace_file
from repro.launch.torchrun import command
from repro.ledger import RunOutcome
from repro.runs.deliver import save_record
from repro.runs.run import Run
from repro.runs.signals import stoppable
from repro.tracking.record import Recorder, say
from repro.tracking.server.address import TrackingError, server_url

if TYPE_CHECKING:
    from repro.tracking.server.copier import Copier

TRIES = 2
"""Failures after which a run is recorded as failed, and launches without a single start after which all are."""
GRACE_SECONDS = 20
"""Time for the ranks to write a checkpoint and end when the pack is stopped."""


class Torchrun:
    """A running torchrun: iterate over its events; ordinary lines are echoed on the way."""

    def __init__(self, pack: dict[str, Any], path: Path) -> None:
        arguments, environment = command(pack, path)
        environment = {
            name: value for name, value in environment.items() if not name.startswith("MONGO_URL")
        }  # a secret of the tracker
        self.process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.errors: deque[str] = deque(maxlen=200)
        self.events = self._events()

    def _events(self) -> Iterator[Event]:
        for is_error, line in _lines(self.process):
            if is_error:
                self.errors.append(line)
                say(line, sys.stderr)
            elif event := parse(line):
                yield event
            elif line:
                say(line)
        self.process.wait()

    def reason(self) -> str:
        """Why the worker ended: the exception it printed last, or how its process ended."""
        for line in reversed(self.errors):
            found = re.match(r"^(?:\[rank\d+\]: ?)?([\w.]*(?:Error|Exception|Exit)\b.*)", line)
            if found and "ChildFailedError" not in line:
                return found[1][:500]
        codes = [
            match[1] for line in self.errors if (match := re.search(r"exitcode\s*: (-?\d+)", line))
        ]
        return f"the worker ended with status {codes[0] if codes else self.process.returncode}"

    def stop(self) -> None:
        """End the process: politely, and after the grace period by force."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.communicate(timeout=GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def run_pack(path: Path) -> None:
    """Run the pack in `path` to a record for every run; see `repro.launch.driver` for the file. Ends with its parent."""
    die_with_parent()
    pack = json.loads(path.read_bytes())
    if cpus := os.environ.get(
        "SLURM_CPUS_PER_TASK"
    ):  # the node's share, which the submitting machine could not know
        pack["threads"] = max(1, int(cpus) * pack["nodes"] // pack["ranks"])
    runs = [Run.load(fingerprint) for fingerprint in pack["runs"]]
    mirror = _mirror()
    with stoppable(), ExitStack() as locks:
        if mirror:
            mirror.start()
            locks.callback(mirror.close)
        recorder = Recorder(mirror.watch if mirror else lambda folder: None, len(runs))
        for run in sorted(
            runs, key=lambda run: run.fingerprint
        ):  # one order for all packs: no deadlock
            locks.enter_context(_locked(run))
        failures: Counter[str] = Counter()
        barren = 0
        while waiting := [run for run in runs if run.finished() is None]:
            replace_file(
                path,
                json.dumps(
                    pack | {"runs": [run.fingerprint for run in waiting]}, indent=1
                ).encode(),
            )
            started, reason = _launch(
                path, pack, {run.fingerprint: run for run in waiting}, failures, recorder
            )
            barren = 0 if started else barren + 1
            for run in waiting if barren == TRIES else ():
                save_record(
                    run, run.record({"status": "failed", "reason": reason, "attempts": TRIES}, None)
                )


def _launch(
    path: Path,
    pack: dict[str, Any],
    runs: dict[str, Run],
    failures: Counter[str],
    recorder: Recorder,
) -> tuple[int, str]:
    """One torchrun over the runs; returns how many started and why it ended."""
    for run in runs.values():
        outcome = run.outcome()
        if outcome is None or outcome["status"] == "failed":
            (run.work_dir / "outcome.json").unlink(missing_ok=True)
    torchrun = Torchrun(pack, path)
    started = 0
    try:
        for event in torchrun.events:
            started += 1
            run = runs[event["fingerprint"]]
            reason, sacred = recorder.record(run, event, torchrun.events, torchrun.reason)
            outcome = run.outcome()
            if outcome is None and not reason:
                reason = f"{run.work_dir / 'outcome.json'}: missing or damaged"
            failures[run.fingerprint] += bool(reason)

            if outcome is not None and not reason:
                save_record(run, run.record(outcome, sacred))
            elif failures[run.fingerprint] == TRIES:
                ended: RunOutcome = {"status": "failed", "reason": reason, "attempts": TRIES}
                save_record(run, run.record({**(outcome or {}), **ended}, sacred))
    finally:
        torchrun.stop()
    return started, torchrun.reason()


def _mirror() -> Copier | None:
    """Copies to the tracking server where there is one; a server that cannot even be named stops no run."""
    try:
        url = server_url()
    except TrackingError as error:
        say(f"tracking: {error}; records are kept on disk", sys.stderr)
        return None
    if url is None:
        return None
    from repro.tracking.server.copier import (
        Copier,  # half of the time that a pack takes to start, where there is a server only
    )

    return Copier(url)


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Hold the run's work folder; wait, and say so, while another process has it."""
    busy = f"{run.name}: another process works on it ({run.work_dir}); waiting"
    with held(run.work_dir / "lock", busy, wait=True):
        yield


def _lines(process: subprocess.Popen[bytes]) -> Iterator[tuple[bool, str]]:
    """Lines of both outputs as they come: (from standard error, text)."""
    assert process.stdout is not None
    assert process.stderr is not None
    with selectors.DefaultSelector() as selector:
        for stream, is_error in ((process.stdout, False), (process.stderr, True)):
            selector.register(stream, selectors.EVENT_READ, is_error)
        parts = {False: b"", True: b""}
        while selector.get_map():
            for key, _ in selector.select():
                is_error = bool(key.data)
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                *lines, parts[is_error] = (
                    parts[is_error] + (chunk or b"\n" * bool(parts[is_error]))
                ).split(b"\n")
                for line in lines:
                    yield is_error, line.decode(errors="replace")
