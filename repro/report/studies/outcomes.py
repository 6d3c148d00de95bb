"""What came of the variants of a study: one outcome a variant, model, cleaning size and seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from repro.ledger import Row
from repro.report.numbers.cells import CLEANCLIP
from repro.report.numbers.evaluations import FinishedRun
from repro.report.numbers.evidence import Settings
from repro.spec import CleanSize, Dataset, Objective, RunSpec


class VariantModel(NamedTuple):
    """A pre-trained model of a variant, whatever its seed."""

    variant: str
    dataset: Dataset
    objective: Objective

    @classmethod
    def of(cls, spec: RunSpec) -> VariantModel:
        """The model that a run makes or cleans."""
        return cls(spec.variant, spec.dataset, spec.pretrain_objective)


class VariantCell(NamedTuple):
    """A model of a variant, and with how many pairs it was cleaned."""

    variant: str
    dataset: Dataset
    objective: Objective
    clean_size: CleanSize | None
    """None where the study does not clean."""

    @property
    def model(self) -> VariantModel:
        """The model that is cleaned."""
        return VariantModel(self.variant, self.dataset, self.objective)


@dataclass(frozen=True, slots=True)
class VariantOutcome:
    """What came of one variant, cell and seed, fractions; None where it was not run."""

    accuracy: float | None
    """Of the model that is cleaned, as the others of this line are after it."""
    asr: float | None
    cleaned_accuracy: float | None
    """Best of CleanCLIP at ASR <= cap; None also where no evaluation reached the cap."""
    lowest_asr: float | None
    relative_drop: float | None
    """1 where no evaluation reached the cap: no model is left that one would deploy."""

    @property
    def tried(self) -> bool:
        """Whether CleanCLIP was run at all."""
        return self.lowest_asr is not None

    @property
    def not_cleaned(self) -> bool:
        """Whether CleanCLIP was run, and no evaluation reached the cap."""
        return self.tried and self.cleaned_accuracy is None

    def measure(self, name: str) -> float | None:
        """One of MEASURES."""
        value: float | None = getattr(self, name)
        return value


Outcomes = dict[VariantCell, dict[int, VariantOutcome]]
"""By cell, then by seed."""

MEASURES: tuple[str, ...] = ("accuracy", "asr", "cleaned_accuracy", "lowest_asr")
"""Fields of an outcome whose effects the table shows."""


@dataclass
class _Rows:
    """Evaluations of a study's runs."""

    starts: dict[tuple[VariantModel, int], Row | None] = field(default_factory=dict)
    """By model and seed: of the model that is cleaned."""
    cleaned: dict[VariantCell, dict[int, list[Row]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    """By seed: of CleanCLIP, after cleaning has begun."""


def outcomes(runs: Sequence[FinishedRun], settings: Settings) -> Outcomes:
    """Outcomes by cell, then by seed.

    A model that a study only cleans is measured before it by the first evaluation of a run that
    takes it as it is.
    """
    # Cells come from what was cleaned; a model that nothing cleaned has one cell without a size.
    rows = _rows(runs, settings)
    sizes: dict[VariantModel, list[CleanSize | None]] = defaultdict(list)
    for cell in rows.cleaned:
        sizes[cell.model].append(cell.clean_size)
    for model, _ in rows.starts:
        sizes.setdefault(model, [None])

    found: Outcomes = {}
    for model, of_model in sizes.items():
        # Seeds of the start models: one whose cleaning is not there yet has an outcome as well.
        seeds = [seed for of, seed in sorted(rows.starts) if of == model]
        for size in of_model:
            cell = VariantCell(*model, size)
            cleaned = rows.cleaned.get(cell, {})
            found[cell] = {
                seed: _outcome(rows.starts[model, seed], cleaned.get(seed, []), settings)
                for seed in seeds
            }
    return found


def _rows(runs: Sequence[FinishedRun], settings: Settings) -> _Rows:
    # Read first, for a run that cleans may come before the one that took its model as it is.
    taken = _taken(runs)
    rows = _Rows()
    for run in runs:
        spec = run.record.spec
        model = VariantModel.of(spec)
        if spec.stage == "pretrain":
            # The evaluation of the model that is handed on, which need not be the last one.
            left = run.handed_on(settings.denominator)
            rows.starts[model, spec.seed] = run.rows[left.index]
        elif spec.loss == CLEANCLIP:
            # Pre-training's own row wins, whichever comes first; else a run's that took the model.
            rows.starts.setdefault((model, spec.seed), taken.get(run.record.inputs["model"]))

            # Step 0 is the start model, not an outcome of cleaning.
            cell = VariantCell(*model, spec.clean_size)
            rows.cleaned[cell][spec.seed] += [row for row in run.rows if row.step]
    return rows


def _taken(runs: Sequence[FinishedRun]) -> dict[str, Row]:
    """By hash of the model: its first evaluation in a run that takes it as it is."""
    taken: dict[str, Row] = {}
    for run in runs:
        # Shrink and perturb change the weights before the first evaluation. A factor of 1 and noise
        # of 0 leave them alone.
        mitigation = run.record.spec.mitigation
        if mitigation and (mitigation.shrink, mitigation.perturb) == (1, 0):
            taken.setdefault(run.record.inputs["model"], run.rows[0])
    return taken


def _outcome(start: Row | None, rows: list[Row], settings: Settings) -> VariantOutcome:
    # The best accuracy among evaluations at the cap. Where none reached it there is no such
    # accuracy, which is not one of 0: it must not go into a mean.
    rates = [row.asr(settings.denominator) for row in rows]
    at_cap = [row.accuracy for row, asr in zip(rows, rates, strict=True) if asr <= settings.cap]
    best = max(at_cap, default=None)

    # Verdicts are on the share that is lost, all of it where nothing was cleaned. Relative to a
    # start accuracy of zero there is no drop.
    lost = None
    if rows and start and start.accuracy:
        lost = 1.0 if best is None else 1 - best / start.accuracy
    return VariantOutcome(
        accuracy=start.accuracy if start else None,
        asr=start.asr(settings.denominator) if start else None,
        cleaned_accuracy=best,
        lowest_asr=min(rates, default=None),
        relative_drop=lost,
    )
