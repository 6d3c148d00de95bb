"""runs.html: every Sacred file record of a profile as one static page, for readers without server or Node.

Shows what a run browser shows: a table of runs, and of each run its configuration, charts of its metrics and the end
of its captured output. Host names and folders of the machine are left out.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

TAIL = 4000
"""Characters of captured output that the page keeps, from its end."""
CHARTS = ("zero_shot_top1", "attack_success_rate", "loss", "learning_rate")
"""Metrics drawn, where a run has them."""
BOX = (220, 90)
"""Width and height of a chart, pixels."""


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Records of `sacred/<profile>` in numeric order; a record that cannot be read is listed with the reason."""
    records = []
    for path in sorted(
        (p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name)
    ):
        try:
            run, config = (
                json.loads((path / f"{name}.json").read_bytes()) for name in ("run", "config")
            )
            metrics = (
                json.loads((path / "metrics.json").read_bytes())
                if (path / "metrics.json").exists()
                else {}
            )
            output = (
                (path / "cout.txt").read_text(encoding="utf-8", errors="replace")
                if (path / "cout.txt").exists()
                else ""
            )
            record = _record(path.name, run, config, metrics, output)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            record = {"id": path.name, "problem": f"{type(error).__name__}: {error}"}
        records.append(record)
    return records


def chart(name: str, steps: list[float], values: list[float]) -> dict[str, Any]:
    """A line over steps as the `points` of an SVG polyline, with its range; points that are not finite are left out."""
    pairs = [
        (s, v)
        for s, v in zip(steps, values, strict=False)
        if isinstance(v, (int, float)) and math.isfinite(v)
    ]
    if not pairs:
        return {"name": name, "points": "", "low": None, "high": None, "last": None}
    low, high = min(v for _, v in pairs), max(v for _, v in pairs)
    first, last = pairs[0][0], pairs[-1][0]
    width, height = BOX
    points = " ".join(
        f"{width * (s - first) / ((last - first) or 1):.1f},{height - 4 - (height - 8) * (v - low) / ((high - low) or 1):.1f}"
        for s, v in pairs
    )
    return {"name": name, "points": points, "low": low, "high": high, "last": pairs[-1][1]}


def _record(
    number: str, run: dict[str, Any], config: dict[str, Any], metrics: dict[str, Any], output: str
) -> dict[str, Any]:
    config = {key: value for key, value in config.items() if key != "__doc__"}
    charts = [
        chart(name, metrics[name]["steps"], metrics[name]["values"])
        for name in CHARTS
        if name in metrics
    ]
    schedule = config.get("schedule", {})
    last = {c["name"]: c["last"] for c in charts}
    shown = {
        "dataset": config.get("dataset"),
        "objective": config.get("pretrain_objective"),
        "size": config.get("clean_size"),
        "loss": config.get("loss"),
        "start": run.get("start_time"),
        "stop": run.get("stop_time"),
        "status": run["status"],
        "experiment": run["experiment"]["name"],
    }
    for name, value in shown.items():
        if not isinstance(value, str | None):
            raise TypeError(f"{name}: {value!r} (allowed: text)")
    for name, value in {
        "learning rate": schedule.get("learning_rate"),
        "seed": config.get("seed"),
    }.items():
        if not isinstance(value, int | float | None):
            raise TypeError(f"{name}: {value!r} (allowed: a number)")
    return {
        "id": number,
        "problem": "",
        "experiment": run["experiment"]["name"],
        "status": run["status"],
        "start": run.get("start_time") or "",
        "stop": run.get("stop_time") or "",
        "result": run.get("result"),
        "dataset": config.get("dataset"),
        "objective": config.get("pretrain_objective"),
        "size": config.get("clean_size"),
        "loss": config.get("loss"),
        "rate": schedule.get("learning_rate"),
        "seed": config.get("seed"),
        "accuracy": last.get("zero_shot_top1"),
        "asr": last.get("attack_success_rate"),
        "charts": charts,
        "config": json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False),
        "output": output[-TAIL:],
        "cut": len(output) > TAIL,
        "failure": "\n".join(run.get("fail_trace") or []),
    }
