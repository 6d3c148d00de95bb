"""Sacred's file records, read for runs.html: for readers without server or Node.

The page shows what a run browser shows: a table of runs, and of each run its configuration, charts
of its metrics and the end of its captured output. Host names and folders of the machine are left
out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

TAIL = 4000
"""Characters of captured output that the page keeps, from its end."""
ACCURACY, ASR = "zero_shot_top1", "attack_success_rate"
CHARTS = (ACCURACY, ASR, "loss", "learning_rate")
"""Metrics drawn, where a run has them."""
WIDTH, HEIGHT = 220, 90
"""Of a chart, pixels."""
MARGIN = 4
"""Pixels above and below a chart's line."""
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What a damaged record raises."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A metric over steps as a line in a box of WIDTH x HEIGHT pixels."""

    name: str
    points: list[tuple[float, float]]
    """Pixels; empty if no value is finite, and then the range is None."""
    low: float | None = None
    high: float | None = None
    last: float | None = None
    begin: str = ""
    """Where the line begins and ends: the epoch, or the step of a run that names no epochs."""
    end: str = ""


@dataclass(frozen=True, slots=True)
class SacredRun:
    """A Sacred record as the page shows it; one with a `problem` has nothing else."""

    id: str
    problem: str = ""
    fingerprint: str | None = None
    """Of the run that the record is of."""
    experiment: str = ""
    name: str = ""
    """As the report prints the run: its cell and its id."""
    status: str = ""
    start: str = ""
    seconds: float | None = None
    """From its start to its end, or to the last sign of life of one that has none."""
    dataset: str | None = None
    objective: str | None = None
    size: str | None = None
    loss: str | None = None
    rate: float | None = None
    seed: int | None = None
    accuracy: float | None = None
    asr: float | None = None
    best: float | None = None
    """Highest accuracy of an evaluation whose ASR is at most the cap."""
    cap: float | None = None
    """The ASR at which this run's models count as cleaned."""
    charts: list[Chart] = field(default_factory=list)
    config: str = ""
    """JSON."""
    output: str = ""
    """The end of what the run printed."""
    is_cut: bool = False
    failure: str = ""


def read_records(folder: Path) -> list[SacredRun]:
    """Records of `sacred/<profile>` in numeric order.

    One that cannot be read is listed with the reason.
    """
    # Sacred names records by number, and keeps folders of its own beside them.
    numbered = [path for path in folder.glob("*") if path.name.isdigit()]
    records = []
    for path in sorted(numbered, key=lambda path: int(path.name)):
        try:
            record = _read(path)
        # One damaged record costs its own line only.
        except UNREADABLE as error:
            record = SacredRun(path.name, problem=f"{type(error).__name__}: {error}")
        records.append(record)
    return records


def chart(
    name: str,
    steps: Sequence[float],
    values: Sequence[float],
    epochs: Mapping[float, float] | None = None,
) -> Chart:
    """A metric as a line; values that are not finite are left out.

    `epochs` has the epoch of a step, for those that have one.
    """
    # A diverged loss is NaN or infinite, and has no place on a line.
    pairs = _finite(steps, values)
    if not pairs:
        return Chart(name, [])

    shown = [value for _, value in pairs]
    low, high = min(shown), max(shown)

    # A single step, or a metric that stays the same, has no extent to divide by.
    first, last = pairs[0][0], pairs[-1][0]
    width, height = (last - first) or 1, (high - low) or 1
    inside = HEIGHT - 2 * MARGIN

    # SVG's y runs downwards.
    points = [
        (WIDTH * (step - first) / width, HEIGHT - MARGIN - inside * (value - low) / height)
        for step, value in pairs
    ]

    def place(step: float) -> str:
        epoch = (epochs or {}).get(step)
        return f"step {step:g}" if epoch is None else f"epoch {epoch:.3g}"

    return Chart(name, points, low, high, shown[-1], place(first), place(last))


def _read(path: Path) -> SacredRun:
    """One record; raises one of UNREADABLE if it is damaged."""
    run = json.loads((path / "run.json").read_bytes())
    config = json.loads((path / "config.json").read_bytes())

    # A run that failed early has neither metrics nor output, and is shown all the same.
    metrics_path, output_path = path / "metrics.json", path / "cout.txt"
    metrics = json.loads(metrics_path.read_bytes()) if metrics_path.exists() else {}
    output = ""
    if output_path.exists():
        output = output_path.read_text(encoding="utf-8", errors="replace")

    # A docstring is no setting.
    config = {key: value for key, value in config.items() if key != "__doc__"}
    epochs = _by_step(metrics, "epoch")
    charts = [
        chart(name, metrics[name]["steps"], metrics[name]["values"], epochs)
        for name in CHARTS
        if name in metrics
    ]

    # The table's accuracy and ASR are those of the last evaluation.
    last = {drawn.name: drawn.last for drawn in charts}
    texts = _texts(run, config)
    numbers = _numbers(config)

    return SacredRun(
        id=path.name,
        fingerprint=texts["fingerprint"],
        experiment=texts["experiment"] or "",
        name=f"{texts['cell']}/{texts['run']}" if texts["cell"] and texts["run"] else "",
        status=texts["status"] or "",
        start=texts["start"] or "",
        seconds=_seconds(texts["start"], texts["stop"] or texts["heartbeat"]),
        dataset=texts["dataset"],
        objective=texts["objective"],
        size=texts["size"],
        loss=texts["loss"],
        rate=numbers["learning rate"],
        seed=numbers["seed"],
        accuracy=last.get(ACCURACY),
        asr=last.get(ASR),
        # A model that is not yet poisoned is no cleaned one, so pre-training has no best.
        best=_best(metrics, numbers["cap"]) if texts["size"] else None,
        cap=numbers["cap"],
        charts=charts,
        config=json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False),
        # The end tells how a run ended; the whole may be megabytes.
        output=output[-TAIL:],
        is_cut=len(output) > TAIL,
        failure="\n".join(run.get("fail_trace") or []),
    )


def _by_step(metrics: Mapping[str, Any], name: str) -> dict[float, float]:
    """Finite values of a metric by step; nothing where the run has no such metric."""
    series = metrics.get(name, {"steps": [], "values": []})
    return dict(_finite(series["steps"], series["values"]))


def _finite(steps: Sequence[float], values: Sequence[Any]) -> list[tuple[float, float]]:
    """Steps and values of a metric where the value is a finite number."""
    return [
        (step, value)
        for step, value in zip(steps, values, strict=False)
        if isinstance(value, (int, float)) and math.isfinite(value)
    ]


def _best(metrics: Mapping[str, Any], cap: float | None) -> float | None:
    """Highest accuracy at an ASR of at most the cap; None if no evaluation came down to it."""
    accuracy, asr = _by_step(metrics, ACCURACY), _by_step(metrics, ASR)
    reached = [
        accuracy[step]
        for step, value in asr.items()
        if cap is not None and step in accuracy and value <= cap
    ]
    return max(reached, default=None)


def _seconds(start: str | None, end: str | None) -> float | None:
    """Between two times as Sacred writes them."""
    if not start or not end:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _texts(run: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str | None]:
    """The fields of a record that are text; TypeError for one that is not."""
    # A damaged record may hold anything. What is no text here would break the template later, and
    # without saying which record it was.
    shown = {
        "fingerprint": config.get("fingerprint"),
        "dataset": config.get("dataset"),
        "objective": config.get("pretrain_objective"),
        "size": config.get("clean_size"),
        "loss": config.get("loss"),
        "cell": config.get("cell"),
        "run": config.get("run_id"),
        "heartbeat": run.get("heartbeat"),
        "start": run.get("start_time"),
        "stop": run.get("stop_time"),
        "status": run["status"],
        "experiment": run["experiment"]["name"],
    }
    for name, value in shown.items():
        if not isinstance(value, str | None):
            raise TypeError(f"{name}: {value!r} (allowed: text)")
    return shown


def _numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that are numbers; TypeError for one that is not."""
    # As for texts: a number is formatted, which anything else would break.
    shown = {
        "learning rate": config.get("schedule", {}).get("learning_rate"),
        "seed": config.get("seed"),
        "cap": config.get("evaluate", {}).get("asr_cap"),
    }
    for name, value in shown.items():
        if not isinstance(value, int | float | None):
            raise TypeError(f"{name}: {value!r} (allowed: a number)")
    return shown
