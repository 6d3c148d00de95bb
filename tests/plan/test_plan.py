"""The plan: work follows from the specifications, FLOPs from the model, hours from both and a rate."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from repro.__main__ import main
from repro.data import cache
from repro.plan import counted, flops, forecast
from repro.plan.assumptions import Assumptions, load_assumptions
from repro.plan.counted import counts_of
from repro.plan.flops import count
from repro.plan.forecast import Forecast, arithmetic, cost_table, fixed, plan
from repro.plan.work import Counts, Work, work_of
from repro.profile import load_profile
from repro.spec import Profile
from repro.train.model import captions_by_length

GFLOP = 1e9


@pytest.fixture(scope="module")
def paper() -> Profile:
    return load_profile("paper")


@pytest.fixture(scope="module")
def counts(paper: Profile) -> Counts:
    return count(paper, caption_tokens={"cc3m": 77, "cc6m": 77}, num_images=50_000)


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
    assert counts.text_forward["cc6m"] / GFLOP == pytest.approx(5.96 - left_out / GFLOP, abs=0.01)


def test_backward_costs_twice_the_forward_pass_but_for_the_pixels(counts: Counts) -> None:
    """The first convolution has 3 x 32 x 3 x 3 weights on 112 x 112 places."""
    assert counts.image_step == 3 * counts.image_forward - 2 * 3 * 32 * 9 * 112**2
    assert counts.text_step["cc6m"] == 3 * counts.text_forward["cc6m"]


def test_a_cleaning_run_is_20_epochs_and_61_evaluations(paper: Profile, counts: Counts) -> None:
    """0.11 EFLOP with one view, 0.22 with two; 0.0017 for an evaluation by 80,000 prompts."""
    of_model = [work for work in work_of(paper) if work.spec.model_name == "cc3m-mmcl"]
    runs = [work for work in of_model if work.spec.clean_size == "100k"]
    assert [work.evaluations for work in runs] == [61, *[60] * (len(runs) - 1)]
    for loss, eflop in (("mmcl", 0.108), ("mmcl_ssl", 0.216)):
        work = next(work for work in runs if work.spec.loss == loss)
        assert counts.training(work) / 1e18 == pytest.approx(eflop, rel=0.15)
    untrimmed = counts.evaluation - counts.prompts_forward + 80_000 * counts.text_forward["cc3m"]
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
    works = {(work.spec.model_name, work.spec.run_id): work for work in work_of(profile)}
    pretrain = works["cc6m-mmcl", "seed0"]
    assert (pretrain.pairs, pretrain.evaluations, pretrain.spec.num_views) == (16 * 161 * 64, 5, 1)
    key = ("cc3m-mmcl", "clean")
    clean = [work for work in works.values() if (work.spec.model_name, work.spec.stage) == key]
    assert [work.pairs for work in clean] == [4 * 15 * 64] * len(clean)
    assert [work.evaluations for work in clean] == [13, *[12] * (len(clean) - 1)]

    # Held-out and validation pairs are not trained on.
    fewer = {"switches.cleaning_pairs": "held_out", "data.num_validation": 344}
    works_of_fewer = work_of(load_profile("mini", overrides=FEW_PAIRS | fewer))
    work = next(work for work in works_of_fewer if work.spec.model_name == "cc6m-mmcl")
    assert work.pairs == 16 * ((10_344 - 344 - 2_000) // 64) * 64


@pytest.fixture(scope="module")
def assumptions() -> Assumptions:
    return load_assumptions()


@pytest.fixture(scope="module")
def costs(paper: Profile, counts: Counts, assumptions: Assumptions) -> Forecast:
    return Forecast(paper, counts, 8, assumptions)


def chosen(costs: Forecast, stage: str, name: str) -> Work:
    return next(w for w in costs.works if (w.spec.stage, w.spec.model_name) == (stage, name))


def test_a_run_takes_its_flops_over_the_rate(costs: Forecast, assumptions: Assumptions) -> None:
    """A tenth of the A100's TF32 peak, 15.6 TFLOP/s; checkpoints take a hundredth."""
    work = chosen(costs, "clean", "cc3m-mmcl")
    training, evaluating = costs.seconds(work, fixed(assumptions.devices["a100"], 0.1))
    assert training == pytest.approx([costs.counts.training(work) * 1.01 / 15.6e12] * 3)
    assert evaluating == pytest.approx([work.evaluations * costs.counts.evaluation / 15.6e12] * 3)


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
    fed = costs.seconds(work, gpu)[0][-1]
    starved = costs.seconds(work, gpu.model_copy(update={"loaders": 1}))[0][-1]
    assert starved == pytest.approx(work.pairs * high * 1.01)
    assert fed == pytest.approx(work.pairs * high / 7 * 1.01)


def test_few_gpus_compute_a_forward_pass_twice(
    costs: Forecast, assumptions: Assumptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one A100 of 40 GB eight BatchNorm groups of 36 GB want the gradient cache: a third more."""
    work = chosen(costs, "pretrain", "cc3m-mmcl")
    gpu = fixed(assumptions.devices["a100"], 0.2)
    one = replace(costs, gpus=1)
    monkeypatch.setattr(forecast, "group_bytes_of", lambda spec: 36 * 10**9)
    ratio = one.seconds(work, gpu)[0][0] / costs.seconds(work, gpu)[0][0]
    assert ratio == pytest.approx(4 / 3, rel=0.01)
    assert [replace(costs, gpus=n).ranks(work.spec) for n in (1, 7, 100)] == [1, 4, 8]


def test_the_clock_takes_all_gpus_or_one(costs: Forecast, assumptions: Assumptions) -> None:
    hours = costs.hours(fixed(assumptions.devices["a100"], 0.2))
    parts = sum(hours[name] for name in ("pretrain", "clean", "evaluate", "start"))
    assert hours["total"] == pytest.approx(parts)
    assert hours["wall"][0] == pytest.approx(hours["total"][0] / 8, rel=0.001)
    assert hours["wall"][0] <= hours["wall"][1] <= hours["wall"][2]


def test_captions_are_as_long_as_a_step_makes_them(assumptions: Assumptions) -> None:
    """Words by the table of CC12M's paper, 1.3 tokens each and two ends; parts as they are trained."""
    rng = np.random.default_rng(0)
    for dataset, words, deviation in (("cc3m", 10.3, 4.5), ("cc6m", 20.2, 16.3)):
        spread = np.log(1 + (deviation / words) ** 2)
        drawn = rng.lognormal(np.log(words) - spread / 2, spread**0.5, (200, 256))
        lengths = torch.from_numpy(np.minimum(np.round(1.3 * drawn) + 2, 77).astype(np.int64))
        longest = lengths.amax(dim=1).double().mean()
        in_parts = []
        for batch in lengths:
            tokens = torch.zeros(1, 256, int(batch.max()), dtype=torch.long)
            tokens[0].scatter_(1, batch[:, None] - 1, 49407)
            parts, _ = captions_by_length(tokens, 4, torch.device("cpu"))
            in_parts.append(sum(part.numel() for part in parts) / 256)
        assert assumptions.caption_tokens["webdataset"][dataset] == pytest.approx(longest, abs=1)
        mean = assumptions.caption_tokens_in_parts["webdataset"][dataset]
        assert mean == pytest.approx(np.mean(in_parts), abs=1)


def test_compilation_is_paid_by_every_rank_and_process(costs: Forecast) -> None:
    """Four pre-trainings on eight GPUs, and 16 processes that clean with one view and with two."""
    choices = {f"{stage}.compile": True for stage in ("pretrain", "clean")}
    compiled = replace(costs, profile=load_profile("paper", overrides=choices))
    gpu = costs.assumptions.devices["h100"]
    more = compiled.hours(gpu)["start"] - costs.hours(gpu)["start"]
    assert more * 3600 == pytest.approx((4 * 8 + 16 * 2) * np.array([60, 270, 480]))


def test_run_and_plan_decode_the_same_sets_once(
    assumptions: Assumptions, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the memory that docs/a100.md asks for both cleaning sets of the paper fit, no training
    set does; with half of it the larger is decoded at every step.
    """
    page = (root / "docs/a100.md").read_text(encoding="utf-8")
    asked = set(re.findall(r"--mem=(\d+)G", page))
    assert asked == {"128"} and assumptions.host_memory_bytes == 128 * 10**9
    usage = SimpleNamespace(free=10**13)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: usage)
    pixels, images = 224**2, (100_000, 200_000, 3_000_000)
    for memory, expected in ((128, [True, True, False]), (64, [True, False, False])):
        monkeypatch.setattr(cache, "machine_memory", lambda memory=memory: memory * 2**30)
        of_run = [cache.has_room(tmp_path / "x.npy", 3 * pixels * count) for count in images]
        plan_of = assumptions.model_copy(update={"host_memory_bytes": memory * 10**9})
        assert of_run == [plan_of.decoded_once(count, pixels) for count in images] == expected


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
    low, middle, high = content["gpu_hours"]["a100"]
    assert low < middle < high
    hours = content["hours"]["a100"]
    assert hours["kwh"][0] == pytest.approx(content["gpu_hours"]["a100"][0] * 0.4 * 1.5)
    assert hours["kg_co2e"][2] == pytest.approx(hours["kwh"][2] * 0.45)
    assert content["disk_bytes"] == sum(content["disk_bytes_by_folder"].values()) > 100e9
    assert content["incoming_bytes_of_a_mirror"] > content["disk_bytes_by_folder"]["incoming"]
    assert "| cc6m-mmcl_ssl | 1 | 383,975,424 | 65 |" in cost_table(content)


def test_a_model_of_ones_own_is_counted_once_in_a_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next process as well, for which the cache of this one is emptied."""
    profile = load_profile("smoke", overrides={"pretrain.model.embed_dim": 24})
    counted.counted.cache_clear()
    first = counts_of(profile, load_assumptions())
    monkeypatch.setattr(flops, "count", None)
    counted.counted.cache_clear()
    assert counts_of(profile, load_assumptions()) == first
    counted.counted.cache_clear()


def test_plan_gives_json_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- plan-smoke:start -->\n<!-- plan-smoke:end -->\n")
    options = ["--json", "--gpus", "2", "--utilisation", "0.5", "--table", str(page)]
    assert main(["plan", "--profile", "smoke", *options]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["gpus"] == 2 and content["gpu_hours"].keys() == {"a100", "h100"}
    assert "| **pretrain** | 4 | 1,664 | 12 |" in page.read_text()


def test_the_sentence_is_about_as_many_gpus_as_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "--profile", "paper", "--gpus", "4"]) == 0
    assert " on 4; " in capsys.readouterr().out
    assert main(["plan", "--profile", "paper", "--utilisation", "0.5"]) == 0
    assert "| **pretrain** |" in capsys.readouterr().out


def test_rates_that_gpu_check_measured_give_hours_of_their_own(
    tmp_path: Path, costs: Forecast, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"tf32": {"image": 50e12, "text": 100e12, "evaluation": 80e12}}
    measured = {"device": "NVIDIA X", "memory_bytes": 80 * 10**9, "flops": rates}
    monkeypatch.setattr(forecast, "MEASURED", tmp_path / "gpu-check.json")
    assert forecast.measured_hours(costs) is None
    forecast.MEASURED.write_text(json.dumps(measured))
    content = forecast.measured_hours(costs)
    assert content and content["device"] == "NVIDIA X"
    views = sum(work.pairs * work.spec.num_views for work in costs.works)
    pair = costs.counts.image_step / 50e12 + costs.counts.text_step["cc6m"] / 100e12
    trained = content["pretrain"][1] + content["clean"][1]
    assert trained == pytest.approx(views * pair / 3600, rel=0.02)
    evaluated = sum(costs.counts.evaluations(work) for work in costs.works)
    assert content["evaluate"][1] == pytest.approx(evaluated / 80e12 / 3600, rel=0.02)

    # Nothing was measured in the arithmetic of this one.
    fast = load_profile("paper_lean")
    assert arithmetic("bf16", fast.pretrain) == "bf16 compiled fast"
    assert forecast.measured_hours(replace(costs, profile=fast)) is None


@pytest.fixture(scope="module")
def lean() -> dict[str, Any]:
    return plan("paper_lean")


def test_the_pages_have_the_tables_that_the_command_writes(
    lean: dict[str, Any], root: Path
) -> None:
    half = plan("paper_lean", dataset="cc3m")
    assert half["gpu_hours"]["h100"][2] < lean["gpu_hours"]["h100"][2] / 2
    assert half["disk_bytes"] < lean["disk_bytes"] / 2
    assert {row["model_name"] for row in half["models"]} == {"cc3m-mmcl", "cc3m-mmcl_ssl"}
    page = (root / "docs/a100.md").read_text(encoding="utf-8")
    assert cost_table(lean) in page
    assert cost_table(night := plan("night", gpus=1)) in page
    assert night["hours"]["rtx3090"]["wall"][2] <= 12, "a night"


def test_hours_follow_from_published_throughputs(lean: dict[str, Any]) -> None:
    """Without the constants of specs/plan.yaml: ResNet-50 of 3 x 8.2 GFLOP an image trains at 2,078
    to 2,600 images/s on an A100 and 1.7 to 2.1 times as fast on an H100; the paper's tower has 34.7
    GFLOP, a caption of CC3M 5.5 and of CC12M 8.6, at 120 to 220 TFLOP/s. Compiled kernels are up to
    1.2 times as fast, a hundredth goes to checkpoints.
    """
    views = dict.fromkeys(("cc3m", "cc6m"), 0)
    for row in lean["models"]:
        if row["stage"] == "pretrain":
            views[row["model_name"][:4]] += row["pairs"] * (
                2 if row["model_name"].endswith("ssl") else 1
            )
    assert sum(views.values()) == pytest.approx(1081e6, rel=0.001)
    text = (views["cc3m"] * 5.5 + views["cc6m"] * 8.6) / 1000
    image = sum(views.values()) * 34.7 / 24.6
    expected = [
        1.01 * (image / images + text / tflops) / compiled / 3600
        for images, tflops, compiled in ((2600 * 2.1, 220, 1.2), (2078 * 1.7, 120, 1.0))
    ]
    low, middle, high = lean["hours"]["h100"]["pretrain"]
    assert (low, high) == pytest.approx(expected, rel=0.05)
    assert low < middle < high

    # Evaluations, where no run is given up: 11.6 GFLOP an image without and with trigger, 54.7 TFLOP
    # of prompts, at 1.3 times the throughput with BatchNorm folded.
    images = (189 + 4) * 50_000 + 174 * (20 * 50_000 + 40 * 20_000)
    total = 2 * images * 11.6e9 + (189 + 4 + 174 * 60) * 54.7e12
    hours = total / (2078 * 1.7 * 24.6e9 * 1.3) / 3600
    assert lean["hours"]["h100"]["evaluate"][-1] == pytest.approx(hours, rel=0.05)


def test_the_work_of_paper_lean_counted_by_hand(lean: dict[str, Any], counts: Counts) -> None:
    """Of 61 evaluations a run two in three lie within an epoch, on 20,000 images, not 50,000."""
    pairs = [64 * 1330 * 2048, 64 * 2661 * 1024, 21 * 2929 * 2048, 36 * 5859 * 1024]
    rows = {(row["stage"], row["model_name"]): row for row in lean["models"]}
    names = ("cc3m-mmcl", "cc3m-mmcl_ssl", "cc6m-mmcl", "cc6m-mmcl_ssl")
    assert [rows["pretrain", name]["pairs"] for name in names] == pairs
    assert [rows["pretrain", name]["evaluations"] for name in names] == [65, 65, 22, 37]

    # Per token 11 x 24 d^2 + 4 d^2 and, for the causal square of attention, 11 x 4 L d; the image
    # tower is that of `paper`.
    width, view = 512, {}
    for dataset, length in (("cc3m", 26), ("cc6m", 40)):
        text = (11 * 24 + 4) * width**2 * length + 11 * 4 * length**2 * width
        view[dataset] = 3 * (counts.image_forward + text)
    for name, count_of, views in zip(names, pairs, (1, 2, 1, 2), strict=True):
        evaluations = rows["pretrain", name]["evaluations"] * counts.evaluation
        total = count_of * views * view[name[:4]] + evaluations
        assert rows["pretrain", name]["eflop"] * 1e18 == pytest.approx(total, rel=0.02)

    image = 2 * (counts.image_forward + 2 * 1024 * 1000)
    for name, steps, runs in (("cc3m-mmcl", [781], 39), ("cc6m-mmcl_ssl", [781, 1562], 24)):
        # Of three losses two take two views.
        views = sum(runs * 20 * 128 * n * 5 / 3 for n in steps)
        number = runs * len(steps)
        prompts = (60 * number + 1) * counts.prompts_forward
        images = number * (20 * 50_000 + 40 * 20_000) + 50_000
        total = views * view[name[:4]] + prompts + images * image
        assert rows["clean", name]["runs"] == number
        assert rows["clean", name]["evaluations"] == 60 * number + 1
        assert rows["clean", name]["eflop"] * 1e18 == pytest.approx(total, rel=0.02)


def test_the_work_of_cc3m_alone_is_that_of_its_rows(lean: dict[str, Any]) -> None:
    half = plan("paper_lean", dataset="cc3m")["models"]
    assert half == [row for row in lean["models"] if row["model_name"].startswith("cc3m")]


def test_the_work_of_a_night_counted_by_hand() -> None:
    """16 epochs, the last batch of each dropped; 20 epochs of cleaning, evaluated every other one."""
    rows = {(row["stage"], row["model_name"]): row for row in plan("night", gpus=1)["models"]}
    for dataset, pairs in (("cc3m", 150_000), ("cc6m", 300_000)):
        for objective, batch in (("mmcl", 512), ("mmcl_ssl", 256)):
            name = f"{dataset}-{objective}"
            trained = rows["pretrain", name]
            assert trained["pairs"] == 16 * (pairs // batch) * batch
            assert trained["evaluations"] == 1 + 16 // 4
            # Six rates of one loss at either size, two of two others at the smaller.
            cleaned, runs = rows["clean", name], {8000: 10} | ({16000: 6} if pairs > 2e5 else {})
            assert cleaned["runs"] == sum(runs.values())
            assert cleaned["pairs"] == sum(n * 20 * (s // 128) * 128 for s, n in runs.items())
            assert cleaned["evaluations"] == 1 + 10 * cleaned["runs"]


def test_plan_names_what_differs_from_the_paper_and_what_it_saves(lean: dict[str, Any]) -> None:
    saved = {row["field"]: row["h100_hours"] for row in lean["differences"]}
    assert {"precision", "compile", "deterministic"} < saved.keys()
    assert {"model_age", "text_parts", "images_between", "stop_early"} < saved.keys()
    assert all(low <= middle <= high for low, middle, high in saved.values())
    assert all(middle > 0 for _, middle, _ in saved.values())
    assert "| text_parts | `1` | `4` |" in cost_table(lean)

    # An early end after 5 of 20 epochs leaves out three quarters of the runs that it ends.
    (none, middle, _) = saved["stop_early"]
    ended = {"cc3m": 0.08, "cc6m": 0.31}
    clean = lean["hours"]["h100"]["clean"][1]
    assert none == 0
    assert 0.75 * ended["cc3m"] < middle / (middle + clean) < 0.75 * ended["cc6m"]
