"""One pack of runs: torchrun around the worker, and Sacred around every run (`python -m repro run-pack PACK.json`).

Sacred lives here, outside torchrun, and the ranks know nothing of it: rank 0 reports events (`repro.wire`), and the
pack turns each run's events into one Sacred run. A worker that dies costs the run at hand one of its tries; torchrun
is started again for the runs that remain, and they resume from their checkpoints.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import selectors
import subprocess
import sys
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import repro
from repro.launch.driver import stoppable
from repro.launch.identity import LIBRARIES, Run, commit_state, content_hash, environment, model_dir
from repro.launch.publication import save_record
from repro.ledger import replace_file
from repro.tracking.mirror import RECORDS, Mirror, mongo_url
from repro.tracking.observers import FileObserver
from repro.wire import EVENT, PARENT, die_with_parent, parse
from sacred import SETTINGS, Experiment

TRIES = 2
"""Failures after which a run is recorded as failed, and launches without a single start after which all are."""
GRACE_SECONDS = 20
"""Time for the ranks to write a checkpoint and end when the pack is stopped."""
BEAT_SECONDS = 2.0

ARTIFACTS = ("spec.json", "rows.jsonl", "outcome.json")

SETTINGS.CAPTURE_MODE = "sys"  # the pack itself prints the worker's lines, so the costly capture of descriptors is not needed
SETTINGS.DISCOVER_SOURCES = "none"  # sources and versions are the worker's, added by hand; the pack never imports torch
SETTINGS.DISCOVER_DEPENDENCIES = "none"
SETTINGS.HOST_INFO.INCLUDE_CPU_INFO = False  # a second of py-cpuinfo per run; `environment` names the device
SETTINGS.HOST_INFO.INCLUDE_GPU_INFO = False


class RunFailed(RuntimeError):
    """The run ended without a result; the message is the reason."""


class Torchrun:
    """A running torchrun: iterate over its events; ordinary lines are echoed on the way."""

    def __init__(self, pack_path: Path, ranks: int, worker: str) -> None:
        command = [sys.executable, "-m", "repro.launch.torchrun", "--standalone", f"--nproc-per-node={ranks}", "--max-restarts=0",
                   "-m", worker, str(pack_path)]  # fmt: skip
        self.process = subprocess.Popen(
            command, env=os.environ | {PARENT: str(os.getpid())}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.errors: deque[str] = deque(maxlen=200)
        self.events = self._events()

    def _events(self) -> Iterator[dict[str, Any]]:
        for is_error, line in _lines(self.process):
            if is_error:
                self.errors.append(line)
                print(line, file=sys.stderr, flush=True)
            elif event := parse(line):
                yield event
            elif line:
                print(line, flush=True)
        self.process.wait()

    def reason(self) -> str:
        """Why the worker ended: the exception it printed last, or how its process ended."""
        for line in reversed(self.errors):
            found = re.match(r"^(?:\[rank\d+\]: ?)?([\w.]*(?:Error|Exception|Exit)\b.*)", line)
            if found and "ChildFailedError" not in line:
                return found[1][:500]
        codes = [match[1] for line in self.errors if (match := re.search(r"exitcode\s*: (-?\d+)", line))]
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
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):  # the node's share, which the submitting machine could not know
        pack["threads"] = max(1, int(cpus) // pack["ranks"])
    runs = [Run.load(fingerprint) for fingerprint in pack["runs"]]
    url = mongo_url()
    mirror = Mirror(url) if url else None
    with stoppable(), ExitStack() as locks:
        if mirror:
            mirror.start()
            locks.callback(mirror.close)
        for run in sorted(runs, key=lambda run: run.fingerprint):  # one order for all packs: no deadlock
            locks.enter_context(_locked(run))
        failures: Counter[str] = Counter()
        barren = 0
        while waiting := [run for run in runs if run.finished() is None]:
            replace_file(path, json.dumps(pack | {"runs": [run.fingerprint for run in waiting]}, indent=1).encode())
            started, reason = _launch(path, pack, {run.fingerprint: run for run in waiting}, failures, mirror)
            barren = 0 if started else barren + 1
            for run in waiting if barren == TRIES else ():
                save_record(run, run.record({"status": "failed", "reason": reason, "attempts": TRIES}, None))


def _launch(path: Path, pack: dict[str, Any], runs: dict[str, Run], failures: Counter[str], mirror: Mirror | None) -> tuple[int, str]:
    """One torchrun over the runs; returns how many started and why it ended."""
    for run in runs.values():
        if _outcome(run).get("status") == "failed":
            (run.work_dir / "outcome.json").unlink()
    torchrun = Torchrun(path, pack["ranks"], pack["worker"])
    started = 0
    try:
        for event in torchrun.events:
            started += 1
            run = runs[event["fingerprint"]]
            reason, sacred = record_run(run, event, torchrun, mirror)
            failures[run.fingerprint] += bool(reason)
            if not reason:
                save_record(run, run.record(_outcome(run), sacred))
            elif failures[run.fingerprint] == TRIES:
                save_record(run, run.record(_outcome(run) | {"status": "failed", "reason": reason, "attempts": TRIES}, sacred))
    finally:
        torchrun.stop()
    return started, torchrun.reason()


def record_run(run: Run, first: dict[str, Any], torchrun: Torchrun, mirror: Mirror | None) -> tuple[str, str]:
    """Follow one run's events to its end as one Sacred run; returns the reason of a failure, or "", and the record's name.

    `first` is the run's first event: its start, or its end if an earlier pack died between outcome and record.
    """
    experiment = Experiment(run.spec.stage, base_dir=str(Path(repro.__file__).parent.parent), save_git_info=False)
    observer = FileObserver(RECORDS / run.spec.profile, mirror.watch if mirror else lambda folder: None)
    experiment.observers.append(observer)
    experiment.add_config(_config(run))
    for file in sorted(Path(repro.__file__).parent.rglob("*.py")):
        experiment.add_source_file(str(file))
    versions = environment()
    for library in LIBRARIES:
        if library in versions:
            experiment.add_package_dependency(library, versions[library].split("+")[0])  # Sacred knows no local versions

    @experiment.main  # type: ignore[untyped-decorator]
    def follow(_run: Any) -> dict[str, Any]:
        points = Points(run.work_dir / "metrics.jsonl")
        for event in chain([first], torchrun.events):
            for point in points.due(event):
                for name, value in (point["values"] | {"epoch": point["epoch"]}).items():
                    _run.log_scalar(name, float(value), int(point["step"]))
            if event["event"] == "end":
                if event["status"] == "failed":
                    raise RunFailed(event["reason"])
                for name in ARTIFACTS:
                    _run.add_artifact(str(run.work_dir / name))
                if (model := run.work_dir / "model.safetensors").exists():
                    _run.info["model"] = {"path": (model_dir(run.spec) / model.name).as_posix(), "hash": content_hash(model)}
                return {"status": event["status"]} | {name: float(value) for name, value in event["result"].items()}
        raise RunFailed(torchrun.reason())

    commit, dirty = commit_state()
    resumed = _read(run.work_dir / "sacred.json").get("record")
    info = {"environment": versions, "commit": commit, "dirty": dirty, "start_step": first.get("step", 0), "resumes": resumed}
    try:
        experiment.run(info=info, meta_info={"record": uuid.uuid4().hex}, options={"--beat-interval": BEAT_SECONDS, "--loglevel": "ERROR"})
        reason = ""
    except RunFailed as error:
        reason = str(error)
    finally:
        record = f"{run.spec.profile}/{observer.folder.name}"
        replace_file(run.work_dir / "sacred.json", json.dumps({"record": record}).encode())
    return reason, record


class Points:
    """The metrics of a run over all its attempts, so that the record of a resumed run is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.earlier = [point for line in path.read_text().splitlines() if (point := parse(line))] if path.exists() else []

    def due(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Points to log for an event: itself if it has metrics; at the first such, or at the end, what earlier attempts left below it."""
        if event["event"] == "start":
            return []
        kept = [point for point in self.earlier if event["event"] == "end" or point["step"] < event["step"]]
        if self.earlier:
            replace_file(self.path, "".join(f"{EVENT}{json.dumps(point)}\n" for point in kept).encode())
            self.earlier = []
        if event["event"] == "metrics":
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"\n{EVENT}{json.dumps(event)}\n")  # begins a line even after a torn one
            kept.append(event)
        return kept


def _config(run: Run) -> dict[str, Any]:
    """The Sacred configuration: the resolved specification and what identifies the run."""
    spec = run.spec
    identity = {"cell": spec.cell, "run_id": spec.run_id, "learning_rate": spec.schedule.learning_rate,
                "fingerprint": run.fingerprint, "code": run.code, "inputs": run.inputs}  # fmt: skip
    return spec.model_dump(mode="json") | identity


def _outcome(run: Run) -> dict[str, Any]:
    """The worker's account of a run that it ended."""
    return _read(run.work_dir / "outcome.json")


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Hold the run's work folder; wait, and say so, while another process has it."""
    with (run.work_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{run.name}: another process works on it ({run.work_dir}); waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
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
                *lines, parts[is_error] = (parts[is_error] + (chunk or b"\n" * bool(parts[is_error]))).split(b"\n")
                for line in lines:
                    yield is_error, line.decode(errors="replace")
