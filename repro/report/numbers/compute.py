"""What the runs cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from repro.report.numbers.evaluations import FinishedRun

Stage = Literal["pretrain", "clean"]


@dataclass(frozen=True, slots=True)
class ComputeRow:
    """Cost of a stage and model; wall time without start-up, evaluation and waiting included."""

    stage: Stage
    cell: str
    runs: int
    seconds: float
    train_seconds: float
    evaluate_seconds: float
    data_wait_seconds: float
    samples: int
    peak_memory_bytes: int
    """Of the run that took most."""
    attempts: int


@dataclass(frozen=True, slots=True)
class ArchivedCompute:
    """Cost of the studies that the report quotes: other runs, often of other machines."""

    runs: int
    """Each training once, though several studies share it; none of the profile's own."""
    seconds: float


def compute_rows(runs: Sequence[FinishedRun]) -> list[ComputeRow]:
    """Cost of every stage and model."""
    groups: dict[tuple[Stage, str], list[FinishedRun]] = defaultdict(list)
    for run in runs:
        groups[run.record.spec.stage, run.record.spec.cell].append(run)

    # In descending order pre-training comes before cleaning.
    rows = []
    for (stage, cell), group in sorted(groups.items(), reverse=True):
        records = [run.record for run in group]
        rows.append(
            ComputeRow(
                stage=stage,
                cell=cell,
                runs=len(records),
                seconds=sum(record.seconds for record in records),
                train_seconds=sum(record.train_seconds for record in records),
                evaluate_seconds=sum(record.evaluate_seconds for record in records),
                data_wait_seconds=sum(record.data_wait_seconds for record in records),
                samples=sum(record.num_samples for record in records),
                peak_memory_bytes=max(record.peak_memory_bytes for record in records),
                attempts=sum(record.attempts for record in records),
            )
        )
    return rows


def archived_compute(
    own: Sequence[FinishedRun], archived: Sequence[FinishedRun]
) -> ArchivedCompute:
    """Cost of the studies' runs beside the profile's own."""
    # A start tells two trainings of one fingerprint apart.
    trainings = {(run.record.fingerprint, run.record.started): run for run in archived}
    for run in own:
        trainings.pop((run.record.fingerprint, run.record.started), None)
    seconds = sum(run.record.seconds for run in trainings.values())
    return ArchivedCompute(len(trainings), seconds)
