"""From claims to verdicts: each cell and seed is judged on the interval of its quantity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from repro.intervals import Interval
from repro.report.judging.claims import (
    ABOUT_BOTH,
    ABOUT_START,
    OVER_SEEDS,
    RATIOS,
    UNTESTED,
    Bound,
    Claim,
    Claims,
    agree,
    combine,
    judge,
)
from repro.report.judging.control import needs_control, without_control
from repro.report.judging.quantities import QUANTITIES, JudgedCell
from repro.report.numbers import intervals
from repro.report.numbers.cleaned import positive_control
from repro.report.numbers.evidence import Evidence
from repro.report.schema.base import Source
from repro.report.schema.judged import (
    CellEvidence,
    Headline,
    HeadlineClaim,
    JudgedClaim,
    SeedEvidence,
    Verdict,
)
from repro.report.schema.results import PositiveControl
from repro.spec import CleanSize, Dataset, Objective

HARDLY = "the start model was hardly poisoned"
"""Note of a seed on which there was no backdoor to clean."""


class ClaimCell(NamedTuple):
    """A cell that a claim is about."""

    dataset: Dataset
    clean_size: CleanSize | None
    """None for claims about models before cleaning."""
    objective: Objective


def judged_claims(
    evidence: Evidence,
    claims: Claims,
    asked: Sequence[Claim],
    variants: Mapping[str, Evidence],
) -> list[JudgedClaim]:
    """Each claim that is asked for, with its verdict from our ledger and, where they are at hand,
    from the authors' points.

    `variants`: runs of studies, by `<study>/<variant>`, for the claims that these decide.
    """
    return [_judged(evidence, claims, claim, variants) for claim in asked]


def _judged(
    evidence: Evidence, claims: Claims, claim: Claim, variants: Mapping[str, Evidence]
) -> JudgedClaim:
    # A claim that names a study is decided by its runs alone, every other by the main graph's.
    decides = evidence if claim.study is None else variants.get(claim.study)
    ours = _look_everywhere(evidence, decides, claims, claim, "ledger") if decides else []

    # The authors' points are of the main experiments only.
    authors = []
    if evidence.authors and claim.study is None:
        authors = _look_everywhere(evidence, evidence, claims, claim, "authors")

    # "not run" would be wrong where their files were not read: then there is no verdict.
    authors_verdict = combine([cell["verdict"] for cell in authors])
    return {
        "id": claim.id,
        "quote": claim.quote,
        "place": claim.place,
        "metric": claim.metric,
        "datasets": claim.datasets,
        "clean_sizes": claim.clean_sizes,
        "objectives": claim.objectives,
        "loss": claim.loss,
        "study": claim.study,
        "absolute": claim.absolute,
        "reason": claim.reason,
        "refuted_by": claim.refuted_by,
        "expect": _words(claim, claim.expect),
        "direction": _words(claim, claim.direction),
        "verdict": combine([cell["verdict"] for cell in ours]),
        "evidence": ours,
        "authors_verdict": authors_verdict if evidence.authors else None,
        "authors_evidence": authors,
    }


def headline(evidence: Evidence, judged: list[JudgedClaim], main: list[str]) -> Headline:
    """The paper's answer: its main claims, and what they say together.

    By the authors' points where these are all there is.
    """
    # Without runs of our own, as in a replay, the authors' points answer.
    replayed = bool(evidence.authors) and not evidence.runs
    chosen: list[HeadlineClaim] = []
    verdicts = []
    for claim in judged:
        # Main claims in the order of the claims file.
        if claim["id"] not in main:
            continue
        verdict = claim["authors_verdict"] if replayed else claim["verdict"]
        assert verdict is not None
        verdicts.append(verdict)
        chosen.append(
            {
                "id": claim["id"],
                "dataset": claim["datasets"][0],
                "clean_size": claim["clean_sizes"][0],
                "verdict": verdict,
            }
        )
    return {
        "verdict": combine(verdicts),
        "claims": chosen,
        "runs": len(evidence.runs),
        "diverged_runs": sum(run.folder in evidence.diverged for run in evidence.runs),
    }


def _look_everywhere(
    graph: Evidence, evidence: Evidence, claims: Claims, claim: Claim, source: Source
) -> list[CellEvidence]:
    """A claim in each of its cells, over seeds; `graph` has its positive control.

    That is the main graph also for a claim that a study decides: what the study changes may keep
    CleanCLIP from working, which is what such a claim is about.
    """
    if claim.metric == "none" or claim.expect is None:
        return []

    found: list[CellEvidence] = []
    for cell in _cells(claim):
        # A verdict takes all seeds to agree; the spread shows how far their values lie apart.
        control = None
        if needs_control(claim, cell.objective) and cell.clean_size is not None:
            control = positive_control(
                graph, claims.paper, cell.dataset, cell.clean_size, claims.control_rule, source
            )
        by_seed = _by_seed(evidence, claims, claim, cell, source, control)
        values = [item["value"] for item in by_seed]
        interval = _interval_over_seeds(claim, values, evidence.settings.confidence)
        spread = intervals.geometric_spread if claim.metric in RATIOS else intervals.spread
        found.append(
            {
                "dataset": cell.dataset,
                "clean_size": cell.clean_size,
                "pretrain_objective": None if claim.metric in ABOUT_BOTH else cell.objective,
                "verdict": _over_seeds(claim, claim.expect, by_seed, interval),
                "by_seed": by_seed,
                "spread": spread(values) if values else None,
                "ci": interval,
                "control": control,
            }
        )
    return found


def _interval_over_seeds(
    claim: Claim, values: Sequence[float], confidence: float
) -> Interval | None:
    """Student's interval of a metric of our own; None for one seed, and for the paper's claims."""
    if claim.metric not in OVER_SEEDS:
        return None
    if claim.metric in RATIOS and values:
        return intervals.geometric(values, confidence)[1]
    return intervals.student(values, confidence)


def _over_seeds(
    claim: Claim, expect: Bound, by_seed: Sequence[SeedEvidence], interval: Interval | None
) -> Verdict:
    """A claim's verdict in one cell: by the interval over seeds, if it has one, else what all seeds
    say.
    """
    found = [item["verdict"] for item in by_seed]

    # A seed that could not be tested leaves the mean without a meaning.
    untested = any(item["verdict"] in UNTESTED or item["note"] == HARDLY for item in by_seed)
    if interval is None or untested:
        return agree(found)
    return judge(expect, claim.direction, interval, capped=False)


def _cells(claim: Claim) -> Iterator[ClaimCell]:
    """The cells of a claim; one that compares the objectives is looked at once for both."""
    # The metric itself looks at both models, so either objective may name the cell.
    objectives = claim.objectives[:1] if claim.metric in ABOUT_BOTH else claim.objectives
    for dataset in claim.datasets:
        # A claim about start models has one cell a model, without a size.
        for size in claim.clean_sizes or (None,):
            for objective in objectives:
                yield ClaimCell(dataset, size, objective)


def _by_seed(
    evidence: Evidence,
    claims: Claims,
    claim: Claim,
    cell: ClaimCell,
    source: Source,
    control: PositiveControl | None,
) -> list[SeedEvidence]:
    assert claim.expect is not None

    # The authors' series join runs and name no seed.
    seeds = evidence.settings.seeds if source == "ledger" else (None,)
    found = []
    for seed in seeds:
        # The metric is a function of this place alone.
        place = JudgedCell(
            evidence=evidence,
            paper=claims.paper,
            kept_share=claims.kept_share,
            source=source,
            dataset=cell.dataset,
            objective=cell.objective,
            clean_size=cell.clean_size,
            loss=claim.loss,
            seed=seed,
        )
        item = _look(claim, claim.expect, place, claims.attack_taken, control)

        # A seed that was not run yet gives no verdict, rather than one against the claim.
        if item is not None:
            found.append(item)
    return found


def _look(
    claim: Claim,
    expect: Bound,
    place: JudgedCell,
    attack_taken: float,
    control: PositiveControl | None,
) -> SeedEvidence | None:
    """A claim in one cell and seed; None where nothing was run."""
    quantity = QUANTITIES[claim.metric](place)
    if quantity is None:
        return None

    # The authors' points are of the paper's data, whatever fills the slots of our profile.
    stand_in = place.source == "ledger" and bool(place.evidence.settings.stand_in)
    verdict: Verdict = "undecided"
    if quantity.interval is not None:
        capped = claim.absolute and stand_in
        verdict = judge(expect, claim.direction, quantity.interval, capped)
    note = quantity.note

    # A value that the measure fell back on may refute a claim, but it bears out none.
    if quantity.untested and verdict != "not reproduced":
        verdict = quantity.untested

    # Where the attack never took, cleaning looks perfect and says nothing.
    if not _was_poisoned(claim, place, attack_taken):
        verdict, note = "undecided", HARDLY

    # Where CleanCLIP does not work on the MMCL model either, its failure on the other says nothing:
    # of no seed, since the control is of all of them.
    untested = without_control(control) if needs_control(claim, place.objective) else None
    if untested is not None:
        verdict = untested

    return {
        "seed": place.seed,
        "value": quantity.value,
        "ci": quantity.interval,
        "runs": list(dict.fromkeys(quantity.runs)),
        "note": note,
        "verdict": verdict,
    }


def _was_poisoned(claim: Claim, place: JudgedCell, attack_taken: float) -> bool:
    """Whether there was a backdoor to clean: a claim about cleaning says nothing without one."""
    if claim.metric in ABOUT_START:
        return True

    # A comparison needs both models poisoned.
    objectives = claim.objectives if claim.metric in ABOUT_BOTH else [place.objective]
    starts = [place.of(objective).start for objective in objectives]

    # A start model that nobody measured is no reason to doubt the attack.
    return all(start is None or start.asr >= attack_taken for start in starts)


def _words(claim: Claim, bound: Bound | None) -> str | None:
    if bound is None:
        return None
    if claim.metric in RATIOS:
        ends = {"at least": bound.at_least, "at most": bound.at_most, "about": bound.about}
        return " and ".join(
            f"{word} {end:g} times" for word, end in ends.items() if end is not None
        )
    if bound.about is not None:
        return f"{100 * bound.about:g}% within {100 * bound.margin:g} points"
    if bound.at_least is not None:
        return f"at least {100 * bound.at_least:g}%"

    # The validator of `Bound` leaves this one.
    return f"at most {100 * (bound.at_most or 0):g}%"
