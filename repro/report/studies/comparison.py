"""Does a variant turn a verdict? Each claim about a cell is judged once on the reference, once on
the variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from repro.report.judging.claims import Claim, Claims, judge
from repro.report.judging.control import needs_control, without_control
from repro.report.numbers import intervals
from repro.report.numbers.cells import CLEANCLIP
from repro.report.numbers.cleaned import ControlOutcome, judged_control
from repro.report.numbers.evidence import Settings
from repro.report.schema.judged import Metric, Untested, Verdict
from repro.report.schema.results import PositiveControl
from repro.report.schema.studies import Answer, VerdictPair
from repro.report.studies.outcomes import VariantCell, VariantOutcome

OUTCOME_METRICS: dict[Metric, Callable[[VariantOutcome], float | None]] = {
    "start_accuracy": lambda outcome: outcome.accuracy,
    "start_asr": lambda outcome: outcome.asr,
    # A verdict takes a model that was not cleaned as one without accuracy.
    "cleaned_accuracy": lambda outcome: 0.0 if outcome.not_cleaned else outcome.cleaned_accuracy,
    "lowest_asr": lambda outcome: outcome.lowest_asr,
    "relative_drop": lambda outcome: outcome.relative_drop,
}
"""Metrics of the claims file that concern one model and can be read off an outcome."""
DECIDED: tuple[Verdict, ...] = ("reproduced", "direction only", "not reproduced")


class Judged(NamedTuple):
    """Outcomes of one cell over seeds, and of the MMCL models beside them: the positive control."""

    outcomes: Sequence[VariantOutcome]
    control: Iterable[VariantOutcome]


def compared_verdicts(
    claims: Claims,
    settings: Settings,
    cell: VariantCell,
    variant: Judged,
    reference: Judged,
) -> list[VerdictPair]:
    """Each claim about the cell, judged on the intervals over seeds of reference and variant."""
    controls = _control(claims, variant), _control(claims, reference)
    found = []
    for claim in claims.claims:
        if not _is_about(claim, cell):
            continue

        # A claim that needs no control is judged as if it held.
        untested: tuple[Untested | None, ...] = (None, None)
        if needs_control(claim, cell.objective):
            untested = tuple(map(without_control, controls))
        found.append(_compared(claim, settings, (variant, reference), untested))
    return found


def could_change(verdicts: Sequence[VerdictPair]) -> Answer | None:
    """`yes` if a decided verdict becomes another decided one, and by a decided effect.

    `no` if every verdict is decided and stays, else `undecided`: intervals over few seeds end near
    a claim's bound by chance. None where there is no verdict.
    """
    if not verdicts:
        return None

    # One turned verdict answers the question, however many others are undecided.
    if any(verdict["changes"] for verdict in verdicts):
        return "yes"
    stays = all(
        verdict["reference"] == verdict["variant"] and verdict["variant"] in DECIDED
        for verdict in verdicts
    )
    return "no" if stays else "undecided"


def _compared(
    claim: Claim,
    settings: Settings,
    judged: tuple[Judged, Judged],
    untested: tuple[Untested | None, ...],
) -> VerdictPair:
    # Each verdict has an interval of its own, the effect one of the paired differences.
    metric = OUTCOME_METRICS[claim.metric]
    after, before = [[metric(of) for of in one.outcomes] for one in judged]
    effect = intervals.paired_effect(list(zip(after, before, strict=True)), settings.confidence)

    verdict_after = untested[0] or _judged_over_seeds(claim, settings, after)
    verdict_before = untested[1] or _judged_over_seeds(claim, settings, before)

    # Verdicts can differ where an interval's end just passes a bound. So a verdict counts as
    # turned only if the variant moves the measure itself by a decided effect.
    changes = (
        verdict_before != verdict_after
        and verdict_before in DECIDED
        and verdict_after in DECIDED
        and effect is not None
        and not effect["undecided"]
    )
    return {
        "id": claim.id,
        "reference": verdict_before,
        "variant": verdict_after,
        "changes": changes,
    }


def _control(claims: Claims, judged: Judged) -> PositiveControl | None:
    """Whether CleanCLIP cleans the MMCL models beside a cell, over their seeds."""
    # At which ASR each was best is not known here; whether the control holds does not ask for it.
    outcomes = [
        ControlOutcome(of.asr, of.relative_drop, of.lowest_asr, cleaned=not of.not_cleaned)
        for of in judged.control
        if of.asr is not None and of.relative_drop is not None and of.lowest_asr is not None
    ]
    return judged_control(outcomes, claims.control_rule)


def _judged_over_seeds(claim: Claim, settings: Settings, values: Sequence[float | None]) -> Verdict:
    """Verdict on the interval of the mean; undecided for fewer than two seeds."""
    # A seed without a value is left out here, as it is from the pairs.
    known = [value for value in values if value is not None]
    interval = intervals.student(known, settings.confidence)
    if interval is None or claim.expect is None:
        return "undecided"
    capped = claim.absolute and bool(settings.stand_in)
    return judge(claim.expect, claim.direction, interval, capped)


def _is_about(claim: Claim, cell: VariantCell) -> bool:
    """Whether the claim can be judged on outcomes of the cell, which are of CleanCLIP."""
    # Claims that compare objectives, or that a study decides, are not read off one outcome.
    judged_here = (
        claim.expect is not None and claim.study is None and claim.metric in OUTCOME_METRICS
    )
    return (
        judged_here
        and cell.dataset in claim.datasets
        and cell.objective in claim.objectives
        and claim.loss in (None, CLEANCLIP)
        and (not claim.clean_sizes or cell.clean_size in claim.clean_sizes)
    )
