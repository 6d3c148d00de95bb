"""Evaluations from our ledger or from the authors' files, and the published runs of the ledger."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from repro.ledger import LedgerError, Row, RunRecord
from repro.runs.published import check_unique, read_results
from repro.spec import CleanSize, Dataset, Loss, Objective

Source = Literal["ledger", "authors"]
"""Whose evaluations: ours, or those that the authors published."""
Denominator = Literal["all", "non_target"]
"""Images that an ASR is a share of: all, or those of another class than the target."""
RUN_FILES = ("run.json", "rows.jsonl", "bits.npz")
"""The files of a published run."""


@final
@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation of a model: a dot of Figures 1-3."""

    source: Source
    dataset: Dataset
    objective: Objective
    clean_size: CleanSize | None
    loss: Loss
    learning_rate: float | None
    """None where the source does not say: in the authors' files."""
    seed: int | None
    # Position in the run; both are None where the authors' files do not tell it.
    epoch: float | None
    step: int | None
    # Counts of images: shares and intervals are computed from them.
    correct: int
    images: int
    attacked: int
    """Attacked images by the headline denominator."""
    attackable: int
    """The headline denominator of the ASR."""
    other_asr: float | None
    """ASR by the other denominator; None in the authors' files."""
    run: str
    """Folder of the run, or file and series of the authors' points."""
    index: int
    """Row within the run or series."""

    @property
    def accuracy(self) -> float:
        """Zero-shot top-1, fraction."""
        return self.correct / self.images

    @property
    def asr(self) -> float:
        """Attack success rate by the headline denominator, fraction."""
        return self.attacked / self.attackable


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One published run of the ledger."""

    folder: str
    """Path below the repository, with forward slashes."""
    record: RunRecord
    rows: tuple[Row, ...]
    sha256: str
    """Over the three files of the run."""

    @property
    def machine(self) -> str:
        """Processor or GPU, and version of torch: what decides how sums are rounded."""
        environment = self.record.environment
        device, torch = (environment.get(name, "unknown") for name in ("device", "torch"))
        return f"{device}, torch {torch}"

    @property
    def diverged(self) -> bool:
        """Whether its loss was no finite number at some step, by its record or a row."""
        # The rows are asked too: a record that says `completed` is no proof of finite losses.
        losses = [loss for row in self.rows for loss in (row.train_loss or {}).values()]
        return self.record.status == "diverged" or not all(map(math.isfinite, losses))

    def points(self, denominator: Denominator) -> list[Point]:
        """Its evaluations in order."""
        return [_point(self, index, row, denominator) for index, row in enumerate(self.rows)]

    def handed_on(self, denominator: Denominator) -> Point:
        """Evaluation of the model that the run leaves: the last one up to its step."""
        # The validation loss may have picked a model before the last step. The earliest evaluation
        # is the nearest where all come after it.
        points = self.points(denominator)
        reached = [point for point in points if (point.step or 0) <= self.record.model_step]
        return reached[-1] if reached else points[0]


def read_runs(results: Path, root: Path) -> Iterator[FinishedRun]:
    """Published runs below `results` in path order; LedgerError for one that cannot be used."""
    try:
        for folder, record, rows in read_results(results):
            check_unique(rows)
            name = folder.relative_to(root).as_posix()
            yield FinishedRun(name, record, tuple(rows), run_hash(folder))
    except LedgerError as error:
        raise LedgerError(f"{error}; `dvc repro` publishes the run again") from None


def run_hash(folder: Path) -> str:
    """SHA-256 over the hashes of a run's files, a missing one counted as empty."""
    total = hashlib.sha256()
    for name in RUN_FILES:
        path = folder / name

        # A failed run may have written no bits, which is a state of its own to hash.
        content = path.read_bytes() if path.is_file() else b""
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()


def _point(run: FinishedRun, index: int, row: Row, denominator: Denominator) -> Point:
    # The headline ASR as counts, for its interval; the other reading only as a share.
    attacked, attackable = row.attack_success(denominator)
    other: Denominator = "non_target" if denominator == "all" else "all"
    return Point(
        source="ledger",
        dataset=row.dataset,
        objective=row.pretrain_objective,
        clean_size=row.clean_size,
        loss=row.loss,
        learning_rate=row.learning_rate,
        seed=row.seed,
        epoch=row.epoch,
        step=row.step,
        correct=row.num_correct,
        images=row.num_images,
        attacked=attacked,
        attackable=attackable,
        other_asr=row.asr(other),
        run=run.folder,
        index=index,
    )
