"""The examples at the head of docs/rules.md, computed again from the archived rows alone."""

import math
import re
from contextlib import chdir
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
import pytest
from scipy.stats import t

import repro

CAP = 0.05
SEEDS = range(15, 25)


@pytest.fixture(scope="module")
def points(root: Path) -> pd.DataFrame:
    with chdir(root):
        points = repro.points("mini")
    return points.query(
        "study == 'confirmation' and variant == 'confirmed' and dataset == 'cc6m'"
        " and (handed_on or clean_size == '200k' and loss == 'mmcl_ssl' and step > 0)"
    )


def of(points: pd.DataFrame, seed: int, objective: str) -> tuple[pd.Series, pd.DataFrame]:
    """A model before cleaning, and the evaluations of its cleaning."""
    own = points.query("seed == @seed and pretrain_objective == @objective")
    return own[own.stage == "pretrain"].iloc[0], own[own.stage == "clean"]


def ends(runs: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation at each learning rate."""
    last = runs.sort_values("step").groupby("learning_rate").tail(1)
    return last.sort_values("learning_rate").set_index("learning_rate")


def cleaning_rate(runs: pd.DataFrame) -> float:
    """Where the line between the logits of two ends passes the threshold."""
    last = ends(runs)
    hits, misses = last.attacked + 0.5, last.attackable - last.attacked + 0.5
    logits = (hits / misses).map(math.log)
    high = last.index[last.asr <= CAP][0]
    low = last.index[last.index < high][-1]
    share = (math.log(CAP / (1 - CAP)) - logits[low]) / (logits[high] - logits[low])
    return float(low * (high / low) ** share)


def test_the_examples_of_the_rules_are_what_the_archive_gives(
    root: Path, points: pd.DataFrame
) -> None:
    text = " ".join((root / "docs/rules.md").read_text().split())
    first, second, third = re.findall(r" [123]\. \*.*?(?= [23]\. \*| \*\*The unit)", text)

    (start, ssl), (mmcl_start, mmcl) = (of(points, 15, name) for name in ("mmcl_ssl", "mmcl"))
    last, rates = ends(ssl).asr, (cleaning_rate(ssl), cleaning_rate(mmcl))
    assert f"{last[2e-3]:.1%} on the MMCL + SSL model of seed 15" in first
    assert f"{last[4e-3]:.1%} at 4e-3" in first
    for rate in rates:
        assert f"{rate:.1e}".replace("e-0", "e-") in first
    assert f"{rates[0] / rates[1]:.1f} times the learning rate" in first

    for (before, runs), words in (
        ((start, ssl), "has {best:.1%}, and before cleaning the model had {start:.1%}: it lost"),
        ((mmcl_start, mmcl), "went from {start:.1f} to {best:.1f}% and lost"),
    ):
        best, scale = runs[runs.asr <= CAP].accuracy.max(), 1 if "best:.1%" in words else 100
        said = words.format(best=scale * best, start=scale * before.accuracy)
        assert f"{said} {1 - best / before.accuracy:.1%}" in second

    more = [
        ends(of(points, seed, "mmcl_ssl")[1]).asr[5e-4]
        - ends(of(points, seed, "mmcl")[1]).asr[5e-4]
        for seed in SEEDS
    ]
    middle, error = mean(more), stdev(more) / math.sqrt(len(more))
    half = t.ppf(0.975, len(more) - 1) * error
    *listed, final = (f"{100 * one:.1f}" for one in more)
    assert f"have {', '.join(listed)} and {final} points more ASR" in third
    assert (
        f"mean is {100 * middle:.1f} and their standard deviation {100 * stdev(more):.1f}" in third
    )
    assert f"[{100 * (middle - half):.1f}, {100 * (middle + half):.1f}]" in third
    probability = t.sf(middle / error, len(more) - 1)
    assert f"p is {probability:.1e}".replace("e-0", "e-") in third
