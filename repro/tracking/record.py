"""One Sacred record a run: the worker's events become its points, output and end."""

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
from repro.tracking.observer import RECORDS, FileObserver

BEAT_SECONDS = 5.0
ARTIFACTS = ("spec.json", "rows.jsonl", "outcome.json")
EVALUATED = ("zero_shot_top1", "attack_success_rate")
ROOT = Path(repro.__file__).parent.parent

# This process prints the worker's lines itself, so the costly capture of descriptors is not needed.
SETTINGS.CAPTURE_MODE = "sys"
# Sources and versions are those of the worker, added below; this process never imports torch.
SETTINGS.DISCOVER_SOURCES = "none"
SETTINGS.DISCOVER_DEPENDENCIES = "none"
# py-cpuinfo takes a second a run; `environment` names the device.
SETTINGS.HOST_INFO.INCLUDE_CPU_INFO = False
SETTINGS.HOST_INFO.INCLUDE_GPU_INFO = False


class RunFailed(RuntimeError):
    """The run ended without a result; the message is the reason."""


class Recorder:
    """Turns the events of a worker into records, one a run."""

    def __init__(self, watch: Callable[[Path], None], runs: int) -> None:
        """`watch` is called with the folder of each record; `runs` is the number of runs, which
        share the cost of the start.
        """
        commit, dirty = commit_state()
        self.watch = watch
        self.environment = environment()
        self.about = {"environment": self.environment, "commit": commit, "dirty": dirty}
        self.seconds = time.process_time()
        self.start_seconds = self.seconds / runs

    def record(
        self,
        run: Run,
        first: Event,
        events: Iterable[Event],
        reason_of_end: Callable[[], str],
    ) -> tuple[str, str | None]:
        """Follow one run to its end.

        Returns the reason of a failure, or "", and the name of the record, `<profile>/<number>`, or
        None if it could not be written. `first` is the run's first event: its start, or its end if
        an earlier process died between outcome and record. `reason_of_end` says why the events
        ended before the run.
        """
        link, key = run.work_dir / "sacred.json", uuid.uuid4().hex
        earlier = dict(json.loads(link.read_bytes())) if link.exists() else {}

        def opened(folder: Path) -> None:
            content = {"record": f"{run.spec.profile}/{folder.name}", "key": key}
            replace_file(link, json.dumps(content).encode())
            self.watch(folder)

        experiment = self._experiment(run)
        inputs = [(item["path"], item["hash"]) for item in run.inputs.values()]
        observer = FileObserver(RECORDS / run.spec.profile, opened, inputs)
        experiment.observers.append(observer)

        # Sacred passes its run by this name.
        @experiment.main  # type: ignore[untyped-decorator]
        def follow(_run: Any) -> dict[str, Any]:
            try:
                return self._follow(run, _run, chain([first], events), reason_of_end)
            except RunFailed as error:
                _run.info["reason"] = str(error)
                raise

        # A resumed run names the record of its earlier attempt.
        info = self.about | {"resumes": earlier.get("record")}
        options = {"--beat-interval": BEAT_SECONDS, "--loglevel": "CRITICAL"}
        reason = ""
        try:
            experiment.run(info=info, meta_info={"record": key}, options=options)
        except RunFailed as error:
            reason = str(error)
        name = f"{run.spec.profile}/{Path(observer.dir).name}" if observer.dir else None
        return reason, name

    def _experiment(self, run: Run) -> Experiment:
        """Sacred's experiment, with configuration, sources and packages of the worker."""
        spec = run.spec
        name = f"{spec.stage} {spec.cell}/{spec.run_id}"
        experiment = Experiment(name, base_dir=str(ROOT), save_git_info=False)
        identity = {
            "cell": spec.cell,
            "run_id": spec.run_id,
            "learning_rate": spec.schedule.learning_rate,
            "fingerprint": run.fingerprint,
            "code": run.code,
            "inputs": run.inputs,
        }
        experiment.add_config(spec.model_dump(mode="json") | identity)
        for file in sorted((ROOT / "repro").rglob("*.py")):
            experiment.add_source_file(str(file))
        for library in LIBRARIES:
            if version := self.environment.get(library):
                # Sacred does not know local versions, such as +cpu.
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
        for event in events:
            for point in points.due(event):
                for name, value in {**point["values"], "epoch": point["epoch"]}.items():
                    sacred_run.log_scalar(name, float(value), int(point["step"]))
                values = [
                    f"{n} {point['values'][n]:.4f}" for n in EVALUATED if n in point["values"]
                ]
                if values:
                    say(f"step {point['step']}, epoch {point['epoch']:.2f}: {', '.join(values)}")

            if event["event"] == "end":
                if event["status"] == "failed":
                    raise RunFailed(event["reason"])
                for name in ARTIFACTS:
                    sacred_run.add_artifact(str(run.work_dir / name))
                model = run.work_dir / "model.safetensors"
                if model.exists():
                    path = (model_dir(run.spec) / model.name).as_posix()
                    sacred_run.info["model"] = {"path": path, "hash": content_hash(model)}
                before, self.seconds = self.seconds, time.process_time()
                sacred_run.info["tracking_seconds"] = self.start_seconds + self.seconds - before
                result = {name: float(value) for name, value in event["result"].items()}
                return {"status": event["status"], **result}

        raise RunFailed(reason_of_end())


class Points:
    """The metrics of a run over all its attempts, so that the record of a resumed run is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        events = [event for line in lines if (event := parse(line)) is not None]
        self.earlier = [event for event in events if event["event"] == "metrics"]

    def due(self, event: Event) -> list[MetricsEvent]:
        """Points to log for an event: itself if it has metrics.

        The first metrics, or the end, also bring the points of earlier attempts below them.
        """
        if event["event"] == "start":
            return []
        points = self.earlier
        if event["event"] == "metrics":
            points = [point for point in self.earlier if point["step"] < event["step"]]
            points.append(event)

        # Each point begins a line, even after a torn one.
        text = "".join(f"\n{EVENT}{json.dumps(point)}\n" for point in points)
        try:
            if self.earlier:
                replace_file(self.path, text.encode())
            else:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(text)
        except OSError as error:
            message = f"tracking: {self.path} not written: {error.strerror}"
            say(f"{message}; a resumed run will lack these points", sys.stderr)
        self.earlier = []
        return points


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line; a full disk under the log does not end the training."""
    with contextlib.suppress(OSError):
        print(line, file=stream, flush=True)
