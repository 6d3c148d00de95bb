"""A model that no learning rate cleans has no accuracy at the cap: tables of studies tell it and
average the others, verdicts take it as not cleaned.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.article.latex import tex
from repro.report.judging.claims import load_claims
from repro.report.numbers.evidence import Settings
from repro.report.pages.findings import findings_block
from repro.report.studies.effects import effects, interactions
from repro.report.studies.outcomes import VariantCell, VariantOutcome
from repro.report.studies.words import outcome_text
from repro.runs.published import read_results
from repro.spec import Profile
from repro.study.archive import write_archive
from tests.support.ledger import build_at, write_run, write_specs, write_study_spec

KEPT = {"default": (0.40, 0.42, 0.44), "worse": (0.20, 0.205, 0.21)}
"""Best accuracy after cleaning, by seed."""
NEVER = ("worse", 2)
"""Variant and seed whose runs all end above the cap."""


def write_study_of_mmcl(
    root: Path, never: tuple[str, int] | None = NEVER, *, worse_poisoned: bool = True
) -> Profile:
    """A study of the MMCL model of CC3M over three seeds, and the profile."""
    profile = write_specs(root)
    changes: dict[str, dict[str, Any]] = {
        "default": {},
        "worse": {"switches.text_view": "redrawn"},
    }
    write_study_spec(root, "matter", changes)
    for variant, kept in KEPT.items():
        seeds = load_profile(
            "mini", root / "specs", {"pretrain.seeds": [0, 1, 2], **changes[variant]}
        )
        poisoned = worse_poisoned or variant != "worse"
        for spec in [
            *pretrain_runs(seeds, "cc3m", "mmcl", variant=variant, poisoned=poisoned),
            *clean_runs(seeds, "cc3m", "mmcl", variant=variant, poisoned=poisoned),
        ]:
            left = 0.50 if (variant, spec.seed) == never else 0.02
            if spec.stage == "pretrain":
                write_run(root / "made", spec, [(0.4, 0.9)])
            elif spec.loss == "mmcl_ssl":
                write_run(root / "made", spec, [(0.4, 0.9), (kept[spec.seed], left)])
    write_archive(
        root / "results/studies/matter.jsonl.gz",
        ((record, rows) for _, record, rows in read_results(root / "made")),
    )
    return profile


def test_a_seed_on_which_nothing_was_cleaned_is_told_and_no_accuracy_of_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = write_study_of_mmcl(tmp_path)
    document, page = build_at(tmp_path, profile, monkeypatch)
    default, worse = document["studies"][0]["rows"]
    assert (default["tried"], default["not_cleaned"]) == (3, 0)
    assert (worse["tried"], worse["not_cleaned"]) == (3, 1)
    assert worse["values"]["cleaned_accuracy"][2] is None
    assert worse["means"]["cleaned_accuracy"] == pytest.approx((0.20 + 0.205) / 2)

    # -20 and -21.5 points on the two seeds that have a pair.
    effect = worse["effects"]["cleaned_accuracy"]
    assert (effect["value"], effect["n"]) == (pytest.approx(-0.2075, abs=1e-9), 2)
    assert worse["effects"]["lowest_asr"]["n"] == 3

    # Shown everywhere, beside the effect over the others.
    told = "none on 1 of 3 seeds"
    assert f'<span class="interval">{told}</span>' in page
    assert f"({told})" in tex(document, "0" * 64)
    lines = findings_block("mini").splitlines()
    (row,) = [line for line in lines if line.startswith("| worse")]
    assert re.search(r"\| -20\.\d \[[^]]*\] *u?; none on 1 of 3 seeds \|", row)
    assert f"  - `matter`: `worse` (CC3M, 100K, MMCL: {told})" in lines

    # Choices stand by their study, and a measure that nothing moved says so.
    head = "- Choices that move the {} by more than the spread between trainings:"
    moved = lines[lines.index(head.format("best accuracy at the cap")) + 1]
    assert moved.startswith("  - `matter`: `worse` (CC3M, 100K, MMCL: -20.8 [")
    assert head.format("accuracy before cleaning") + " none." in lines


@pytest.mark.parametrize(("never", "told"), [(None, True), (NEVER, False)])
def test_a_price_is_told_of_models_that_were_cleaned_on_every_seed(
    tmp_path: Path, never: tuple[str, int] | None, told: bool
):
    """`worse` as the model without a backdoor: from 40% to 20.5% in the mean, if on all seeds."""
    write_study_of_mmcl(tmp_path, never, worse_poisoned=False)
    spec = tmp_path / "specs/studies/matter.yaml"
    content = json.loads(spec.read_text())
    content["variants"]["worse"]["poisoned"] = False
    spec.write_text(json.dumps(content))
    block = " ".join(findings_block("mini", tmp_path).split())
    assert ("to 20.5 (the best at the cap)" in block) is told
    assert ("price of the finetuning itself" in block) is told


def test_a_verdict_takes_a_model_that_no_rate_cleans_as_not_cleaned(root: Path):
    """MMCL models that lose nothing, and MMCL + SSL models that are not cleaned on any seed."""
    kept, never = VariantOutcome(0.4, 0.9, 0.4, 0.0, 0.0), VariantOutcome(0.4, 0.9, None, 0.6, 1.0)
    found = {
        VariantCell(variant, "cc3m", objective, "100k"): dict.fromkeys(range(3), outcome)
        for variant in ("default", "other")
        for objective, outcome in (
            ("mmcl", kept),
            ("mmcl_ssl", kept if variant == "default" else never),
        )
    }
    settings = Settings.of(load_profile("mini", root / "specs"))
    row = effects(found, "default", load_claims(root / "specs/claims.yaml"), settings)[-1]
    verdicts = {v["id"]: (v["reference"], v["variant"]) for v in row["verdicts"]}
    assert verdicts["mmcl-ssl-fails"] == ("not reproduced", "reproduced")
    assert row["means"]["cleaned_accuracy"] is None
    assert row["effects"]["cleaned_accuracy"] is None
    assert outcome_text(row, "cleaned_accuracy", "default") == "none on 3 of 3 seeds"
    assert interactions(found, "default", 0.95) == []

    # Such an MMCL model is a control that fails.
    beside = {cell: never if cell.objective == "mmcl" else kept for cell in found}
    swapped = {cell: dict.fromkeys(range(3), outcome) for cell, outcome in beside.items()}
    row = effects(swapped, "default", load_claims(root / "specs/claims.yaml"), settings)[-1]
    verdicts = {v["id"]: v["variant"] for v in row["verdicts"]}
    assert verdicts["mmcl-ssl-fails"] == "not tested: control failed"
