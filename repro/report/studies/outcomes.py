"""What came of the variants of a study: one outcome a variant, model, cleaning size and seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from repro.ledger import Row
from repro.report.numbers.evaluations import CLEANCLIP, FinishedRun, Settings

Model = tuple[str, str, str]
"""Variant, dataset slot, pre-training objective."""


@dataclass(frozen=True, slots=True)
class VariantOutcome:
    """What came of one variant, cell and seed, fractions; None where it was not run."""

    accuracy: float | None
    """Of the model that is cleaned, as the others of this line are after it."""
    asr: float | None
    cleaned_accuracy: float | None
    """Best of CleanCLIP at ASR <= cap; 0 if no evaluation reached the cap."""
    lowest_asr: float | None
    relative_drop: float | None


Outcomes = dict[tuple[str, str, str, str | None], dict[int, VariantOutcome]]
"""By variant, dataset, objective and cleaning size, then by seed."""

MEASURES: tuple[str, ...] = ("accuracy", "asr", "cleaned_accuracy", "lowest_asr")
"""Fields of an outcome whose effects the table shows."""


def outcomes(runs: Sequence[FinishedRun], settings: Settings) -> Outcomes:
    """Outcomes by variant, dataset, objective and cleaning size (None where the study does not clean), then by seed.

    A model that a study only cleans is measured before it by the first evaluation of a run that takes it as it is.
    """
    taken: dict[str, Row] = {}
    for run in runs:
        if (mitigation := run.record.spec.mitigation) and (
            mitigation.shrink,
            mitigation.perturb,
        ) == (1, 0):
            taken.setdefault(run.record.inputs["model"], run.rows[0])
    starts: dict[tuple[Model, int], Row | None] = {}
    cleaned: dict[tuple[Model, str | None], dict[int, list[Row]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in runs:
        spec = run.record.spec
        model: Model = (spec.variant, spec.dataset, spec.pretrain_objective)
        if spec.stage == "pretrain":
            starts[model, spec.seed] = run.rows[run.handed_on(settings.denominator).index]
        elif spec.loss == CLEANCLIP:
            starts.setdefault((model, spec.seed), taken.get(run.record.inputs["model"]))
            cleaned[model, spec.clean_size][spec.seed] += [row for row in run.rows if row.step]
    sizes: dict[Model, list[str | None]] = defaultdict(list)
    for model, size in cleaned:
        sizes[model].append(size)
    for model, _ in starts:
        sizes.setdefault(model, [None])
    return {
        (*model, size): {
            seed: _outcome(
                starts[model, seed], cleaned[model, size].get(seed, []) if size else [], settings
            )
            for of, seed in sorted(starts)
            if of == model
        }
        for model in sizes
        for size in sizes[model]
    }


def _outcome(start: Row | None, rows: list[Row], settings: Settings) -> VariantOutcome:
    rates = [(row.asr(settings.denominator), row.accuracy) for row in rows]
    best = (
        max((accuracy for asr, accuracy in rates if asr <= settings.cap), default=0.0)
        if rates
        else None
    )
    return VariantOutcome(
        accuracy=start.accuracy if start else None,
        asr=start.asr(settings.denominator) if start else None,
        cleaned_accuracy=best,
        lowest_asr=min((asr for asr, _ in rates), default=None),
        relative_drop=1 - best / start.accuracy
        if best is not None and start and start.accuracy
        else None,
    )
