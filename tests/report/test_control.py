"""A claim that CleanCLIP fails is judged only where CleanCLIP works on the MMCL model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.article.latex import tex
from repro.report.judging.control import control_words
from repro.report.numbers.cleaned import ControlOutcome, ControlRule, judged_control
from repro.report.pages.readme import results_block
from repro.report.verify import verify
from tests.support.ledger import build_at, row_of, write_run, write_specs

RULE = ControlRule(kept_share=0.95, attack_taken=0.5)
START = (0.40, 0.96)
Outcomes = Mapping[str, list[tuple[float, float]]]
"""By pre-training objective: accuracy and ASR of CleanCLIP's evaluations after the start."""


def report(
    root: Path,
    after: Outcomes,
    monkeypatch: pytest.MonkeyPatch,
    *,
    seeds: tuple[int, ...] = (),
    starts: Mapping[tuple[str, int], tuple[float, float]] | None = None,
) -> tuple[dict[str, Any], str, str, str]:
    """Document, page, LaTeX source and README block of a ledger of the CC3M models.

    Every learning rate of CleanCLIP has the same evaluations. Without `seeds` they are the profile's;
    `starts` are those of an objective and seed that are not `START`.
    """
    write_specs(root)
    changed = {"pretrain.seeds": list(seeds)} if seeds else {}
    profile = load_profile("mini", root / "specs", changed)
    for spec in [*pretrain_runs(profile, "cc3m"), *clean_runs(profile, "cc3m")]:
        start = (starts or {}).get((spec.pretrain_objective, spec.seed), START)
        if spec.stage == "pretrain":
            write_run(root, spec, [start])
        elif spec.loss == "mmcl_ssl":
            write_run(root, spec, [start, *after[spec.pretrain_objective]])
    document, page = build_at(root, profile, monkeypatch)
    return document, page, tex(document, "0" * 64), results_block(document)


def verdicts_of(document: dict[str, Any]) -> dict[str, str]:
    return {claim["id"]: claim["verdict"] for claim in document["claims"]}


def test_where_the_control_fails_the_claim_is_not_tested_wherever_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """CleanCLIP costs the MMCL model half of its accuracy, and the other one nine tenths."""
    after = {"mmcl": [(0.20, 0.02), (0.1, 0.02)], "mmcl_ssl": [(0.04, 0.02), (0.02, 0.02)]}
    document, page, paper, readme = report(tmp_path, after, monkeypatch)
    verdicts = verdicts_of(document)
    assert verdicts["objective-decides-cc3m"] == "not tested: control failed"
    assert verdicts["drop-17-cc3m"] == "not tested: control failed"
    assert verdicts["mmcl-ssl-fails"] == "not tested: control failed"
    assert verdicts["mmcl-cleans"] == "not reproduced", "about the MMCL model itself"

    control = row_of(document, "cc3m", "100k", "mmcl_ssl")["control"]
    assert control == row_of(document, "cc3m", "100k", "mmcl")["control"]
    assert not control["holds"]
    assert control["loss"] == pytest.approx(0.5) and control["asr"] == pytest.approx(0.02, abs=0.01)
    assert row_of(document, "cc6m", "100k", "mmcl_ssl")["control"] is None

    words = f"fails: 50.0% of the accuracy lost at ASR {100 * control['asr']:.1f}%"
    assert '<span class="verdict not-tested">not tested: control failed</span>' in page
    assert f"CC3M, 100K: {words}" in page
    assert f"positive control {words}" in page
    assert "not tested: control failed" in paper and words.replace("%", r"\%") in paper
    assert "**CC3M, 100K: not tested: control failed; " in readme and words in readme
    assert verify(Path("out/report.json")) == []


def test_where_the_control_holds_the_claim_has_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    after = {"mmcl": [(0.40, 0.02), (0.39, 0.01)], "mmcl_ssl": [(0.20, 0.02), (0.1, 0.02)]}
    document, page, paper, readme = report(tmp_path, after, monkeypatch)
    verdicts = verdicts_of(document)
    assert verdicts["objective-decides-cc3m"] == "reproduced"
    assert row_of(document, "cc3m", "100k", "mmcl")["control"]["holds"]
    for text in (page, paper, readme):
        assert "holds: 0.0" in text
        assert "control failed" not in text


def test_a_model_that_no_rate_cleans_bears_the_claim_out_and_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    after = {"mmcl": [(0.40, 0.02), (0.39, 0.01)], "mmcl_ssl": [(0.40, 0.50), (0.38, 0.40)]}
    document, page, _, readme = report(tmp_path, after, monkeypatch)
    verdicts = verdicts_of(document)
    assert verdicts["objective-decides-cc3m"] == "reproduced"
    (claim,) = [c for c in document["claims"] if c["id"] == "objective-decides-cc3m"]
    (cell,) = claim["evidence"]
    assert cell["by_seed"][0]["note"] == "no evaluation reached the cap"
    clean = row_of(document, "cc3m", "100k", "mmcl_ssl")["clean_accuracy"]
    assert (clean["reproduced"], clean["missing"]) == (None, 0) and clean["evaluations"] > 0
    assert "none reached the cap" in page and "never cleaned" in page
    (line,) = [x for x in readme.splitlines() if x.startswith("| CC3M, 100K | MMCL + SSL")]
    assert line.split(" | ")[5] == "none"


def test_over_several_seeds_the_control_is_judged_by_their_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same loss on both seeds, 10%: one control, and both seeds are left untested by it."""
    after = {"mmcl": [(0.36, 0.02), (0.1, 0.02)], "mmcl_ssl": [(0.10, 0.02), (0.1, 0.02)]}
    document, _, _, readme = report(tmp_path, after, monkeypatch, seeds=(0, 1))
    control = row_of(document, "cc3m", "100k", "mmcl")["control"]
    assert (control["holds"], control["seeds"], control["cleaned"]) == (False, 2, 2)
    (claim,) = [c for c in document["claims"] if c["id"] == "objective-decides-cc3m"]
    (cell,) = claim["evidence"]
    assert [item["verdict"] for item in cell["by_seed"]] == ["not tested: control failed"] * 2
    assert cell["control"] == control
    assert "mean of 2 seeds" in readme


def test_a_failed_control_leaves_a_hardly_poisoned_seed_untested_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On seed 1 the attack took on the MMCL model alone."""
    after = {"mmcl": [(0.20, 0.02), (0.1, 0.02)], "mmcl_ssl": [(0.04, 0.02), (0.02, 0.02)]}
    starts = {("mmcl_ssl", 1): (0.40, 0.30)}
    document, *_ = report(tmp_path, after, monkeypatch, seeds=(0, 1), starts=starts)
    (claim,) = [c for c in document["claims"] if c["id"] == "objective-decides-cc3m"]
    (cell,) = claim["evidence"]
    assert claim["verdict"] == "not tested: control failed"
    assert [item["verdict"] for item in cell["by_seed"]] == ["not tested: control failed"] * 2
    assert cell["by_seed"][1]["note"] == "the start model was hardly poisoned"


@pytest.mark.parametrize(
    ("after", "claim", "verdict"),
    [
        # Nothing keeps 95%: MMCL + SSL models under MMCL finetuning are as poisoned as before.
        ([(0.30, 0.20), (0.2, 0.1)], "mmcl-finetuning-keeps-asr", "not tested: accuracy not kept"),
        ([(0.30, 0.20), (0.2, 0.1)], "no-loss-cleans-mmcl-ssl", "not tested: accuracy not kept"),
        ([(0.39, 0.90), (0.2, 0.1)], "no-loss-cleans-mmcl-ssl", "reproduced"),
        # The best is the last, so nothing is known of what comes after it.
        (
            [(0.20, 0.90), (0.39, 0.02)],
            "more-epochs-do-not-hurt",
            "not tested: best evaluation is the last",
        ),
        (
            [(0.20, 0.90), (0.39, 0.02)],
            "more-epochs-keep-asr",
            "not tested: best evaluation is the last",
        ),
        ([(0.39, 0.02), (0.10, 0.02)], "more-epochs-do-not-hurt", "not reproduced"),
        # A fallback may speak against a claim: no model that keeps its accuracy has a low ASR.
        ([(0.20, 0.01), (0.1, 0.01)], "mmcl-cleans-to-low-asr", "not reproduced"),
    ],
)
def test_a_measure_that_falls_back_bears_out_no_claim(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: list[tuple[float, float]],
    claim: str,
    verdict: str,
):
    profile = write_specs(tmp_path)
    for spec in [*pretrain_runs(profile, "cc3m"), *clean_runs(profile, "cc3m")]:
        write_run(tmp_path, spec, [START] if spec.stage == "pretrain" else [START, *after])
    document, _ = build_at(tmp_path, profile, monkeypatch)
    (found,) = [of for of in document["claims"] if of["id"] == claim]
    cells = [cell for cell in found["evidence"] if cell["dataset"] == "cc3m"]
    assert {cell["verdict"] for cell in cells} == {verdict}


@pytest.mark.parametrize(
    ("outcomes", "holds", "words"),
    [
        ([(0.9, 0.05, 0.03, True)], True, "holds: 5.0% of the accuracy lost at ASR 3.0% from"),
        ([(0.9, 0.051, 0.03, True)], False, "fails: 5.1% of the accuracy lost"),
        ([(0.9, 1.0, 0.2, False)], False, "fails: no learning rate reaches the cap, lowest ASR 20"),
        ([(0.4, 0.0, 0.0, True)], False, "fails: 0.0% of the accuracy lost at ASR 0.0% from a st"),
        ([(0.9, 0.0, 0.0, True), (0.9, 0.08, 0.04, True)], True, "holds: 4.0% of the accuracy"),
        (
            [(0.9, 0.0, 0.0, True), (0.9, 1.0, 0.2, False)],
            False,
            "fails: 50.0% of the accuracy lost at ASR 10.0% from a start ASR of 90.0%, "
            "mean of 2 seeds, 1 of them cleaned",
        ),
    ],
)
def test_the_control_is_a_mean_over_seeds_and_asks_for_a_backdoor(
    outcomes: list[tuple[float, float, float, bool]], holds: bool, words: str
):
    control = judged_control([ControlOutcome(*outcome) for outcome in outcomes], RULE)
    assert control is not None and control["holds"] is holds
    assert control_words(control).startswith(words)


def test_a_control_that_was_not_run_is_no_control():
    assert judged_control([], RULE) is None
    assert control_words(None) == "not run"
