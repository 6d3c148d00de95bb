"""One Sacred record a run: the worker's events become its points, output and end."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from sacred import SETTINGS, Experiment

import repro
from repro.events import Event, say
from repro.files import read_json, replace_json
from repro.ledger import Row, pending_rows
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

    def __init__(self, changed: Callable[[Path], None]) -> None:
        """`changed` is called with the folder of a record at its start, evaluations and end."""
        commit, dirty = commit_state()
        self.changed = changed
        self.environment = environment()
        self.about = {"environment": self.environment, "commit": commit, "dirty": dirty}

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
        link = run.work_dir / "sacred.json"
        # The record of the attempt before this one, and the last record that has points.
        earlier = read_json(link) or {}
        inputs = [(item["path"], item["hash"]) for item in run.inputs.values()]
        observer = FileObserver(RECORDS / run.spec.profile, inputs)
        experiment = self._experiment(run)
        experiment.observers.append(observer)

        def name() -> str | None:
            return f"{run.spec.profile}/{Path(observer.dir).name}" if observer.dir else None

        def update() -> None:
            if observer.dir:
                self.changed(Path(observer.dir))

        # Sacred passes its run by this name.
        @experiment.main  # type: ignore[untyped-decorator]
        def follow(_run: Any) -> dict[str, Any]:
            update()
            replace_json(link, earlier | {"record": name()})
            whole = False
            for event in chain([first], events):
                if event["event"] == "start":
                    continue
                if not whole:
                    _repeat(_run, earlier.get("points"), event.get("step", math.inf))
                    replace_json(link, {"record": name(), "points": name()})
                    whole = True
                if event["event"] == "end":
                    return _result(run, _run, event)
                _log(_run, event)
                if EVALUATED[0] in event["values"]:
                    update()
            _run.info["reason"] = reason_of_end()
            raise RunFailed(_run.info["reason"])

        # A resumed run names the record of its earlier attempt.
        info = self.about | {"resumes": earlier.get("record")}
        options = {"--beat-interval": BEAT_SECONDS, "--loglevel": "CRITICAL"}
        reason = ""
        try:
            experiment.run(info=info, meta_info={"record": uuid.uuid4().hex}, options=options)
        except RunFailed as error:
            reason = str(error)
        finally:
            update()
        return reason, name()

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


def _log(sacred_run: Any, event: Event) -> None:
    """Log the numbers of a step; those of an evaluation are printed too."""
    for name, value in {**event["values"], "epoch": event["epoch"]}.items():
        sacred_run.log_scalar(name, float(value), int(event["step"]))
    values = [
        f"{name} {event['values'][name]:.4f}" for name in EVALUATED if name in event["values"]
    ]
    if values:
        say(f"step {event['step']}, epoch {event['epoch']:.2f}: {', '.join(values)}")


def _repeat(sacred_run: Any, earlier: str | None, before: float) -> None:
    """Log the points of an earlier attempt before a step, so that the record of a resumed run is
    whole.
    """
    metrics = read_json(RECORDS / str(earlier) / "metrics.json") or {}
    for name, series in metrics.items():
        for step, value in zip(series["steps"], series["values"], strict=True):
            if step < before:
                sacred_run.log_scalar(name, value, step)


def _result(run: Run, sacred_run: Any, event: Event) -> dict[str, Any]:
    """Sacred's result of a run that has ended, with its files."""
    for name in ARTIFACTS:
        sacred_run.add_artifact(str(run.work_dir / name))
    model = run.work_dir / "model.safetensors"
    if model.exists():
        path = (model_dir(run.spec) / model.name).as_posix()
        sacred_run.info["model"] = {"path": path, "hash": content_hash(model)}
    row = Row.model_validate(pending_rows(run.work_dir)[-1]["row"])
    shares = (row.accuracy, row.asr(run.spec.switches.asr_denominator))
    final = dict(zip(EVALUATED, shares, strict=True))
    return {"status": event["status"], **final, **event["result"]}
