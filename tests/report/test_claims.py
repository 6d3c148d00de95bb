"""The claims file is complete and its verdicts follow from intervals."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.report.judging.claims import (
    OVER_SEEDS,
    Bound,
    Claims,
    agree,
    combine,
    judge,
    load_claims,
)
from repro.spec import SpecError
from repro.study.spec import load_study


@pytest.fixture(scope="module")
def claims(root: Path) -> Claims:
    return load_claims(root / "specs" / "claims.yaml")


def test_table_1_gives_the_drops_of_the_text(claims: Claims):
    """17%, 45% and about 90% relative to the start (paper Sec. 4)."""
    drops = {
        (c.dataset, c.clean_size): 1 - c.clean_accuracy / c.original_accuracy
        for c in claims.paper.table1
        if c.pretrain_objective == "mmcl_ssl" and c.clean_accuracy is not None
    }
    assert {key: round(value, 3) for key, value in drops.items()} == {
        ("cc3m", "100k"): 0.169,
        ("cc6m", "100k"): 0.453,
        ("cc6m", "200k"): 0.890,
    }


def test_corrected_table_1_starts_where_table_2_does(claims: Claims):
    for cell in claims.paper.table1:
        start = claims.paper.start(cell.dataset, cell.pretrain_objective)
        assert start is not None
        assert start.accuracy == cell.original_accuracy


def test_the_printed_cc3m_200k_row_has_the_starts_of_cc6m(claims: Claims):
    """Erratum 1 in numbers."""
    printed = [
        c for c in claims.paper.table1_printed if (c.dataset, c.clean_size) == ("cc3m", "200k")
    ]
    for cell in printed:
        cc6m, cc3m = (claims.paper.start(d, cell.pretrain_objective) for d in ("cc6m", "cc3m"))
        assert cell.original_accuracy == cc6m.accuracy != cc3m.accuracy


def test_errata_are_all_there_and_their_arithmetic_is_computed(claims: Claims):
    assert [e.id for e in claims.errata] == list(range(1, 23))
    results = {e.id: e.result for e in claims.errata}
    assert results[4] == pytest.approx(0.890, abs=0.001)
    assert results[7] == 2048
    assert results[10] == 21
    assert results[13] == 49950
    assert results[6] is None


def test_every_claim_of_the_text_is_there(claims: Claims):
    """By words of each sentence of the paper that claims a result, in the order of the paper."""
    told = [f"{claim.quote} {claim.place}" for claim in claims.claims]
    for words in (
        "even with extensive hyperparameter search",  # abstract
        "low ASR (∼10%) without a significant drop",  # Sec. 1
        "produces models with a higher accuracy",
        "fails to clean the models pre-trained with L_MMCL + L_SSL",
        "around 16-17%",
        "around 24%",
        "similar starting accuracies",
        "more than 99% ASR",  # Sec. 3
        "maintain their original accuracy",  # Table 1
        "finetuning with MMCL loss did not change",
        "decreased the model's ASR",  # Sec. 4
        "individually are ineffective cleaning losses",
        "hardly lose any accuracy",
        "None of the three loss functions",
        "loses 17% of the original accuracy",
        "loses 45% of the original accuracy",
        "loses about 90% of the original accuracy",
        "Even for that size, CleanCLIP is ineffective",
        "irrespective of the size of the pre-training data and the cleaning data",  # Sec. 5
        "slightly hurt the accuracy",
        "more finetuning epochs would not hurt",
        "not entirely poison-free",
    ):
        assert any(words in text for text in told), words


def test_every_claim_has_an_expectation_and_a_refutation(claims: Claims):
    asked = [*claims.claims, *claims.own_claims]
    assert all(c.expect and c.refuted_by and c.reason and c.place for c in asked)


def test_claims_of_ours_are_marked_and_judged_over_seeds(claims: Claims):
    assert {claim.place for claim in claims.own_claims} == {"ours, not the paper's"}
    assert {claim.metric for claim in claims.own_claims} == set(OVER_SEEDS)
    assert not {claim.metric for claim in claims.claims} & set(OVER_SEEDS)


def test_a_claim_that_a_study_decides_names_a_variant_that_it_has(claims: Claims):
    named = [claim.study.split("/") for claim in claims.claims if claim.study]
    assert named == [["leftovers", "poisons_left_5"]]
    assert all(variant in load_study(study).variants for study, variant in named)


def test_the_study_that_decides_a_claim_runs_all_of_its_cells(claims: Claims):
    for claim in claims.claims:
        if claim.study is not None:
            name, variant = claim.study.split("/")
            study = load_study(name)
            assert set(claim.datasets) <= set(study.datasets)
            assert set(claim.clean_sizes) <= set(study.clean_sizes)
            assert claim.loss in study.losses
            assert set(claim.objectives) <= set(study.variants[variant].pretrain_objectives)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.15, 0.19), "reproduced"),
        ((0.25, 0.30), "direction only"),
        ((0.10, 0.30), "direction only"),
        ((0.00, 0.04), "not reproduced"),
        ((0.00, 0.30), "undecided"),
    ],
)
def test_verdict_follows_the_whole_interval(interval: tuple[float, float], verdict: str):
    assert (
        judge(Bound(about=0.17, margin=0.03), Bound(at_least=0.05), interval, capped=False)
        == verdict
    )


def test_an_absolute_value_on_stand_in_data_shows_the_direction_at_most():
    assert judge(Bound(at_least=0.99), None, (0.995, 1.0), capped=True) == "direction only"


def test_one_cell_refutes_a_claim_and_seeds_must_agree():
    assert combine(["reproduced", "not reproduced", "undecided"]) == "not reproduced"
    assert combine(["reproduced", "direction only"]) == "direction only"
    assert combine(["reproduced", "not run"]) == "undecided"
    assert combine(["not run", "not run"]) == combine([]) == "not run"
    assert agree(["reproduced", "reproduced"]) == "reproduced"
    assert agree(["reproduced", "not reproduced"]) == "undecided"
    assert agree([]) == "not run"


@pytest.mark.faults(17)
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric: start_asr", "metric: start_asrr", r"claims\.10\.metric: .*'start_asrr'"),
        ("attack_taken: 0.5", "attack_taken: 1.5", r"attack_taken: .*1\.5"),
        ("id: start-asr", "id: drop-90-200k", "'drop-90-200k' is used twice"),
        (
            "expect: {about: 0.17, margin: 0.05}",
            "expect: {about: 0.17}",
            r"claims\.7\.expect.*positive margin",
        ),
        ("kept_share: 0.95", "", "kept_share: Field required"),
    ],
)
def test_a_bad_claims_file_is_refused_by_field_and_value(
    root: Path, tmp_path: Path, old: str, new: str, message: str
):
    text = (root / "specs" / "claims.yaml").read_text()
    assert text.count(old) >= 1
    (tmp_path / "claims.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(SpecError, match=message):
        load_claims(tmp_path / "claims.yaml")
