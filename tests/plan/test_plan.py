"""The plan: work follows from the specifications, FLOPs from the model, hours from both and a rate."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repro.__main__ import main
from repro.plan import forecast
from repro.plan.assumptions import Assumptions, load_assumptions
from repro.plan.flops import count
from repro.plan.forecast import Forecast, arithmetic, cost_table, fixed, plan
from repro.plan.work import Counts, Work, kind_of, work_of
from repro.profile import load_profile
from repro.spec import Profile

GFLOP = 1e9


@pytest.fixture(scope="module")
def paper() -> Profile:
    return load_profile("paper")


@pytest.fixture(scope="module")
def counts(paper: Profile) -> Counts:
    return count(paper, caption_tokens=77, num_images=50_000)


def test_the_towers_of_the_paper_cost_what_is_published_of_them(counts: Counts) -> None:
    """open_clip's docs/model_profile.csv has 12.22 and 5.96 GFLOP for RN50-quickgelu.

    Here one place of the attention pool asks, not all 50: 49 x 2 d^2 FLOPs of queries are left out,
    49 x 2 d D of answers, and 49 x 4 x 50 d of attention. The last of the twelve text blocks treats
    the end token alone: of its 24 d^2 FLOPs a token only keys and values, 4 d^2, are left of the
    other 76 tokens, and of its 4 L^2 d FLOPs of attention 4 L d.
    """
    not_asked = 49 * (2 * 2048**2 + 2 * 2048 * 1024 + 4 * 50 * 2048)
    assert counts.image_forward / GFLOP == pytest.approx(12.22 - not_asked / GFLOP, abs=0.01)
    left_out = 76 * 20 * 512**2 + 4 * 77 * 76 * 512
    assert counts.text_forward / GFLOP == pytest.approx(5.96 - left_out / GFLOP, abs=0.01)


def test_backward_costs_twice_the_forward_pass_but_for_the_pixels(counts: Counts) -> None:
    """The first convolution has 3 x 32 x 3 x 3 weights on 112 x 112 places."""
    assert counts.image_step == 3 * counts.image_forward - 2 * 3 * 32 * 9 * 112**2
    assert counts.text_step == 3 * counts.text_forward


def test_a_cleaning_run_is_20_epochs_and_61_evaluations(paper: Profile, counts: Counts) -> None:
    """0.11 EFLOP with one view, 0.22 with two; 0.0017 for an evaluation by 80,000 prompts."""
    of_cell = [work for work in work_of(paper) if work.spec.cell == "cc3m-mmcl"]
    runs = [work for work in of_cell if work.spec.clean_size == "100k"]
    assert [work.evaluations for work in runs] == [61, *[60] * (len(runs) - 1)]
    for loss, eflop in (("mmcl", 0.108), ("mmcl_ssl", 0.216)):
        work = next(work for work in runs if work.spec.loss == loss)
        assert counts.training(work) / 1e18 == pytest.approx(eflop, rel=0.15)
    untrimmed = counts.evaluation - counts.prompts_forward + 80_000 * counts.text_forward
    assert untrimmed / 1e18 == pytest.approx(0.0017, rel=0.15)
    assert counts.evaluation < 0.8 * untrimmed


FEW_PAIRS = {
    "data.num_pairs": {"cc3m": 5_000, "cc6m": 10_344},
    "data.poison.num_poisoned": {"cc3m": 300, "cc6m": 300},
    "data.cleaning_sizes": {"100k": 1_000, "200k": 2_000},
    "pretrain.objectives.mmcl.epochs": 16,
    "pretrain.objectives.mmcl.global_batch_size": 64,
    "pretrain.evaluate_every_epochs": 4,
    "pretrain.seeds": [0],
    "clean.epochs": 4,
    "clean.evaluations_per_epoch": 3,
    "clean.cells.0.global_batch_size": 64,
    "clean.cells.2.global_batch_size": 64,
}
"""Counts that a test can reckon with, whatever `mini` has."""


def test_pairs_and_evaluations_follow_from_batch_and_rhythm() -> None:
    """10,344 pairs are 161 batches of 64; 1,000 are 15."""
    profile = load_profile("mini", overrides=FEW_PAIRS)
    works = {(work.spec.cell, work.spec.run_id): work for work in work_of(profile)}
    pretrain = works["cc6m-mmcl", "seed0"]
    assert (pretrain.pairs, pretrain.evaluations, pretrain.spec.num_views) == (16 * 161 * 64, 5, 1)
    key = ("cc3m-mmcl", "clean")
    clean = [work for work in works.values() if (work.spec.cell, work.spec.stage) == key]
    assert [work.pairs for work in clean] == [4 * 15 * 64] * len(clean)
    assert [work.evaluations for work in clean] == [13, *[12] * (len(clean) - 1)]

    # Held-out and validation pairs are not trained on.
    fewer = {"switches.cleaning_pairs": "held_out", "data.num_validation": 344}
    works_of_fewer = work_of(load_profile("mini", overrides=FEW_PAIRS | fewer))
    work = next(work for work in works_of_fewer if work.spec.cell == "cc6m-mmcl")
    assert work.pairs == 16 * ((10_344 - 344 - 2_000) // 64) * 64


@pytest.fixture(scope="module")
def assumptions() -> Assumptions:
    return load_assumptions()


@pytest.fixture(scope="module")
def costs(paper: Profile, counts: Counts, assumptions: Assumptions) -> Forecast:
    return Forecast(paper, counts, 8, assumptions)


def chosen(costs: Forecast, stage: str, cell: str) -> Work:
    return next(w for w in costs.works if (w.spec.stage, w.spec.cell) == (stage, cell))


def test_a_run_takes_its_flops_over_the_rate(costs: Forecast, assumptions: Assumptions) -> None:
    """A tenth of the A100's TF32 peak, 15.6 TFLOP/s; checkpoints take a hundredth."""
    work = chosen(costs, "clean", "cc3m-mmcl")
    low, high = costs.seconds(work, fixed(assumptions.devices["a100"], 0.1))
    flops = costs.counts.training(work) * 1.01 + work.evaluations * costs.counts.evaluation
    assert low == pytest.approx(flops / 15.6e12)
    assert high == pytest.approx(low), "seven loaders keep up with files of a mirror"


def test_a_device_waits_for_slow_loaders(costs: Forecast, assumptions: Assumptions) -> None:
    """A pair of 224 px takes 0.4 ms of a core, of a mirror 3.3; one loader lets the GPU wait."""
    pixels = 224**2
    low, high = assumptions.host_seconds(pixels, 1, False)
    assert (low, high) == pytest.approx((0.0079 * 0.050176, 0.065 * 0.050176))
    assert assumptions.host_seconds(pixels, 1, True) == (0.0, 0.0)
    decoded = assumptions.host_seconds(pixels, 2, True)[0]
    assert decoded == pytest.approx(0.0114 * 0.050176 + 0.000034)

    work = chosen(costs, "pretrain", "cc3m-mmcl")
    gpu = fixed(assumptions.devices["h100"], 1.0)
    fed = costs.seconds(work, gpu)[1]
    starved = costs.seconds(work, gpu.model_copy(update={"loaders": 1}))[1]
    evaluating = work.evaluations * costs.counts.evaluation / 494.7e12
    assert starved - evaluating == pytest.approx(work.pairs * high * 1.01)
    assert fed - evaluating == pytest.approx(work.pairs * high / 7 * 1.01)


def test_few_gpus_compute_a_forward_pass_twice(costs: Forecast, assumptions: Assumptions) -> None:
    """On one A100 of 40 GB eight BatchNorm groups of 36 GB want the gradient cache: a third more."""
    work = chosen(costs, "pretrain", "cc3m-mmcl")
    gpu = fixed(assumptions.devices["a100"], 0.2)
    one = replace(costs, gpus=1, group_bytes={})
    one.group_bytes[kind_of(work.spec)] = 36 * 10**9
    evaluating = work.evaluations * costs.counts.evaluation / (0.2 * 156e12)
    ratio = (one.seconds(work, gpu)[0] - evaluating) / (costs.seconds(work, gpu)[0] - evaluating)
    assert ratio == pytest.approx(4 / 3, rel=0.01)
    assert [replace(costs, gpus=n).ranks(work.spec) for n in (1, 7, 100)] == [1, 4, 8]


def test_the_clock_takes_all_gpus_or_one(costs: Forecast, assumptions: Assumptions) -> None:
    hours = costs.hours(fixed(assumptions.devices["a100"], 0.2))
    assert hours["total"][0] == pytest.approx(hours["pretrain"][0] + hours["clean"][0])
    assert hours["wall"][0] == pytest.approx(hours["total"][0] / 8, rel=0.001)
    assert hours["wall"][0] <= hours["wall"][1]


def test_every_assumption_names_its_source(root: Path) -> None:
    lines = (root / "specs/plan.yaml").read_text(encoding="utf-8").splitlines()[1:]
    values = [line for line in lines if not re.match(r"devices:|  \w+:$|    name: ", line)]
    source = re.compile(r" # (assumed|paper|code|measured): \w")
    assert len(values) > 25 and [line for line in values if not source.search(line)] == []


def test_the_parts_add_up() -> None:
    content = plan("paper")
    assert content["pretrain_eflop"] == pytest.approx(9.4 + 18.9 + 20.8 + 41.5, rel=0.15)
    total = content["pretrain_eflop"] + content["clean_eflop"]
    assert total == pytest.approx(sum(row["eflop"] for row in content["models"]))
    for name, rate in (("a100", 156e12 * 0.26 * 0.87), ("h100", 494.7e12 * 0.18 * 0.87)):
        low, high = content["gpu_hours"][name]
        assert low == pytest.approx(total * 1e18 / rate / 3600, rel=0.02) and low < high
    hours = content["hours"]["a100"]
    assert hours["kwh"][0] == pytest.approx(content["gpu_hours"]["a100"][0] * 0.4 * 1.5)
    assert hours["kg_co2e"][1] == pytest.approx(hours["kwh"][1] * 0.45)
    assert content["disk_bytes"] == sum(content["disk_bytes_by_folder"].values()) > 100e9
    assert content["incoming_bytes_of_a_mirror"] > content["disk_bytes_by_folder"]["incoming"]
    assert "| cc6m-mmcl_ssl | 1 | 383,975,424 | 65 |" in cost_table(content)


def test_the_fastest_arithmetic_shortens_every_step_alike(costs: Forecast) -> None:
    """On an A100 156 x 0.21 x 0.87 against 312 x 0.17 x 1.25 TFLOP/s."""
    fastest = {"precision": "bf16", "compile": True, "deterministic": False}
    changes = {f"{stage}.{k}": v for stage in ("pretrain", "clean") for k, v in fastest.items()}
    fast = replace(costs, profile=load_profile("paper", overrides=changes))
    slow_hours, hours = (of.hours(costs.assumptions.devices["a100"]) for of in (costs, fast))
    ratio = slow_hours["total"][1] / hours["total"][1]
    assert ratio == pytest.approx(312 * 0.17 * 1.25 / (156 * 0.21 * 0.87), rel=0.01)


def test_plan_gives_json_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- plan-smoke:start -->\n<!-- plan-smoke:end -->\n")
    options = ["--json", "--gpus", "2", "--utilisation", "0.5", "--table", str(page)]
    assert main(["plan", "--profile", "smoke", *options]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["gpus"] == 2 and content["gpu_hours"].keys() == {"a100", "h100"}
    assert "| **pretrain** | 4 | 1,664 | 12 |" in page.read_text()


def test_rates_that_gpu_check_measured_give_hours_of_their_own(
    tmp_path: Path, costs: Forecast, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {"device": "NVIDIA X", "memory_bytes": 80 * 10**9, "flops": {"tf32": 50e12}}
    monkeypatch.setattr(forecast, "MEASURED", tmp_path / "gpu-check.json")
    assert forecast.measured_hours(costs) is None
    forecast.MEASURED.write_text(json.dumps(measured))
    content = forecast.measured_hours(costs)
    assert content and content["device"] == "NVIDIA X"
    flops = sum(costs.totals(stage)["eflop"] for stage in ("pretrain", "clean")) * 1e18
    assert content["total"][0] == pytest.approx(flops / 50e12 / 3600, rel=0.02)

    # Nothing was measured in the arithmetic of this one.
    fast = load_profile("paper_lean")
    assert arithmetic("bf16", fast.pretrain) == "bf16 compiled fast"
    assert forecast.measured_hours(replace(costs, profile=fast)) is None


@pytest.fixture(scope="module")
def lean() -> dict[str, Any]:
    return plan("paper_lean")


def test_paper_lean_takes_200_h100_hours_and_cc3m_100(lean: dict[str, Any], root: Path) -> None:
    low, high = lean["gpu_hours"]["h100"]
    assert low < high <= 200
    half = plan("paper_lean", dataset="cc3m")
    assert half["gpu_hours"]["h100"][1] <= 100
    assert half["disk_bytes"] < lean["disk_bytes"] / 2
    assert {row["cell"] for row in half["models"]} == {"cc3m-mmcl", "cc3m-mmcl_ssl"}
    page = (root / "docs/a100.md").read_text(encoding="utf-8")
    assert cost_table(lean) in page, "the page has the tables that the command writes"


def test_the_work_of_paper_lean_counted_by_hand(lean: dict[str, Any], counts: Counts) -> None:
    """Of 61 evaluations a run two in three lie within an epoch, on 20,000 images, not 50,000."""
    pairs = [64 * 1330 * 2048, 64 * 2661 * 1024, 21 * 2929 * 2048, 36 * 5859 * 1024]
    rows = {(row["stage"], row["cell"]): row for row in lean["models"]}
    cells = ("cc3m-mmcl", "cc3m-mmcl_ssl", "cc6m-mmcl", "cc6m-mmcl_ssl")
    assert [rows["pretrain", cell]["pairs"] for cell in cells] == pairs
    assert [rows["pretrain", cell]["evaluations"] for cell in cells] == [65, 65, 22, 37]

    # Towers with captions of 38 tokens: per token 11 x 24 d^2 + 4 d^2 and, for the causal square of
    # attention, 11 x 4 L d; the image tower is that of `paper`.
    width, length = 512, 38
    text = (11 * 24 + 4) * width**2 * length + 11 * 4 * length**2 * width
    view = 3 * (counts.image_forward + text)
    for cell, count_of, views in zip(cells, pairs, (1, 2, 1, 2), strict=True):
        evaluations = rows["pretrain", cell]["evaluations"] * counts.evaluation
        total = count_of * views * view + evaluations
        assert rows["pretrain", cell]["eflop"] * 1e18 == pytest.approx(total, rel=0.02)

    image = 2 * (counts.image_forward + 2 * 1024 * 1000)
    for cell, steps, runs in (("cc3m-mmcl", [781], 39), ("cc6m-mmcl_ssl", [781, 1562], 24)):
        # Of three losses two take two views.
        views = sum(runs * 20 * 128 * n * 5 / 3 for n in steps)
        number = runs * len(steps)
        prompts = (60 * number + 1) * counts.prompts_forward
        images = number * (20 * 50_000 + 40 * 20_000) + 50_000
        total = views * view + prompts + images * image
        assert rows["clean", cell]["runs"] == number
        assert rows["clean", cell]["evaluations"] == 60 * number + 1
        assert rows["clean", cell]["eflop"] * 1e18 == pytest.approx(total, rel=0.02)


def test_plan_names_what_differs_from_the_paper_and_what_it_saves(lean: dict[str, Any]) -> None:
    saved = {row["field"]: row["h100_hours"] for row in lean["differences"]}
    assert {"precision", "compile", "deterministic"} < saved.keys()
    assert {"model_age", "text_parts", "images_between", "stop_early"} < saved.keys()
    assert all(0 < low <= high for low, high in saved.values())
    assert "| text_parts | `1` | `4` |" in cost_table(lean)

    # An early end after 5 of 20 epochs leaves out three quarters of the runs that it ends.
    (_, high) = saved["stop_early"]
    ended = {"cc3m": 0.16, "cc6m": 0.62}
    clean = lean["hours"]["h100"]["clean"][0]
    assert 0.75 * ended["cc3m"] < high / (high + clean) < 0.75 * ended["cc6m"]
