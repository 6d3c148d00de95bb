"""One run as one Sacred record: the worker's events become its points, output and end."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from sacred import SETTINGS, Experiment

import repro
from repro.events import EVENT, Event, MetricsEvent, parse
from repro.files import replace_file
from repro.runs.layout import content_hash, model_dir
from repro.runs.machine import LIBRARIES, commit_state, environment
from repro.runs.run import Run
from repro.tracking import STARTED
from repro.tracking.figure import curves
from repro.tracking.observer import RECORDS, FileObserver

BEAT_SECONDS = 5.0
ARTIFACTS = ("spec.json", "rows.jsonl", "outcome.json", "curves.svg")
EVALUATED = ("zero_shot_top1", "attack_success_rate")
ROOT = Path(repro.__file__).parent.parent

# The pack itself prints the worker's lines, so the costly capture of descriptors is not needed.
SETTINGS.CAPTURE_MODE = "sys"
# Sources and versions are the worker's, added by hand; the pack never imports torch.
SETTINGS.DISCOVER_SOURCES = "none"
SETTINGS.DISCOVER_DEPENDENCIES = "none"
# A second of py-cpuinfo per run; `environment` names the device.
SETTINGS.HOST_INFO.INCLUDE_CPU_INFO = False
SETTINGS.HOST_INFO.INCLUDE_GPU_INFO = False


class RunFailed(RuntimeError):
    """The run ended without a result; the message is the reason."""


class Recorder:
    """Turns the events of one pack's worker into records, one per run."""

    def __init__(self, watch: Callable[[Path], None], runs: int) -> None:
        """`watch` is called with the folder of every record once it is there; `runs` share what the
        start of tracking took.
        """
        commit, dirty = commit_state()
        self.watch = watch
        self.environment = environment()
        self.about: dict[str, Any] = {
            "environment": self.environment,
            "commit": commit,
            "dirty": dirty,
        }
        self.spent = time.process_time()
        self.share = (self.spent - STARTED) / runs

    def record(
        self,
        run: Run,
        first: Event,
        events: Iterable[Event],
        reason_of_end: Callable[[], str],
    ) -> tuple[str, str | None]:
        """Follow one run to its end; returns the reason of a failure, or "", and the record's name,
        `<profile>/<number>`.

        `first` is the run's first event: its start, or its end if an earlier pack died between
        outcome and record.
        `reason_of_end` tells why the events ended without an end of the run.
        """
        link, key = run.work_dir / "sacred.json", uuid.uuid4().hex
        resumed = _read(link)

        def opened(folder: Path) -> None:
            content = {"record": f"{run.spec.profile}/{folder.name}", "key": key}
            replace_file(link, json.dumps(content).encode())
            self.watch(folder)

        experiment = self._experiment(run)
        inputs = tuple((item["path"], item["hash"]) for item in run.inputs.values())
        observer = FileObserver(RECORDS / run.spec.profile, opened, inputs)
        experiment.observers.append(observer)

        # Sacred hands its run over by this name.
        @experiment.main  # type: ignore[untyped-decorator]
        def follow(_run: Any) -> dict[str, Any]:
            return self._follow(run, _run, chain([first], events), reason_of_end)

        # A run that goes on names the record that it goes on from.
        info = self.about | {"resumes": resumed.get("record")}
        meta = {"record": key}
        if "key" in resumed:
            meta["resumes"] = resumed["key"]
        options = {"--beat-interval": BEAT_SECONDS, "--loglevel": "ERROR"}
        try:
            experiment.run(info=info, meta_info=meta, options=options)
            reason = ""
        except RunFailed as error:
            reason = str(error)

        name = f"{run.spec.profile}/{observer.folder.name}" if observer.folder else None
        return reason, name

    def _experiment(self, run: Run) -> Experiment:
        """Sacred's experiment of the run's stage, with the sources and packages of the worker."""
        experiment = Experiment(run.spec.stage, base_dir=str(ROOT), save_git_info=False)
        experiment.add_config(_config(run))
        for file in sorted((ROOT / "repro").rglob("*.py")):
            experiment.add_source_file(str(file))

        for library in LIBRARIES:
            version = self.environment.get(library)
            if version:
                # Sacred knows no local versions, such as +cpu.
                experiment.add_package_dependency(library, version.split("+")[0])
        return experiment

    def _follow(
        self,
        run: Run,
        sacred_run: Any,
        events: Iterable[Event],
        reason_of_end: Callable[[], str],
    ) -> dict[str, Any]:
        """Log the events of a run; returns Sacred's result. RunFailed where it has none."""
        points = Points(run.work_dir / "metrics.jsonl")
        evaluations: dict[str, list[tuple[float, float]]] = {name: [] for name in EVALUATED}

        for event in events:
            for point in points.due(event):
                _log(sacred_run, point)
                _show(point, evaluations)

            if event["event"] == "end":
                if event["status"] == "failed":
                    raise RunFailed(event["reason"])
                self._keep(run, sacred_run, evaluations)
                result = {name: float(value) for name, value in event["result"].items()}
                return {"status": event["status"], **result}

        raise RunFailed(reason_of_end())

    def _keep(
        self, run: Run, sacred_run: Any, evaluations: dict[str, list[tuple[float, float]]]
    ) -> None:
        """Artifacts, the model's hash, and what tracking cost."""
        # A full disk: the missing figure will be named among the artifacts that are lost.
        with contextlib.suppress(OSError):
            figure = run.work_dir / "curves.svg"
            figure.write_text(curves(evaluations), encoding="utf-8")
        for name in ARTIFACTS:
            sacred_run.add_artifact(str(run.work_dir / name))

        model = run.work_dir / "model.safetensors"
        if model.exists():
            path = (model_dir(run.spec) / model.name).as_posix()
            sacred_run.info["model"] = {"path": path, "hash": content_hash(model)}
        sacred_run.info["tracking_seconds"] = self._lap()

    def _lap(self) -> float:
        """What tracking cost one run: the processor seconds of this process since the last call,
        and a share of its start.
        """
        before, self.spent = self.spent, time.process_time()
        return self.share + self.spent - before


def _log(sacred_run: Any, point: MetricsEvent) -> None:
    """Hand a point's values, its epoch among them, to Sacred."""
    for name, value in {**point["values"], "epoch": point["epoch"]}.items():
        sacred_run.log_scalar(name, float(value), int(point["step"]))


def _show(point: MetricsEvent, evaluations: dict[str, list[tuple[float, float]]]) -> None:
    """Print an evaluation and add it to those of the figure."""
    shown = {name: float(point["values"][name]) for name in EVALUATED if name in point["values"]}
    if not shown:
        return
    for name, value in shown.items():
        evaluations[name].append((point["epoch"], value))
    values = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
    say(f"step {point['step']}, epoch {point['epoch']:.2f}: {values}")


class Points:
    """The metrics of a run over all its attempts, so that the record of a resumed run is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.earlier: list[MetricsEvent] = []
        lines = path.read_text().splitlines() if path.exists() else []
        for event in map(parse, lines):
            if event is not None and event["event"] == "metrics":
                self.earlier.append(event)

    def due(self, event: Event) -> list[MetricsEvent]:
        """Points to log for an event: itself if it has metrics.

        At the first such, or at the end, also what earlier attempts left below it.
        """
        if event["event"] == "start":
            return []

        kept = self.earlier
        if event["event"] == "metrics":
            kept = [point for point in self.earlier if point["step"] < event["step"]]
            kept.append(event)
        try:
            self._save(kept, anew=bool(self.earlier))
        except OSError as error:
            message = f"tracking: {self.path} not written: {error.strerror}"
            say(f"{message}; these points are in this record alone", sys.stderr)

        self.earlier = []
        return kept

    def _save(self, points: list[MetricsEvent], anew: bool) -> None:
        # Each begins a line even after a torn one.
        lines = "".join(f"\n{EVENT}{json.dumps(point)}\n" for point in points)
        if anew:
            replace_file(self.path, lines.encode())
        elif lines:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(lines)


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line, unless the disk that takes it is full: training goes on without."""
    with contextlib.suppress(OSError):
        print(line, file=stream, flush=True)


def _config(run: Run) -> dict[str, Any]:
    """The Sacred configuration: the resolved specification and what identifies the run."""
    spec = run.spec
    identity = {
        "cell": spec.cell,
        "run_id": spec.run_id,
        "learning_rate": spec.schedule.learning_rate,
        "fingerprint": run.fingerprint,
        "code": run.code,
        "inputs": run.inputs,
    }
    return spec.model_dump(mode="json") | identity


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.exists() else {}
