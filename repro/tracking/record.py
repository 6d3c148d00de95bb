"""One Sacred record a run: the worker's events become its points, output and end."""

import math
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from sacred import SETTINGS, Experiment

import repro
from repro.events import Event, say
from repro.files import read_json, replace_json
from repro.runs.machine import commit_state, environment
from repro.runs.run import Run
from repro.tracking.observer import RECORDS, FileObserver, Points, points_of

BEAT_SECONDS = 5.0
ARTIFACTS = ("spec.json", "rows.jsonl", "outcome.json")
EVALUATED = ("zero_shot_top1", "attack_success_rate")
ROOT = Path(repro.__file__).parent.parent

# This process prints the worker's lines itself, so the costly capture of descriptors is not needed.
SETTINGS.CAPTURE_MODE = "sys"
# Sources are those of the worker, added below, and versions in `info`: torch is not loaded here.
SETTINGS.DISCOVER_SOURCES = "none"
SETTINGS.DISCOVER_DEPENDENCIES = "none"
# py-cpuinfo takes a second a run; `environment` names the device.
SETTINGS.HOST_INFO.INCLUDE_CPU_INFO = False
SETTINGS.HOST_INFO.INCLUDE_GPU_INFO = False


class RunFailed(RuntimeError):
    """The run ended without a result; the message is the reason."""


class Recorder:
    """Turns the events of a worker into records, one a run."""

    def __init__(self) -> None:
        commit, dirty = commit_state()
        self.about = {"environment": environment(), "commit": commit, "dirty": dirty}

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
        observer = FileObserver(RECORDS / run.spec.profile)
        experiment = _experiment(run)
        experiment.observers.append(observer)

        def name() -> str | None:
            return f"{run.spec.profile}/{Path(observer.dir).name}" if observer.dir else None

        reason = ""

        # Sacred passes its run by this name.
        @experiment.main  # type: ignore[untyped-decorator]
        def follow(_run: Any) -> dict[str, Any]:
            nonlocal reason
            replace_json(link, earlier | {"record": name()})
            final: dict[str, float] = {}
            whole = False
            for event in chain([first], events):
                if event["event"] == "start":
                    continue
                if not whole:
                    _repeat(_run, earlier.get("points"), event.get("step", math.inf))
                    replace_json(link, {"record": name(), "points": name()})
                    whole = True
                if event["event"] == "end":
                    for artifact in ARTIFACTS:
                        _run.add_artifact(str(run.work_dir / artifact))
                    return {"status": event["status"], **final, **event["result"]}

                values = event["values"] | {"epoch": event["epoch"]}
                step = int(event["step"])
                for metric, value in values.items():
                    _run.log_scalar(metric, float(value), step)
                if EVALUATED[0] in event["values"]:
                    final = {metric: event["values"][metric] for metric in EVALUATED}
                    said = ", ".join(f"{metric} {value:.4f}" for metric, value in final.items())
                    say(f"step {event['step']}, epoch {event['epoch']:.2f}: {said}")
            reason = _run.info["reason"] = reason_of_end()
            raise RunFailed(reason)

        # A resumed run names the record of its earlier attempt.
        info = self.about | {"resumes": earlier.get("record")}
        options = {"--beat-interval": BEAT_SECONDS, "--loglevel": "CRITICAL"}
        with suppress(RunFailed):
            experiment.run(info=info, meta_info={"record": uuid.uuid4().hex}, options=options)
        return reason, name()


def _experiment(run: Run) -> Experiment:
    """Sacred's experiment, with configuration and sources of the worker."""
    spec = run.spec
    name = f"{spec.stage} {spec.model_name}/{spec.run_id}"
    experiment = Experiment(name, base_dir=str(ROOT), save_git_info=False)
    identity = {
        "learning_rate": spec.schedule.learning_rate,
        "fingerprint": run.fingerprint,
        "code": run.code,
        "inputs": run.inputs,
    }
    experiment.add_config(spec.model_dump(mode="json") | identity)
    for file in sorted((ROOT / "repro").rglob("*.py")):
        experiment.add_source_file(str(file))
    return experiment


def _repeat(sacred_run: Any, earlier: str | None, before: float) -> None:
    """Log the points of an earlier attempt: the record of a resumed run is whole."""
    points: Points = {}
    # A damaged record of an earlier attempt costs this one no more than its points.
    with suppress(OSError, ValueError, KeyError, TypeError):
        points = points_of(RECORDS / str(earlier))
    for name, series in points.items():
        for step, value in zip(series["steps"], series["values"], strict=True):
            if step < before:
                sacred_run.log_scalar(name, value, step)
