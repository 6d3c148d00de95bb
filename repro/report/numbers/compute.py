"""Forecast against measured: did the study take the time that its specifications and its first runs promise?

The work of every run is known beforehand (`repro.cost`). The first run of each kind, stage and loss, gives the rate; the
time of all others is forecast from these and compared with what they took.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from repro.plan.work import Rates, Work
from repro.report.numbers.evaluations import Evidence, FinishedRun


def forecast(study: Evidence) -> dict[str, Any]:
    """`rows`, one a stage and model and one for each stage, with device-seconds forecast and measured; `calibrated_on`: folders of the
    runs that gave the rates, which the rows leave out. No rows where nothing is left to compare.
    """
    planned = {(work.spec.stage, work.spec.cell, work.spec.run_id): work for work in study.planned}
    runs = [
        (planned[spec.stage, spec.cell, spec.run_id], run)
        for run in study.runs
        if (spec := run.record.spec) and run.record.status == "completed" and run.record.seconds > 0
    ]
    first: dict[str, tuple[Work, FinishedRun]] = {}
    for work, run in sorted(runs, key=lambda pair: (pair[1].record.started, pair[1].folder)):
        first.setdefault(work.kind, (work, run))
    calibrating = {run.folder for _, run in first.values()}
    groups: dict[tuple[str, str | None], list[tuple[Work, FinishedRun]]] = defaultdict(list)
    for work, run in runs:
        if run.folder not in calibrating:
            groups[work.spec.stage, work.spec.cell].append((work, run))
            groups[work.spec.stage, None].append((work, run))
    rates = rates_of(list(first.values())) if groups else None
    return {
        "calibrated_on": sorted(calibrating),
        "rows": [
            _row(stage, cell, groups[stage, cell], rates)
            for stage, cell in sorted(groups, key=_order)
            if rates is not None
        ],
    }


def rates_of(runs: Sequence[tuple[Work, FinishedRun]]) -> Rates:
    """Rates that runs of different kinds reached: each kind's training time, and the mean evaluation of all."""
    evaluating = sum(run.record.evaluate_seconds * _devices(run) for _, run in runs)
    return Rates(
        pair_view={
            work.kind: (run.record.seconds - run.record.evaluate_seconds)
            * _devices(run)
            / work.pair_views
            for work, run in runs
        },
        evaluation=evaluating / sum(work.evaluations for work, _ in runs),
        start=0.0,
    )


def _devices(run: FinishedRun) -> int:
    """Threads of all ranks: on cores they are the devices, and on GPUs as many belong to each."""
    return run.record.ranks * run.record.threads


def _row(
    stage: str, cell: str | None, runs: list[tuple[Work, FinishedRun]], rates: Rates
) -> dict[str, Any]:
    expected = sum(rates.seconds(work) for work, _ in runs)
    took = sum(run.record.seconds * _devices(run) for _, run in runs)
    return {
        "stage": stage,
        "cell": cell,
        "runs": len(runs),
        "forecast_seconds": expected,
        "seconds": took,
        "ratio": expected / took,
    }


def _order(group: tuple[str, str | None]) -> tuple[bool, bool, str]:
    """Pre-training first, the models of a stage before their sum."""
    stage, cell = group
    return stage == "clean", cell is None, cell or ""
