"""The paper's claims: the file, the rule that judges an interval, and every metric on made-up runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from repro.report.document import claims_of
from repro.report.judging.claims import Claim, Claims, load_claims
from repro.report.judging.paper_claims import METRICS, combine, judge, judged_claims
from repro.report.measures import Context
from repro.report.verdicts import verdicts
from repro.spec import SpecError
from tests.support.curves import Outcome, arm, evaluated

CONTEXT = Context(rate=4e-4, hull_cap=0.2, kept_share=0.95)
INFINITY = float("inf")


@pytest.fixture(scope="module")
def claims() -> Claims:
    return claims_of()


def claim(claims: Claims, **changed: Any) -> Claim:
    """At most 5% is expected, at most 10% keeps the direction."""
    of = next(claim for claim in claims.claims if claim.id == "mmcl-cleans")
    return Claim.model_validate({**of.model_dump(exclude_unset=True), **changed})


def test_the_file_has_the_papers_numbers_and_says_when_each_claim_was_fixed(claims: Claims) -> None:
    assert len(claims.claims) == 21 and len(claims.errata) == 22
    assert {of.metric for of in claims.claims} == set(METRICS)
    moved = [of.id for of in claims.claims if of.fixed]
    assert moved == ["poison-in-the-cleaning-set"]
    assert claims.rules.measures.keys() >= {"rate_doublings", "lost_at_cap"}
    drop = claims.errata[0].result
    assert drop == pytest.approx(1 - 0.1305 / 0.2386)


@pytest.mark.parametrize(
    ("interval", "absolute", "verdict"),
    [
        ((0.01, 0.04), False, "supported"),
        ((0.01, 0.04), True, "direction only"),
        ((-0.20, -0.10), False, "supported"),
        ((0.01, 0.06), False, "undecided"),
        ((0.01, 0.06), True, "direction only"),
        ((0.06, 0.12), True, "undecided"),
        ((0.101, 0.30), False, "refuted"),
        ((0.01, INFINITY), False, "undecided"),
        ((0.11, INFINITY), False, "refuted"),
    ],
)
def test_an_interval_is_judged_by_the_band_and_by_that_of_the_direction(
    claims: Claims, interval: tuple[float, float], absolute: bool, verdict: str
) -> None:
    assert judge(claim(claims, absolute=absolute), interval, stand_in=True) == verdict


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        (["supported", "supported"], "supported"),
        (["supported", "direction only"], "direction only"),
        (["supported", "not run"], "undecided"),
        (["supported", "not tested"], "not tested"),
        (["refuted", "undecided"], "refuted"),
        (["not run", "not run"], "not run"),
        ([], "not run"),
    ],
)
def test_a_claim_is_as_good_as_its_worst_cell(verdicts: Any, together: str) -> None:
    assert combine(verdicts) == together


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "taste"}, r"claims\.0\.metric"),
        ({"expect": {"at_least": 0.1, "at_most": 0.2}}, "give exactly one of"),
        ({"expect": {"about": 0.1}}, "about needs a positive margin"),
        ({"loss": None}, "a claim about cleaning names them"),
        ({"datasets": []}, r"claims\.0\.datasets"),
        ({"id": "mmcl-ssl-fails"}, "'mmcl-ssl-fails' is used twice"),
        ({"surplus": 1}, r"claims\.0\.surplus"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused_with_its_field(
    tmp_path: Path, root: Path, change: dict[str, Any], message: str
) -> None:
    content = YAML(typ="safe").load(root / "specs/claims.yaml")
    content["claims"][0].update(change)
    path = tmp_path / "claims.yaml"
    YAML().dump(content, path)
    with pytest.raises(SpecError, match=message):
        load_claims(path)


def judged(
    claims: Claims, outcome: Outcome, seeds: int = 4, **options: Any
) -> dict[str, dict[str, Any]]:
    """All claims on the report's own runs, in which MMCL and SSL alone clean like both."""
    frame = arm(outcome, range(seeds), "/", **options)
    losses = [frame.assign(loss=loss, run=frame.run + loss) for loss in ("mmcl", "ssl")]
    evaluations = evaluated(pd.concat([frame, *losses], ignore_index=True))
    found = verdicts(evaluations, claims, "smoke")
    claims_found = judged_claims(evaluations, claims, found, CONTEXT, "smoke", stand_in=False)
    return {claim["id"]: claim for claim in claims_found}


def outcome_of(objective: str, seed: int, rate: float) -> tuple[float, float]:
    """MMCL models are cleaned at no loss, the others lose a half; a thousandth between seeds."""
    kept = 1.0 if objective == "mmcl" else 0.5
    return 0.24 * (kept - 0.001 * seed), 0.01


def test_every_metric_on_models_whose_answer_is_known(claims: Claims) -> None:
    found = judged(claims, outcome_of, start=(0.24, 0.995))
    verdict = {name: claim["verdict"] for name, claim in found.items()}
    assert verdict["mmcl-cleans"] == "supported"
    assert verdict["mmcl-cleans-to-low-asr"] == "supported"
    assert verdict["mmcl-ssl-fails"] == "supported"
    assert verdict["drop-45-cc6m"] == "supported"
    assert verdict["drop-90-200k"] == "direction only"
    assert verdict["start-asr"] == verdict["start-accuracy-cc6m"] == "supported"
    assert verdict["start-accuracy-cc3m"] == "direction only"
    assert verdict["starts-are-similar"] == "supported"
    assert verdict["ssl-raises-accuracy"] == "supported", "an interval of no width at zero"
    assert verdict["ssl-finetuning-lowers-asr"] == "supported"
    assert verdict["mmcl-finetuning-keeps-asr"] == "refuted"
    assert verdict["poison-in-the-cleaning-set"] == "not run"

    # The best evaluation is the only one, and so the last of its run.
    (cell, _) = found["more-epochs-do-not-hurt"]["evidence"]
    assert (cell.verdict, cell.estimate, cell.without) == ("undecided", None, 4)
    assert found["drop-45-cc6m"]["evidence"][0].estimate is not None
    assert found["drop-45-cc6m"]["expect"] == "45% within 10 points"


def test_failure_is_no_evidence_where_mmcl_models_fail_as_well(claims: Claims) -> None:
    found = judged(claims, lambda *_: (0.12, 0.01), start=(0.24, 0.995))
    assert found["mmcl-ssl-fails"]["verdict"] == "not tested"
    assert "twin" in found["mmcl-ssl-fails"]["evidence"][0].note
    assert found["mmcl-cleans"]["verdict"] == "refuted"


def test_a_model_that_no_rate_cleans_is_a_lower_bound_and_no_success(claims: Claims) -> None:
    found = judged(claims, lambda *_: (0.24, 0.5), start=(0.24, 0.995))
    (cell, _) = found["mmcl-cleans"]["evidence"]
    assert cell.estimate is not None and (cell.estimate.mean, cell.estimate.at_least) == (0, True)
    assert found["mmcl-cleans"]["verdict"] == "undecided"


def test_one_seed_decides_nothing(claims: Claims) -> None:
    found = judged(claims, outcome_of, seeds=1, start=(0.24, 0.995))
    assert {claim["verdict"] for claim in found.values()} == {"undecided", "not run"}
