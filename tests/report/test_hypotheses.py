"""Hypotheses of a study on evaluations that are made up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from repro.profile import SPECS
from repro.report.hypotheses import asr_frontier, judged_hypotheses
from repro.report.judging.claims import load_claims
from repro.report.measures import CleanedModel, Context, Evaluations
from repro.report.points import COLUMNS
from repro.study.spec import load_study

CONTEXT = Context.of(load_claims(SPECS / "claims.yaml"), "mini")


def evaluation(**values: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS),
        "study": "mechanism",
        "dataset": "cc6m",
        "clean_size": "200k",
        "loss": "mmcl_ssl",
        "stage": "clean",
        "poisoned": True,
        "diverged": False,
        "handed_on": False,
        "learning_rate": CONTEXT.rate,
        "step": 0,
        "epoch": 0.0,
        "index": 0,
        "accuracy": 0.4,
        "num_correct": 4,
        **values,
    }


def study_frame(left: dict[str, float], seeds: list[int]) -> pd.DataFrame:
    """Start and end of a run for each model of `<variant>/<objective>`, with the ASR left."""
    rows = []
    for label, asr in left.items():
        variant, objective = label.split("/")
        for seed in seeds:
            model = {"variant": variant, "pretrain_objective": objective, "seed": seed}
            run = {**model, "run": f"{label}/{seed}"}
            noise = 0.01 * ((seed * 7) % 5 - 2)
            rows.append(evaluation(**run, asr=0.95))
            rows.append(
                evaluation(**run, step=9, epoch=1.0, index=1, asr=asr + noise * (asr > 0.5))
            )
    return pd.DataFrame(rows)


LEFT = {
    "cleanclip/mmcl": 0.03,
    "cleanclip/mmcl_ssl": 0.6,
    "crop_view/mmcl_ssl": 0.2,
    "word_view/mmcl_ssl": 0.59,
    "reset_temperature/mmcl_ssl": 0.6,
    "fresh_head/mmcl_ssl": 0.7,
    "parts/image_ssl": 0.6,
    "parts/text_ssl": 0.04,
    "parts/two_views": 0.02,
    "parts/ssl_unused": 0.03,
}


def test_a_hypothesis_is_supported_or_refuted_by_the_mean_over_seeds() -> None:
    study = load_study("mechanism")
    frame = study_frame(LEFT, [25, 26, 27, 28, 29])
    judged = judged_hypotheses("mechanism", study, Evaluations(frame, 0.05), CONTEXT)
    verdicts = {row.says.split(" cleans")[0].split(" make")[0]: row.verdict for row in judged}
    assert verdicts == {
        "another image view": "supported",
        "another text view": "supported, negligible",
        "a temperature reset": "refuted",
        "a new projection head": "refuted",
        "the image SSL term alone": "supported",
        "the text SSL term alone": "supported, negligible",
        "the augmentations alone": "refuted",
        "encoding a second view without gradient": "refuted",
    }
    first = judged[0]
    assert first.sum is not None and first.sum.mean == pytest.approx(-0.4, abs=0.02)
    assert first.p is not None and first.p < 0.001


def test_no_verdict_until_all_seeds_are_there() -> None:
    study = load_study("mechanism")
    frame = study_frame(LEFT, [25, 26, 27, 28])
    judged = judged_hypotheses("mechanism", study, Evaluations(frame, 0.05), CONTEXT)
    assert {row.verdict for row in judged} == {"not run"}
    assert all(row.sum is not None and row.sum.seeds == 4 for row in judged)


def test_the_frontier_is_chosen_on_validation_and_read_on_test_images() -> None:
    columns = ["validation_accuracy", "validation_asr", "test_asr"]
    states = [(0.40, 0.9, 0.8), (0.39, 0.5, 0.6), (0.36, 0.1, 0.2), (0.30, 0.0, 0.0)]
    rows = [evaluation(step=i, **dict(zip(columns, s, strict=True))) for i, s in enumerate(states)]
    frame = pd.DataFrame(rows)
    model = CleanedModel(frame.iloc[0], frame, 0.05)
    # Up to a loss of 2.5% the start, to 10% the second state, to 20% the third.
    parts = np.array([0.025, 0.075, 0.1]) / 0.2
    assert asr_frontier(model, CONTEXT) == pytest.approx(parts @ [0.8, 0.6, 0.2], abs=0.003)
