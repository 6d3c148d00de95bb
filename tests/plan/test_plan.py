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
from repro.names import Dataset
from repro.plan import counted, flops, forecast
from repro.plan.assumptions import Assumptions, load_assumptions
from repro.plan.counted import counts_of
from repro.plan.flops import count
from repro.plan.forecast import Forecast, arithmetic, cost_table, fixed, plan
from repro.plan.work import Counts, Work, work_of
from repro.profile import load_profile
from repro.spec import Profile
from repro.train.model import captions_by_length
from repro.train.views.tokens import END

GFLOP = 1e9
EFLOP = 1e18


@pytest.fixture(scope="module")
def paper() -> Profile:
    return load_profile("paper")


@pytest.fixture(scope="module")
def counts(paper: Profile) -> Counts:
    whole_context: dict[Dataset, int] = {"cc3m": 77, "cc6m": 77}
    return count(paper, caption_tokens=whole_context, num_images=50_000)


def test_the_towers_of_the_paper_cost_what_is_published_of_them(counts: Counts) -> None:
    """open_clip's docs/model_profile.csv has 12.22 and 5.96 GFLOP for RN50-quickgelu.

    Here one place of the attention pool asks, not all 50: 49 x 2 d^2 FLOPs of queries are left out,
    49 x 2 d D of answers, and 49 x 4 x 50 d of attention. The last of the twelve text blocks treats
    the end token alone: of its 24 d^2 FLOPs a token only keys and values, 4 d^2, are left of the
    other 76 tokens, and of its 4 L^2 d FLOPs of attention 4 L d.
    """
    queries = 2 * 2048**2
    answers = 2 * 2048 * 1024
    attention = 4 * 50 * 2048
    not_asked = 49 * (queries + answers + attention) / GFLOP
    image = counts.image_forward / GFLOP
    assert image == pytest.approx(12.22 - not_asked, abs=0.01)

    of_tokens = 76 * 20 * 512**2
    of_attention = 4 * 77 * 76 * 512
    left_out = (of_tokens + of_attention) / GFLOP
    text = counts.text_forward["cc6m"] / GFLOP
    assert text == pytest.approx(5.96 - left_out, abs=0.01)


def test_backward_costs_twice_the_forward_pass_but_for_the_pixels(counts: Counts) -> None:
    """The first convolution has 3 x 32 x 3 x 3 weights on 112 x 112 places."""
    of_pixels = 2 * 3 * 32 * 9 * 112**2
    assert counts.image_step == 3 * counts.image_forward - of_pixels
    assert counts.text_step["cc6m"] == 3 * counts.text_forward["cc6m"]


def works_of(profile: Profile, name: str) -> list[Work]:
    """Pre-trainings and cleanings of one model."""
    return [work for work in work_of(profile) if work.spec.model_name == name]


def test_a_cleaning_run_is_20_epochs_and_61_evaluations(paper: Profile, counts: Counts) -> None:
    """0.11 EFLOP with one view, 0.22 with two; 0.0017 for an evaluation by 80,000 prompts."""
    of_model = works_of(paper, "cc3m-mmcl")
    runs = [work for work in of_model if work.spec.clean_size == "100k"]
    first, *others = runs
    assert first.evaluations == 61
    assert {work.evaluations for work in others} == {60}

    for loss, eflop in (("mmcl", 0.108), ("mmcl_ssl", 0.216)):
        work = next(work for work in runs if work.spec.loss == loss)
        training = counts.training(work)
        assert training / EFLOP == pytest.approx(eflop, rel=0.15)

    all_prompts = 80_000 * counts.text_forward["cc3m"]
    images = counts.evaluation - counts.prompts_forward
    untrimmed = images + all_prompts
    assert untrimmed / EFLOP == pytest.approx(0.0017, rel=0.15)
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
    pretrain, *_ = works_of(profile, "cc6m-mmcl")
    assert pretrain.spec.run_id == "seed0"
    assert pretrain.pairs == 16 * 161 * 64
    assert pretrain.evaluations == 5
    assert pretrain.spec.num_views == 1

    _, *clean = works_of(profile, "cc3m-mmcl")
    assert {work.spec.stage for work in clean} == {"clean"}
    assert {work.pairs for work in clean} == {4 * 15 * 64}
    first, *others = clean
    assert first.evaluations == 13
    assert {work.evaluations for work in others} == {12}

    # Held-out and validation pairs are not trained on.
    fewer = {"switches.cleaning_pairs": "held_out", "data.num_validation": 344}
    profile = load_profile("mini", overrides=FEW_PAIRS | fewer)
    pretrain, *_ = works_of(profile, "cc6m-mmcl")
    batches = (10_344 - 344 - 2_000) // 64
    assert pretrain.pairs == 16 * batches * 64


@pytest.fixture(scope="module")
def assumptions() -> Assumptions:
    return load_assumptions()


@pytest.fixture(scope="module")
def costs(paper: Profile, counts: Counts, assumptions: Assumptions) -> Forecast:
    return Forecast(paper, counts, gpus=8, assumptions=assumptions)


def chosen(costs: Forecast, stage: str, name: str) -> Work:
    for work in costs.works:
        if work.spec.stage == stage and work.spec.model_name == name:
            return work
    raise LookupError(f"{stage} of {name}")


def test_a_run_takes_its_flops_over_the_rate(costs: Forecast, assumptions: Assumptions) -> None:
    """A tenth of the A100's TF32 peak, 15.6 TFLOP/s; checkpoints take a hundredth."""
    work = chosen(costs, "clean", "cc3m-mmcl")
    gpu = fixed(assumptions.devices["a100"], 0.1)
    training, evaluating = costs.seconds(work, gpu)

    rate = 15.6e12
    seconds = 1.01 * costs.counts.training(work) / rate
    assert training == pytest.approx([seconds] * 3)
    seconds = work.evaluations * costs.counts.evaluation / rate
    assert evaluating == pytest.approx([seconds] * 3)


def test_a_device_waits_for_slow_loaders(costs: Forecast, assumptions: Assumptions) -> None:
    """A pair of 224 px takes 0.4 ms of a core, of a mirror 3.3; one loader lets the GPU wait."""
    pixels = 224**2
    megapixels = 0.050176
    low, high = assumptions.host_seconds(pixels, 1, False)
    assert low == pytest.approx(0.0079 * megapixels)
    assert high == pytest.approx(0.065 * megapixels)

    # Where images lie decoded in a memory map, the second view alone takes time.
    one_view = assumptions.host_seconds(pixels, 1, True)
    two_views, _ = assumptions.host_seconds(pixels, 2, True)
    assert one_view == (0.0, 0.0)
    assert two_views == pytest.approx(0.0114 * megapixels + 0.000034)

    work = chosen(costs, "pretrain", "cc3m-mmcl")
    gpu = fixed(assumptions.devices["h100"], 1.0)
    one_loader = gpu.model_copy(update={"loaders": 1})
    fed, _ = costs.seconds(work, gpu)
    starved, _ = costs.seconds(work, one_loader)
    loading = work.pairs * high * 1.01
    assert starved[-1] == pytest.approx(loading)
    assert fed[-1] == pytest.approx(loading / 7)


def test_few_gpus_compute_a_forward_pass_twice(
    costs: Forecast, assumptions: Assumptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one A100 of 40 GB eight BatchNorm groups of 36 GB want the gradient cache: a third more."""
    work = chosen(costs, "pretrain", "cc3m-mmcl")
    gpu = fixed(assumptions.devices["a100"], 0.2)
    monkeypatch.setattr(forecast, "group_bytes_of", lambda spec: 36 * 10**9)
    one = replace(costs, gpus=1)
    on_one, _ = one.seconds(work, gpu)
    on_eight, _ = costs.seconds(work, gpu)
    ratio = on_one[0] / on_eight[0]
    assert ratio == pytest.approx(4 / 3, rel=0.01)

    cases = [
        (1, 1),
        (7, 4),
        (100, 8),
    ]
    for gpus, ranks in cases:
        on_so_many = replace(costs, gpus=gpus)
        assert on_so_many.ranks(work.spec) == ranks


def test_the_clock_takes_all_gpus_or_one(costs: Forecast, assumptions: Assumptions) -> None:
    gpu = fixed(assumptions.devices["a100"], 0.2)
    hours = costs.hours(gpu)
    total = hours["total"]
    parts = sum(hours[name] for name in ("pretrain", "clean", "evaluate", "start"))
    assert total == pytest.approx(parts)

    low, middle, high = hours["wall"]
    least, *_ = total
    assert low == pytest.approx(least / 8, rel=0.001)
    assert low <= middle <= high


def drawn_lengths(rng: np.random.Generator, words: float, deviation: float) -> torch.Tensor:
    """Tokens of 200 batches of captions, whose numbers of words are log-normal."""
    spread = np.log(1 + (deviation / words) ** 2)
    centre = np.log(words) - spread / 2
    numbers = rng.lognormal(centre, spread**0.5, size=(200, 256))
    lengths = np.round(1.3 * numbers) + 2
    cut = np.minimum(lengths, 77).astype(np.int64)
    return torch.from_numpy(cut)


def tokens_in_parts(lengths: torch.Tensor) -> int:
    """Tokens that a step computes for captions of these lengths in four parts."""
    longest = int(lengths.max())
    tokens = torch.zeros(1, len(lengths), longest, dtype=torch.long)
    ends = lengths[:, None] - 1
    tokens[0].scatter_(1, ends, END)
    cpu = torch.device("cpu")
    parts, _ = captions_by_length(tokens, 4, cpu, compiled=True)
    return sum(part.numel() for part in parts)


def test_captions_are_as_long_as_a_step_makes_them(assumptions: Assumptions) -> None:
    """Words by the table of CC12M's paper, 1.3 tokens each and two ends; parts as they are trained."""
    rng = np.random.default_rng(0)
    tables: list[tuple[Dataset, float, float]] = [
        ("cc3m", 10.3, 4.5),
        ("cc6m", 20.2, 16.3),
    ]
    for dataset, words, deviation in tables:
        lengths = drawn_lengths(rng, words, deviation)

        longest = lengths.amax(dim=1).double().mean()
        whole = assumptions.caption_tokens["webdataset"]
        assert whole[dataset] == pytest.approx(longest, abs=1)
        computed = sum(tokens_in_parts(batch) for batch in lengths)
        a_caption = computed / lengths.numel()
        in_parts = assumptions.caption_tokens_in_parts["webdataset"]
        assert in_parts[dataset] == pytest.approx(a_caption, abs=1)


def test_compilation_is_paid_by_every_rank_and_process(costs: Forecast) -> None:
    """Four pre-trainings on eight GPUs, and 16 processes that clean with one view and with two."""
    choices = {"pretrain.compile": True, "clean.compile": True}
    profile = load_profile("paper", overrides=choices)
    compiled = replace(costs, profile=profile)
    gpu = costs.assumptions.devices["h100"]
    hours = costs.hours(gpu)["start"]
    more = compiled.hours(gpu)["start"] - hours
    compilations = 4 * 8 + 16 * 2
    seconds = np.array([60, 270, 480])
    assert more * 3600 == pytest.approx(compilations * seconds)


def test_run_and_plan_decode_the_same_sets_once(
    assumptions: Assumptions, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the memory that docs/a100.md asks for a cleaning job both sets of the paper fit, no training
    set does; with half of it the larger is decoded at every step.
    """
    page = (root / "docs/a100.md").read_text(encoding="utf-8")
    assert set(re.findall(r"--mem=(\d+)G", page)) == {"64", "128"}
    assert assumptions.host_memory_bytes == 64 * 10**9

    usage = SimpleNamespace(free=10**13)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: usage)
    path = tmp_path / "x.npy"
    pixels = 224**2
    cases = [
        (64, 100_000, True),
        (64, 200_000, True),
        (64, 3_000_000, False),
        (128, 3_000_000, False),
        (32, 100_000, True),
        (32, 200_000, False),
    ]
    for gigabytes, images, expected in cases:
        memory = gigabytes * 2**30
        monkeypatch.setattr(cache, "machine_memory", lambda memory=memory: memory)
        assert cache.has_room(path, 3 * pixels * images) == expected

        memory = gigabytes * 10**9
        of_plan = assumptions.model_copy(update={"host_memory_bytes": memory})
        assert of_plan.decoded_once(images, pixels) == expected


def test_every_assumption_names_its_source(root: Path) -> None:
    content = (root / "specs/plan.yaml").read_text(encoding="utf-8")
    heading = re.compile(r"devices:|  \w+:$|    name: ")
    values = [line for line in content.splitlines()[1:] if not heading.match(line)]
    assert len(values) > 25

    source = re.compile(r" # (assumed|paper|code|measured): \w")
    unsourced = [line for line in values if not source.search(line)]
    assert unsourced == []


def test_the_parts_add_up() -> None:
    content = plan("paper")
    pretrain = content["pretrain_eflop"]
    assert pretrain == pytest.approx(9.4 + 18.9 + 20.8 + 41.5, rel=0.15)
    of_models = sum(row["eflop"] for row in content["models"])
    assert pretrain + content["clean_eflop"] == pytest.approx(of_models)

    low, middle, high = content["gpu_hours"]["a100"]
    assert low < middle < high
    hours = content["hours"]["a100"]
    assert hours["kwh"][0] == pytest.approx(low * 0.4 * 1.5)
    assert hours["kg_co2e"][2] == pytest.approx(hours["kwh"][2] * 0.45)

    disk = content["disk_bytes"]
    folders = content["disk_bytes_by_folder"]
    assert disk == sum(folders.values())
    assert disk > 100e9
    assert content["incoming_bytes_of_a_mirror"] > folders["incoming"]
    assert "| cc6m-mmcl_ssl | 1 | 383,975,424 | 65 |" in cost_table(content)


def test_a_defence_of_one_view_is_counted_as_mmcl(here: Path) -> None:
    """PAR takes the place of the run's loss, SSL included."""
    assumptions = load_assumptions()
    cells = {"clean.cells.*.losses": ["mmcl", "ssl", "mmcl_ssl"]}
    par = load_profile("smoke", overrides=cells | {"clean.defence": {"name": "par"}})
    loss = counts_of(par, assumptions).loss
    assert loss["clean ssl x16"] == loss["clean mmcl_ssl x16"] == loss["clean mmcl x16"]
    plain = counts_of(load_profile("smoke"), assumptions).loss
    assert loss["clean mmcl x16"] == plain["clean mmcl x16"] < plain["clean mmcl_ssl x16"]


def test_what_a_departure_saves_is_told_of_the_profile_as_it_is(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other losses and batches than the paper's, and with the values of params.yaml."""
    own = {"clean.cells.*.losses": ["mmcl_ssl"], "pretrain.objectives.mmcl.global_batch_size": 1024}
    for seeds in ([0], [0, 1, 2]):
        profile = load_profile("paper_lean", overrides=own | {"pretrain.seeds": seeds})
        monkeypatch.setattr(forecast, "graph_profile", lambda name, of=profile: of)
        saved = {
            row["field"]: row["h100_hours"][1] for row in forecast.plan("paper_lean")["differences"]
        }
        assert saved["precision"] > 0
        assert saved["cells"] > 0, "one loss of three"
        assert ("seeds" in saved) == (len(seeds) > 1)


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


def test_plan_gives_json_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--gpus", "2", "--utilisation", "0.5"]
    assert main(["plan", "smoke", "--json", *options]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["gpus"] == 2
    assert content["gpu_hours"].keys() == {"a100", "h100"}
    assert main(["plan", "smoke", "--details", *options]) == 0
    assert "| **pretrain** | 4 | 1,664 | 12 |" in capsys.readouterr().out


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
    assert content
    assert content["device"] == "NVIDIA X"

    views = sum(work.pairs * work.spec.num_views for work in costs.works)
    image = costs.counts.image_step / 50e12
    text = costs.counts.text_step["cc6m"] / 100e12
    seconds = views * (image + text)
    trained = content["pretrain"][1] + content["clean"][1]
    assert trained == pytest.approx(seconds / 3600, rel=0.02)

    evaluations = sum(costs.counts.evaluations(work) for work in costs.works)
    seconds = evaluations / 80e12
    _, evaluated, _ = content["evaluate"]
    assert evaluated == pytest.approx(seconds / 3600, rel=0.02)

    # Nor in both arithmetics of a profile with two.
    cleaning = {"clean.precision": "bf16"}
    mixed = load_profile(costs.profile.name, overrides=cleaning)
    assert forecast.measured_hours(replace(costs, profile=mixed)) is None

    # Nothing was measured in the arithmetic of this one.
    fast = load_profile("paper_lean")
    assert arithmetic("bf16", fast.pretrain) == "bf16 compiled fast"
    costs_of_fast = replace(costs, profile=fast)
    assert forecast.measured_hours(costs_of_fast) is None


@pytest.fixture(scope="module")
def lean() -> dict[str, Any]:
    return plan("paper_lean")


def test_the_pages_have_the_tables_that_the_command_writes(
    lean: dict[str, Any], root: Path
) -> None:
    half = plan("paper_lean", dataset="cc3m")
    hours = half["gpu_hours"]["h100"][2]
    assert hours < lean["gpu_hours"]["h100"][2] / 2
    assert half["disk_bytes"] < lean["disk_bytes"] / 2
    names = {row["model_name"] for row in half["models"]}
    assert names == {"cc3m-mmcl", "cc3m-mmcl_ssl"}

    page = (root / "docs/a100.md").read_text(encoding="utf-8")
    assert cost_table(lean) in page
    night = plan("night", gpus=1)
    assert cost_table(night) in page
    assert night["hours"]["rtx3090"]["wall"][2] <= 12, "a night"


def rows_by_name(models: list[dict[str, Any]], stage: str) -> dict[str, dict[str, Any]]:
    """The rows of a stage by the names of the models."""
    rows = [row for row in models if row["stage"] == stage]
    return {row["model_name"]: row for row in rows}


def test_hours_follow_from_published_throughputs(lean: dict[str, Any]) -> None:
    """Without the constants of specs/plan.yaml: ResNet-50 of 3 x 8.2 GFLOP an image trains at 2,078
    to 2,600 images/s on an A100 and 1.7 to 2.1 times as fast on an H100; the paper's tower has 34.7
    GFLOP, a caption of CC3M 5.5 and of CC12M 8.6, at 120 to 220 TFLOP/s. Compiled kernels are up to
    1.2 times as fast, a hundredth goes to checkpoints.
    """
    rows = rows_by_name(lean["models"], "pretrain")
    pairs = {name: row["pairs"] for name, row in rows.items()}
    views_3m = pairs["cc3m-mmcl"] + 2 * pairs["cc3m-mmcl_ssl"]
    views_6m = pairs["cc6m-mmcl"] + 2 * pairs["cc6m-mmcl_ssl"]
    views = views_3m + views_6m
    assert views == pytest.approx(1081e6, rel=0.001)

    gflop_of_text = views_3m * 5.5 + views_6m * 8.6
    text = gflop_of_text / 1000  # TFLOP
    image = views * 34.7 / 24.6  # in images of ResNet-50
    fastest = image / (2600 * 2.1) + text / 220
    slowest = image / (2078 * 1.7) + text / 120
    low, middle, high = lean["hours"]["h100"]["pretrain"]
    assert low == pytest.approx(1.01 * fastest / 1.2 / 3600, rel=0.05)
    assert high == pytest.approx(1.01 * slowest / 3600, rel=0.05)
    assert low < middle < high

    # Evaluations, where no run is given up: 11.6 GFLOP an image without and with trigger, 54.7 TFLOP
    # of prompts, at 1.3 times the throughput with BatchNorm folded.
    of_a_run = 20 * 50_000 + 40 * 20_000
    images = (189 + 4) * 50_000 + 174 * of_a_run
    prompts = 189 + 4 + 174 * 60
    total = 2 * images * 11.6e9 + prompts * 54.7e12
    rate = 2078 * 1.7 * 24.6e9 * 1.3
    seconds = total / rate
    *_, most = lean["hours"]["h100"]["evaluate"]
    assert most == pytest.approx(seconds / 3600, rel=0.05)


LEAN_TRAININGS = [
    ("cc3m-mmcl", 64 * 1330 * 2048, 1, 65),
    ("cc3m-mmcl_ssl", 64 * 2661 * 1024, 2, 65),
    ("cc6m-mmcl", 21 * 2929 * 2048, 1, 22),
    ("cc6m-mmcl_ssl", 36 * 5859 * 1024, 2, 37),
]
"""Model, pairs, views of each and evaluations, by hand."""


def test_the_work_of_paper_lean_counted_by_hand(lean: dict[str, Any], counts: Counts) -> None:
    """Of 61 evaluations a run two in three lie within an epoch, on 20,000 images, not 50,000."""
    # Per token 11 x 24 d^2 + 4 d^2 and, for the causal square of attention, 11 x 4 L d; the image
    # tower is that of `paper`.
    width = 512
    view = {}
    for dataset, length in (("cc3m", 26), ("cc6m", 40)):
        tokens = (11 * 24 + 4) * width**2 * length
        attention = 11 * 4 * length**2 * width
        view[dataset] = 3 * (counts.image_forward + tokens + attention)

    pretrained = rows_by_name(lean["models"], "pretrain")
    for name, pairs, views, evaluations in LEAN_TRAININGS:
        row = pretrained[name]
        assert row["pairs"] == pairs
        assert row["evaluations"] == evaluations
        training = pairs * views * view[name[:4]]
        evaluating = evaluations * counts.evaluation
        total = training + evaluating
        assert row["eflop"] * EFLOP == pytest.approx(total, rel=0.02)

    cleaned = rows_by_name(lean["models"], "clean")
    image = 2 * (counts.image_forward + 2 * 1024 * 1000)
    for name, steps, runs in (("cc3m-mmcl", [781], 39), ("cc6m-mmcl_ssl", [781, 1562], 24)):
        # Of three losses two take two views.
        cleaned_pairs = runs * 20 * sum(steps) * 128
        training = cleaned_pairs * 5 / 3 * view[name[:4]]
        number = runs * len(steps)
        evaluations = 60 * number + 1
        prompts = evaluations * counts.prompts_forward
        images = number * (20 * 50_000 + 40 * 20_000) + 50_000
        evaluating = prompts + images * image
        total = training + evaluating

        row = cleaned[name]
        assert row["runs"] == number
        assert row["evaluations"] == evaluations
        assert row["eflop"] * EFLOP == pytest.approx(total, rel=0.02)


def test_the_work_of_cc3m_alone_is_that_of_its_rows(lean: dict[str, Any]) -> None:
    half = plan("paper_lean", dataset="cc3m")
    every = lean["models"]
    of_cc3m = [row for row in every if row["model_name"].startswith("cc3m")]
    assert half["models"] == of_cc3m


NIGHT_TRAININGS = [
    ("cc3m-mmcl", 150_000, 512),
    ("cc3m-mmcl_ssl", 150_000, 256),
    ("cc6m-mmcl", 300_000, 512),
    ("cc6m-mmcl_ssl", 300_000, 256),
]
"""Model, pairs of its data set and of a batch."""


def test_the_work_of_a_night_counted_by_hand() -> None:
    """16 epochs, the last batch of each dropped; 20 epochs of cleaning, evaluated every other one."""
    models = plan("night", gpus=1)["models"]
    trained = rows_by_name(models, "pretrain")
    cleaned = rows_by_name(models, "clean")
    for name, pairs, batch in NIGHT_TRAININGS:
        row = trained[name]
        batches = pairs // batch
        assert row["pairs"] == 16 * batches * batch
        assert row["evaluations"] == 1 + 16 // 4

        # Six rates of one loss at either size, two of two others at the smaller.
        runs = 10
        batches = 10 * (8_000 // 128)
        if name.startswith("cc6m"):
            runs += 6
            batches += 6 * (16_000 // 128)
        row = cleaned[name]
        assert row["runs"] == runs
        assert row["pairs"] == 20 * batches * 128
        assert row["evaluations"] == 1 + 10 * runs


def test_plan_names_what_differs_from_the_paper_and_what_it_saves(lean: dict[str, Any]) -> None:
    saved = {row["field"]: row["h100_hours"] for row in lean["differences"]}
    assert {"precision", "compile", "deterministic"} < saved.keys()
    assert {"model_age", "text_parts", "images_between", "stop_early"} < saved.keys()
    for low, middle, high in saved.values():
        assert low <= middle <= high
        assert middle > 0
    assert "| text_parts | `1` | `4` |" in cost_table(lean)

    # An early end after 5 of 20 epochs leaves out three quarters of the runs that it ends.
    none, middle, _ = saved["stop_early"]
    assert none == 0
    clean = lean["hours"]["h100"]["clean"][1]
    share = middle / (middle + clean)
    ended = {"cc3m": 0.08, "cc6m": 0.31}
    assert 0.75 * ended["cc3m"] < share < 0.75 * ended["cc6m"]
