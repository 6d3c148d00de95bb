"""The pipe of frames gives what the modules that it replaces give, for every pair of arms."""

import math
from collections.abc import Iterable
from typing import Any

import pytest

from repro.profile import load_profile
from repro.report import comparisons, statements
from repro.report.answer import by_defence, conditions
from repro.report.claims import load_claims
from repro.report.document import joined
from repro.report.draws import draws
from repro.report.judgements import judged_claims, stated_hypotheses
from repro.report.measures import Context, Evaluations, measured
from repro.report.scales import larger_scale
from repro.report.studies import read_study_results, whole_seeds
from repro.report.verdicts import verdicts


def equal(old: Any, new: Any) -> bool:
    """Numbers but for their last digit, and what holds them."""
    if hasattr(old, "by_seed"):
        names = ("mean", "interval", "lower", "upper", "seeds", "at_least", "at_most")
        of_seeds = equal(list(old.by_seed.values()), list(new.by_seed.values()))
        return of_seeds and all(equal(getattr(old, of), getattr(new, of)) for of in names)
    if isinstance(old, float):
        return math.isclose(old, new, rel_tol=1e-12, abs_tol=1e-14)
    if isinstance(old, tuple | list):
        return len(old) == len(new) and all(map(equal, old, new))
    return bool(old == new)


def of_verdicts(measures: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [
        (
            *(measure.measure, measure.fixed, cell.dataset, cell.clean_size, cell.comparator),
            *(cell.mmcl, cell.mmcl_ssl, cell.difference, cell.p, cell.p_holm),
            *(cell.alone, cell.verdict, cell.reason, [*cell.marks], cell.start_asr),
        )
        for measure in measures
        for cell in [*measure.cells, measure.pooled]
        if cell
    ]


def of_cells(cells: Iterable[comparisons.Judged]) -> list[tuple[Any, ...]]:
    return [
        (
            *(cell.measure.name, cell.fixed, *(cell.of.setting or (None, None))),
            *(cell.of.comparator, cell.mmcl, cell.mmcl_ssl, cell.difference, cell.p, cell.p_holm),
            *(cell.alone, cell.verdict, cell.reason, [*cell.marks], cell.of.start_asr),
        )
        for cell in cells
    ]


@pytest.mark.nightly
def test_the_pipe_gives_what_the_modules_before_it_give() -> None:
    claims, studies, larger = load_claims(), read_study_results("mini"), read_study_results("midi")
    context = Context.of(claims, load_profile("mini"))
    frame = joined(*(study.frame for study in studies))
    whole = whole_seeds(studies)
    before = Evaluations(frame, context)
    old = verdicts(before, claims, "mini", whole, "proxy")
    every = Evaluations(joined(frame, *(study.frame for study in larger)), context)
    values = measured(every)
    new = comparisons.verdicts(values, every, claims, "mini", whole)

    assert equal(of_verdicts(old.confirmed or []), of_cells(new.confirmed))
    assert equal(of_verdicts(old.exploratory), of_cells(new.exploratory))
    for entry in old.secondary:
        assert equal(of_verdicts(entry.measures), of_cells(new.secondary[entry.name]))

    stated = stated_hypotheses(studies, before)
    of_draws = draws(studies, before, claims.comparisons.confirmed["mini"])
    lines = conditions(old, of_draws, stated, larger_scale("mini", claims))
    lines += by_defence(old.beside)
    finished = {of.name for of in [*studies, *larger] if not of.seeds_due}
    listed = claims.comparisons.conditions["mini"]
    under = comparisons.under_conditions(values, listed, claims.rules, finished).values()
    assert [(of.settings, of.seeds, of.rate) for of in lines] == [
        (of.settings, of.seeds, of.condition.rate) for of in under
    ]
    for line, of in zip(lines, under, strict=True):
        assert list(line.differences) == list(of.differences)
        assert equal([*line.differences.values()], [*of.differences.values()]), line.name

    judged = statements.stated(
        [(of.name, of.spec, of.seeds_due) for of in studies], values, claims.rules.weak_start
    )
    for name, hypotheses in stated.items():
        for was, now in zip(hypotheses, judged[name], strict=True):
            assert (was.says, was.verdict, was.weak) == (now.hypothesis.says, now.verdict, now.weak)
            assert equal(
                [was.sum, was.p, [*was.means.values()]], [now.sum, now.p, [*now.means.values()]]
            )

    old_claims = judged_claims(before, claims, old, "proxy")
    for claim, found in zip(
        old_claims, statements.judged_claims(values, claims, new, "proxy"), strict=True
    ):
        assert (claim.id, claim.verdict) == (found.claim.id, found.verdict)
        estimates = [cell.estimate for cell in claim.evidence]
        assert equal(estimates, [cell.estimate for cell in found.evidence])
