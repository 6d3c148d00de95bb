"""Resistance by ledgers whose answer is known by hand, and where the report shows it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.article.latex import tex
from repro.report.document import build_document, claims_of
from repro.report.figures.curves import resisting
from repro.report.numbers.evaluations import Point
from repro.report.numbers.evidence import read_evidence
from repro.report.numbers.intervals import geometric
from repro.report.numbers.resistance import Ended, kept_at, lowest_rate, mean_kept
from repro.report.replay import replay
from repro.spec import RunSpec
from tests.support.ledger import build_at, write_run, write_specs
from tests.support.replay import CC3M, series

START = (0.40, 0.95)
LOW, MIDDLE, HIGH = 1e-4, 1e-3, 1e-2
RATES = "clean.cells.0.learning_rates"


def point(asr: float, accuracy: float = 0.4, rate: float = LOW) -> Point:
    """An evaluation of 1,000 images."""
    return Point(
        source="ledger",
        dataset="cc3m",
        objective="mmcl",
        clean_size="100k",
        loss="mmcl_ssl",
        learning_rate=rate,
        seed=0,
        epoch=1.0,
        step=10,
        correct=round(1000 * accuracy),
        images=1000,
        attacked=round(1000 * asr),
        attackable=1000,
        other_asr=None,
        run=f"lr{rate}",
        index=1,
    )


def test_the_lowest_rate_is_interpolated_in_its_logarithm():
    """From 25% to 1% ASR over a factor of ten, the cap of 5% lies at 20 of 24 parts."""
    ends = [
        Ended(point(asr, rate=rate), 1.0) for asr, rate in ((0.25, LOW), (0.01, MIDDLE), (0.3, 1))
    ]
    found = lowest_rate(ends, 0.05, 0)
    assert found["side"] == "between"
    assert found["rate"] == pytest.approx(LOW * 10 ** (20 / 24))


def test_a_rate_beyond_those_that_were_tried_is_a_bound():
    high = [Ended(point(0.5), 1.0), Ended(point(0.06, rate=MIDDLE), 1.0)]
    assert lowest_rate(high, 0.05, 3) == {"seed": 3, "rate": MIDDLE, "side": "above"}
    low = [Ended(point(0.05), 1.0), Ended(point(0.5, rate=MIDDLE), 1.0)]
    assert lowest_rate(low, 0.05, 3) == {"seed": 3, "rate": LOW, "side": "below"}


def test_what_is_kept_is_a_step_function_of_the_asr_allowed():
    """Nothing below 5%, a half from there on, all from 15% on: in the mean over 0 to 20%, half for
    ten points and all for five are half of it.
    """
    points = [point(0.05, 0.2), point(0.15, 0.4), point(0.10, 0.1), point(0.9, 0.5)]
    start = point(0.95, 0.4)
    assert [kept_at(points, start, cap) for cap in (0.04, 0.05, 0.149, 0.15)] == [0, 0.5, 0.5, 1]
    assert mean_kept(points, start) == pytest.approx((0.10 * 0.5 + 0.05 * 1.0) / 0.20)
    assert mean_kept([point(0.3, 0.4)], start) == 0


def test_a_ratio_over_seeds_has_its_interval_in_logarithms():
    """Factors 2 and 8: four in the mean, and symmetric about it as a factor."""
    mean, ends = geometric([2.0, 8.0], 0.95)
    assert mean == pytest.approx(4)
    assert ends is not None and ends[0] * ends[1] == pytest.approx(16)
    assert geometric([3.0], 0.95) == (pytest.approx(3), None)


def ledger(
    root: Path,
    outcome: Callable[[RunSpec], tuple[float, float]],
    monkeypatch: pytest.MonkeyPatch,
    *,
    seeds: tuple[int, ...] = (0,),
) -> tuple[dict[str, Any], str]:
    """Document and page of the CC3M models with CleanCLIP at three rates.

    `outcome`: accuracy and ASR at the end of a run; half-way the ASR is 90%.
    """
    write_specs(root)
    changes = {"pretrain.seeds": list(seeds), RATES: [LOW, MIDDLE, HIGH]}
    profile = load_profile("mini", root / "specs", changes)
    for spec in [*pretrain_runs(profile, "cc3m"), *clean_runs(profile, "cc3m")]:
        if spec.stage == "pretrain":
            write_run(root, spec, [START])
        elif spec.loss == "mmcl_ssl":
            write_run(root, spec, [START, (0.40, 0.90), outcome(spec)])
    return build_at(root, profile, monkeypatch)


def table(
    left: Mapping[str, tuple[float, float, float]], accuracy: float = 0.40
) -> Callable[[RunSpec], tuple[float, float]]:
    """Outcomes by pre-training objective: the ASR left at the three rates."""
    places = {LOW: 0, MIDDLE: 1, HIGH: 2}

    def outcome(spec: RunSpec) -> tuple[float, float]:
        place = places[spec.schedule.learning_rate]
        return accuracy, left[spec.pretrain_objective][place]

    return outcome


RESISTS = {"mmcl": (0.50, 0.02, 0.01), "mmcl_ssl": (0.90, 0.70, 0.02)}
"""The middle rate takes the MMCL model to the cap, the highest one the other."""


def test_resistance_of_a_ledger_known_by_hand_is_shown_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    document, page = ledger(tmp_path, table(RESISTS), monkeypatch, seeds=(0, 1))
    found = document["resistance"]
    assert (found["study"], found["seeds"]) == (None, [0, 1])
    (cell,) = found["cells"]
    assert (cell["dataset"], cell["clean_size"]) == ("cc3m", "100k")

    # Three rates, both seeds, runs of equal length; all of the accuracy is kept.
    assert [row["learning_rate"] for row in cell["equal"]] == [LOW, MIDDLE, HIGH]
    assert [row["step"] for row in cell["equal"]] == [20] * 3
    assert [row["asr"]["value"] for row in cell["equal"]] == pytest.approx(
        [0.4, 0.68, 0.01], abs=0.01
    )
    assert [row["asr"]["n"] for row in cell["equal"]] == [2] * 3
    assert all(row["kept"]["value"] == 0 for row in cell["equal"])

    # From 50% to 2% and from 70% to 2% over a factor of ten each, one factor of ten apart.
    rates = cell["rates"]
    expected = 10 ** (1 + 65 / 68 - 45 / 48)
    assert [of["side"] for of in (*rates["mmcl"], *rates["mmcl_ssl"])] == ["between"] * 4
    assert rates["ratio"] == pytest.approx(expected, rel=0.03) and not rates["at_least"]

    # Both keep all of their accuracy, from 1% on and from 2% on: one part in twenty between them.
    (ours,) = cell["trade_offs"]
    assert ours["area"]["value"] == pytest.approx(0.01 / 0.20, abs=0.01)

    claims = {claim["id"]: claim for claim in document["own_claims"]}
    assert claims["resists-at-equal-finetuning"]["evidence"][0]["verdict"] == "reproduced"
    assert claims["needs-a-higher-rate"]["evidence"][0]["verdict"] == "reproduced"
    assert "needs-a-higher-rate" not in {claim["id"] for claim in document["claims"]}

    assert "Resistance (ours, not the paper" in page and 'id="claim-needs-a-higher-rate"' in page
    assert f"The latter is {rates['ratio']:.2f} [" in page
    paper = tex(document, "0" * 64)
    assert r"\section{Resistance (ours, not the paper's)}" in paper
    assert f"{rates['ratio']:.2f} [" in paper and "figures/resistance.pdf" in paper
    left, right = resisting(document).axes
    assert left.get_xscale() == "log"
    assert [line.get_label() for line in right.get_lines()[:2]] == ["MMCL", "MMCL + SSL"]


def test_a_model_that_no_rate_cleans_gives_a_bound_and_an_area(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    left = RESISTS | {"mmcl_ssl": (0.90, 0.70, 0.60)}
    document, page = ledger(tmp_path, table(left), monkeypatch)
    (cell,) = document["resistance"]["cells"]
    rates = cell["rates"]
    assert rates["mmcl_ssl"] == [{"seed": 0, "rate": HIGH, "side": "above"}]
    assert rates["at_least"] and rates["ratio"] > 10
    assert "above 0.01 for MMCL + SSL" in page and "at least " in page

    # A rate has no interval over images, so that one seed decides nothing about it.
    verdicts = {claim["id"]: claim["evidence"][0]["verdict"] for claim in document["own_claims"]}
    assert verdicts["needs-a-higher-rate"] == verdicts["keeps-less-accuracy"] == "undecided"
    assert verdicts["resists-at-equal-finetuning"] == "reproduced"

    # The MMCL model keeps all from its 1% on, the other one nothing at all.
    (ours,) = cell["trade_offs"]
    lowest = min(end["asr"] for row in cell["equal"] for end in row["mmcl"])
    assert ours["area"]["value"] == pytest.approx((0.20 - lowest) / 0.20)
    assert ours["area"]["ci"] is None


def test_claims_of_ours_are_not_tested_where_the_control_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A quarter of the accuracy is lost by both."""
    document, page = ledger(tmp_path, table(RESISTS, accuracy=0.30), monkeypatch, seeds=(0, 1))
    asked = [claim for claim in document["own_claims"] if claim["clean_sizes"] == ["100k"]]
    cells = [claim["evidence"][0] for claim in asked]
    assert len(cells) == 3
    assert "<dt>Besides</dt>" not in page
    assert {cell["verdict"] for cell in cells} == {"not tested: control failed"}
    assert all(cell["control"]["loss"] == pytest.approx(0.25) for cell in cells)


def test_without_runs_there_is_no_resistance_and_no_figure_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = write_specs(tmp_path)
    monkeypatch.chdir(tmp_path)
    document = build_document(read_evidence(profile, Path()), claims_of())
    assert document["resistance"]["cells"] == []
    assert {claim["verdict"] for claim in document["own_claims"]} == {"not run"}


def test_of_the_authors_points_there_is_the_trade_off_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """At 4.0% ASR the MMCL model keeps 7,000 of 8,000 images and the other one 5,000, both 7,500
    from 6.0% on.
    """
    monkeypatch.chdir(root)
    (tmp_path / CC3M).write_text(json.dumps(series()))
    document = replay(tmp_path, tmp_path / "out")
    (cell,) = document["resistance"]["cells"]
    assert (cell["equal"], cell["rates"]) == ([], None)
    (theirs,) = cell["trade_offs"]
    width = 1_000 / 49_950
    assert theirs["source"] == "authors"
    assert theirs["area"]["value"] == pytest.approx(width / 0.20 * 2_000 / 8_000)
    assert "authors' points" in (tmp_path / "out/index.html").read_text().replace("&#39;", "'")
    assert not math.isnan(theirs["area"]["value"])
