"""The examples at the head of docs/method.md, computed again from the archived rows alone."""

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
    hits = last.attacked + 0.5
    misses = last.attackable - last.attacked + 0.5
    logits = (hits / misses).map(math.log)
    high = last.index[last.asr <= CAP][0]
    low = last.index[last.index < high][-1]
    threshold = math.log(CAP / (1 - CAP))
    share = (threshold - logits[low]) / (logits[high] - logits[low])
    return float(low * (high / low) ** share)


def scientific(value: float) -> str:
    """With one digit of the exponent, as the page has it."""
    return f"{value:.1e}".replace("e-0", "e-")


@pytest.fixture(scope="module")
def examples(root: Path) -> list[str]:
    """The three examples of the page."""
    text = " ".join((root / "docs/method.md").read_text().split())
    return re.findall(r" [123]\. \*.*?(?= [23]\. \*| ## )", text)


def test_the_examples_of_the_rules_are_what_the_archive_gives(
    examples: list[str], points: pd.DataFrame
) -> None:
    first, second, third = examples
    start, ssl = of(points, 15, "mmcl_ssl")
    mmcl_start, mmcl = of(points, 15, "mmcl")

    # The first: learning rates that clean.
    last = ends(ssl).asr
    assert f"{last[2e-3]:.1%} on the MMCL + SSL model of seed 15" in first
    assert f"{last[4e-3]:.1%} at 4e-3" in first
    rate, mmcl_rate = cleaning_rate(ssl), cleaning_rate(mmcl)
    assert scientific(rate) in first
    assert scientific(mmcl_rate) in first
    assert f"{rate / mmcl_rate:.1f} times the learning rate" in first

    # The second: accuracy that is lost.
    before, best = start.accuracy, ssl[ssl.asr <= CAP].accuracy.max()
    has = f"has {best:.1%}, and before cleaning the model had {before:.1%}"
    assert f"{has}: it lost {1 - best / before:.1%}" in second
    before, best = mmcl_start.accuracy, mmcl[mmcl.asr <= CAP].accuracy.max()
    went = f"went from {100 * before:.1f} to {100 * best:.1f}%"
    assert f"{went} and lost {1 - best / before:.1%}" in second

    # The third: ASR that is left, over all seeds.
    more = []
    for seed in SEEDS:
        left = [ends(of(points, seed, name)[1]).asr[5e-4] for name in ("mmcl", "mmcl_ssl")]
        more.append(left[1] - left[0])
    *listed, final = (f"{100 * one:.1f}" for one in more)
    assert f"have {', '.join(listed)} and {final} points more ASR" in third
    middle, spread = mean(more), stdev(more)
    deviation = f"their standard deviation {100 * spread:.1f}"
    assert f"mean is {100 * middle:.1f} and {deviation}" in third
    error = spread / math.sqrt(len(more))
    half = t.ppf(0.975, len(more) - 1) * error
    assert f"[{100 * (middle - half):.1f}, {100 * (middle + half):.1f}]" in third
    probability = t.sf(middle / error, len(more) - 1)
    assert f"p is {scientific(probability)}" in third
