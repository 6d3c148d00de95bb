"""What the runs cost, and whether that is what was forecast.

The work of every run is known beforehand (`repro.plan.work`). The first run of each kind, stage and
loss, gives the rate; the time of all others is forecast from these and compared with what they
took.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from repro.plan.rates import Rates
from repro.plan.work import Work
from repro.report.numbers.evaluations import FinishedRun
from repro.report.numbers.evidence import Evidence, RunKey
from repro.report.schema.provenance import ArchivedCompute, ComputeRow, ForecastRow, ForecastTable

Stage = Literal["pretrain", "clean"]


class Group(NamedTuple):
    """A stage and model, or a whole stage."""

    stage: Stage
    cell: str | None


class Measured(NamedTuple):
    """What a run had to do, and how it went."""

    work: Work
    run: FinishedRun


def compute_rows(runs: Sequence[FinishedRun]) -> list[ComputeRow]:
    """Cost of every stage and model: runs, hours, samples, peak memory, waiting for data."""
    groups: dict[tuple[Stage, str], list[FinishedRun]] = defaultdict(list)
    for run in runs:
        groups[run.record.spec.stage, run.record.spec.cell].append(run)

    # In descending order pre-training comes before cleaning.
    return [
        _cost_row(stage, cell, group)
        for (stage, cell), group in sorted(groups.items(), reverse=True)
    ]


def _cost_row(stage: Stage, cell: str, runs: list[FinishedRun]) -> ComputeRow:
    records = [run.record for run in runs]
    return {
        "stage": stage,
        "cell": cell,
        "runs": len(records),
        # Wall time in seconds, start-up excluded; evaluation and waiting are parts of it.
        "seconds": sum(record.seconds for record in records),
        "train_seconds": sum(record.train_seconds for record in records),
        "evaluate_seconds": sum(record.evaluate_seconds for record in records),
        "data_wait_seconds": sum(record.data_wait_seconds for record in records),
        "samples": sum(record.num_samples for record in records),
        # Memory does not add up over runs: the hungriest one counts.
        "peak_memory_bytes": max(record.peak_memory_bytes for record in records),
        "attempts": sum(record.attempts for record in records),
    }


def archived_compute(
    own: Sequence[FinishedRun], archived: Sequence[FinishedRun]
) -> ArchivedCompute:
    """What the studies' runs cost beside the profile's own."""
    # Studies share the trainings of equal fingerprints, and a start tells two trainings of one
    # fingerprint apart.
    trainings = {_training(run): run for run in archived}
    for run in own:
        trainings.pop(_training(run), None)
    seconds = sum(run.record.seconds for run in trainings.values())
    return {"runs": len(trainings), "seconds": seconds}


def _training(run: FinishedRun) -> tuple[str, str]:
    return run.record.fingerprint, run.record.started


def forecast(evidence: Evidence) -> ForecastTable:
    """Device-seconds forecast and measured, a row for each stage and model and for each stage.

    The runs that gave the rates are left out of the rows; there are none where nothing is left to
    compare.
    """
    # The earliest run of each kind gives its rate, as if the others were still to come.
    measured = _measured(evidence)
    first: dict[str, Measured] = {}
    for item in sorted(measured, key=lambda item: (item.run.record.started, item.run.folder)):
        first.setdefault(item.work.kind, item)

    # A run that gave a rate agrees with it almost by construction: it cannot test the forecast.
    calibrating = {item.run.folder for item in first.values()}

    groups: dict[Group, list[Measured]] = defaultdict(list)
    for item in measured:
        if item.run.folder not in calibrating:
            spec = item.work.spec
            groups[Group(spec.stage, spec.cell)].append(item)
            # Once more in the sum of its stage.
            groups[Group(spec.stage, None)].append(item)

    # Rates of no run at all would be divided by nothing.
    rows: list[ForecastRow] = []
    if groups:
        rates = rates_of(list(first.values()))
        rows = [_row(group, groups[group], rates) for group in sorted(groups, key=_order)]
    return {"calibrated_on": sorted(calibrating), "rows": rows}


def rates_of(measured: Sequence[Measured]) -> Rates:
    """Rates that runs of different kinds reached: each kind's training time, the mean evaluation of
    all.
    """
    # Device-seconds a pair-view: all time but evaluation, so waiting and checkpoints as well.
    pair_view = {}
    for work, run in measured:
        training = run.record.seconds - run.record.evaluate_seconds
        pair_view[work.kind] = training * _devices(run) / work.pair_views

    # An evaluation costs the same after any kind of training: the mean of all is steadier.
    evaluating = sum(run.record.evaluate_seconds * _devices(run) for _, run in measured)
    evaluations = sum(work.evaluations for work, _ in measured)
    return Rates(
        pair_view=pair_view,
        wait=dict.fromkeys(pair_view, 0.0),  # in the training time
        evaluation=evaluating / evaluations,
        # `seconds` of a record leaves start-up out.
        start=0.0,
    )


def _measured(evidence: Evidence) -> list[Measured]:
    """Completed runs with the work that they were to do."""
    # Every counted run is a planned one, but those of an archive, which bear other names.
    planned = {RunKey.of(work.spec): work for work in evidence.planned}
    return [
        Measured(planned[key], run)
        for run in evidence.runs
        if (key := RunKey.of(run.record.spec)) in planned
        and run.record.status == "completed"
        and run.record.seconds > 0
    ]


def _devices(run: FinishedRun) -> int:
    """Threads of all ranks: on cores they are the devices, and on GPUs as many belong to each."""
    return run.record.ranks * run.record.threads


def _row(group: Group, measured: list[Measured], rates: Rates) -> ForecastRow:
    # Both sides in device-seconds, so that runs on different numbers of devices add up.
    expected = sum(rates.seconds(work).total for work, _ in measured)
    took = sum(run.record.seconds * _devices(run) for _, run in measured)
    return {
        "stage": group.stage,
        "cell": group.cell,
        "runs": len(measured),
        "forecast_seconds": expected,
        "seconds": took,
        "ratio": expected / took,
    }


def _order(group: Group) -> tuple[bool, bool, str]:
    """Pre-training first, the models of a stage before their sum."""
    return group.stage == "clean", group.cell is None, group.cell or ""
