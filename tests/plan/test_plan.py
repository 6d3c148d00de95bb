"""The plan: work follows from the specifications, hours from it and a rate, the clock from a queue."""

import json
import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from repro.__main__ import main
from repro.data.templates import templates_of
from repro.evaluate.prompts import TEXT_BATCH, PromptSet
from repro.launch.jobs import queues
from repro.plan import assumptions as assumed
from repro.plan.assumptions import Assumptions, Device, arithmetic, load_assumptions
from repro.plan.forecast import OPENAI_TEMPLATES, Forecast, cost_table, norm_groups, plan
from repro.plan.queue import Task, clock, cost, longest_first
from repro.plan.work import Work, image_tower, num_weights, text_tower, work_of
from repro.profile import clean_runs, load_classnames, load_profile, pretrain_runs, runs_of
from repro.runs.run import Run
from repro.spec import ModelSpec
from repro.study.spec import load_study, varied
from repro.train.build import build_model
from repro.train.gradient_cache import group_bytes
from repro.train.model import captions_by_length, encode_text, normalise
from repro.train.views.tokens import END


def vit() -> ModelSpec:
    """A model with a transformer as image tower."""
    study = load_study("vit")
    return next(varied(study, of).pretrain.model for of in study.variants.values())


@pytest.mark.parametrize("name", ["paper", "night", "mini", "smoke", "vit"])
def test_towers_cost_what_torch_counts(name: str) -> None:
    """FlopCounterMode on the model without memory; weights but for biases and normalisations."""
    spec = vit() if name == "vit" else load_profile(name).pretrain.model
    side = spec.vision.image_size
    with torch.device("meta"):
        model = build_model(spec, 0, "fp32")
        images = normalise(torch.zeros(2, 3, side, side, dtype=torch.uint8))
        tokens = torch.zeros(2, 43, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.encode_image(images, normalize=True)
        forward = counter.get_total_flops()
        encode_text(model, tokens)
        both = counter.get_total_flops()
    assert 2 * image_tower(spec).flop == forward
    assert 2 * text_tower(spec, 43).flop == both - forward
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_weights(spec) == pytest.approx(parameters, rel=0.003)


def test_the_tower_of_the_paper_costs_what_is_published_of_it() -> None:
    """open_clip's docs/model_profile.csv has 12.22 GFLOP for the image tower of RN50-quickgelu.

    Here one place of the attention pool asks, not all 50: 49 x 2 d^2 FLOPs of queries are left out,
    49 x 2 d D of answers, and 49 x 4 x 50 d of attention.
    """
    not_asked = 49 * (2 * 2048**2 + 2 * 2048 * 1024 + 4 * 50 * 2048)
    image = image_tower(load_profile("paper").pretrain.model).flop
    assert (image + not_asked) / 1e9 == pytest.approx(12.22, abs=0.01)


@pytest.mark.parametrize("name", ["paper", "paper_lean", "night"])
def test_the_memory_of_a_step_is_that_of_the_gradient_cache(name: str) -> None:
    run = pretrain_runs(load_profile(name), "cc3m", "mmcl_ssl")[0]
    kept = Forecast(load_profile(name)).group_bytes(run)
    assert kept == pytest.approx(group_bytes(run), rel=0.1)


@pytest.fixture(scope="module")
def assumptions() -> Assumptions:
    return load_assumptions()


@pytest.mark.parametrize("name", ["paper", "mini", "midi"])
def test_prompts_are_as_long_as_assumed(name: str, assumptions: Assumptions) -> None:
    profile = load_profile(name)
    templates = templates_of(profile.evaluate)
    prompts = PromptSet(load_classnames(profile), templates, profile.switches.truncation)
    batches = prompts.lengths.split(TEXT_BATCH)
    mean = sum(int(of.max()) * len(of) for of in batches) / len(prompts.lengths)
    kind = profile.data.source.kind
    assert assumptions.prompt_tokens[kind] == pytest.approx(mean, abs=0.6)
    if profile.evaluate.templates == "openai":
        assert len(templates) == OPENAI_TEMPLATES


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
    tokens = torch.zeros(1, len(lengths), int(lengths.max()), dtype=torch.long)
    tokens[0].scatter_(1, lengths[:, None] - 1, END)
    parts, _ = captions_by_length(tokens, 4, torch.device("cpu"), compiled=True)
    return sum(part.numel() for part in parts)


def test_captions_are_as_long_as_a_step_makes_them(assumptions: Assumptions) -> None:
    """Words by the table of CC12M's paper, 1.3 tokens each and two ends; parts as they are trained."""
    rng = np.random.default_rng(0)
    for dataset, words, deviation in (("cc3m", 10.3, 4.5), ("cc6m", 20.2, 16.3)):
        lengths = drawn_lengths(rng, words, deviation)
        longest = lengths.amax(dim=1).double().mean()
        in_parts = sum(tokens_in_parts(batch) for batch in lengths) / lengths.numel()
        assert assumptions.caption_tokens["webdataset"][dataset] == pytest.approx(longest, abs=1)
        parts = assumptions.caption_tokens_in_parts["webdataset"]
        assert parts[dataset] == pytest.approx(in_parts, abs=1)


LEAN_TRAININGS = {
    "cc3m-mmcl": (64 * 1330 * 2048, 65),
    "cc3m-mmcl_ssl": (64 * 2661 * 1024, 65),
    "cc6m-mmcl": (21 * 2929 * 2048, 22),
    "cc6m-mmcl_ssl": (36 * 5859 * 1024, 37),
}
"""Pairs and evaluations by hand, the last batch of an epoch dropped."""


def test_the_work_of_paper_lean_counted_by_hand() -> None:
    """Of 61 evaluations a run two in three lie within an epoch, on 20 images a class."""
    works = work_of(load_profile("paper_lean"), runs_of(load_profile("paper_lean")))
    trained = {of.spec.model_name: (of.pairs, of.whole) for of in works[:4]}
    assert trained == LEAN_TRAININGS
    cleaned = [of for of in works[4:] if of.spec.model_name == "cc6m-mmcl"]
    assert len(cleaned) == 48
    assert {of.pairs for of in cleaned} == {20 * 781 * 128, 20 * 1562 * 128}
    # The start model of all is evaluated once.
    assert [of.whole for of in cleaned] == [21, *[20] * 47]
    assert {of.partial for of in cleaned} == {40}


def test_held_out_and_validation_pairs_are_not_trained_on() -> None:
    fewer = {
        "data.num_pairs": {"cc3m": 5_000, "cc6m": 10_344},
        "data.poison.num_poisoned": {"cc3m": 300, "cc6m": 300},
        "data.cleaning_sizes": {"100k": 1_000, "200k": 2_000},
        "switches.cleaning_pairs": "held_out",
        "data.num_validation": 344,
    }
    profile = load_profile("mini", overrides=fewer)
    [work] = work_of(profile, pretrain_runs(profile, "cc6m", "mmcl")[:1])
    schedule = work.spec.schedule
    batches = (10_344 - 344 - 2_000) // schedule.global_batch_size
    assert work.pairs == schedule.epochs * batches * schedule.global_batch_size


def first(forecast: Forecast, stage: str) -> Work:
    return next(of for of in forecast.works_of(stage) if of.spec.model_name == "cc3m-mmcl")


def fixed(forecast: Forecast, rate: float) -> Device:
    """A GPU with one rate in all that the profile computes."""
    rates = {"image": rate, "text": rate, "evaluation": rate}
    kinds = {arithmetic(of.spec.precision, of.spec) for of in forecast.works}
    content = {"memory_bytes": 40 * 10**9, "measured": dict.fromkeys(kinds, rates)}
    return Device.model_validate(content)


def test_the_hours_of_a_cleaning_run_by_hand() -> None:
    """MMCL on 100,000 pairs at 15.6 TFLOP/s: 20 epochs of 781 batches, 60 evaluations, CC3M's
    captions of 43 tokens, prompts of 10; backward takes twice the forward pass, checkpoints 1%.
    """
    forecast = Forecast(load_profile("paper"))
    *_, work = (of for of in forecast.works_of("clean") if of.spec.model_name == "cc3m-mmcl")
    assert (work.spec.loss, work.spec.clean_size, work.whole) == ("mmcl", "100k", 60)
    training, evaluating = forecast.seconds(work, fixed(forecast, 15.6e12))
    gflop_of_pair = 3 * (11.586 + 3.069)
    pairs = 20 * 781 * 128
    assert training == pytest.approx([1.01 * pairs * gflop_of_pair / 15.6e3] * 3, rel=0.001)
    gflop = 60 * (50_000 * 2 * 11.586 + 80_000 * 0.711)
    assert evaluating == pytest.approx([gflop / 15.6e3] * 3, rel=0.001)


def test_few_gpus_compute_a_forward_pass_twice() -> None:
    """On one A100 of 40 GB eight BatchNorm groups of 36 GB want the gradient cache: a third more."""
    profile = load_profile("paper")
    seconds = []
    for gpus, ranks in ((1, 1), (7, 4), (100, 8)):
        forecast = Forecast(profile, gpus)
        work = first(forecast, "pretrain")
        assert norm_groups(work.spec) == 8
        assert forecast.ranks(work.spec) == ranks
        seconds.append(forecast.seconds(work, fixed(forecast, 1e13))[0][0])
    assert seconds == pytest.approx([seconds[2] * 4 / 3, seconds[2] * 4 / 3, seconds[2]])


def test_an_early_end_leaves_five_epochs_of_the_lowest_rates() -> None:
    forecast = Forecast(load_profile("paper_lean"))
    works = forecast.works_of("clean")
    low, middle, high = forecast.kept(works).T
    assert (high == 1).all()
    of_cc6m = [place for place, work in enumerate(works) if work.spec.dataset == "cc6m"]
    ended = [place for place in of_cc6m if low[place] == 5 / 20]
    assert len(ended) == round(0.62 * 96)
    assert sum(middle[of_cc6m] < 1) == round(0.31 * 96)
    rates = [works[place].spec.schedule.learning_rate for place in of_cc6m]
    assert max(works[place].spec.schedule.learning_rate for place in ended) <= np.median(rates) * 10


def by_brute_force(tasks: list[Task], devices: int, step: float) -> float:
    """The queue minute by minute: each moment, every free device takes the first task it can."""
    waiting, busy, there, now = list(tasks), [], set(), 0.0
    while waiting or busy:
        for end, task in [of for of in busy if of[0] <= now + step / 2]:
            busy.remove((end, task))
            there.add(task.makes)
        able = [task for task in waiting if task.needs is None or task.needs in there]
        for task in able[: devices - len(busy)]:
            waiting.remove(task)
            busy.append((now + task.seconds, task))
        now += step
    return now - step


def test_the_queue_ends_when_a_walk_through_time_says() -> None:
    rng = np.random.default_rng(0)
    for devices in (1, 2, 3, 8):
        for _ in range(10):
            tasks = [Task(float(rng.integers(1, 9)), makes=f"m{i}") for i in range(3)]
            for _ in range(int(rng.integers(1, 14))):
                model = f"m{rng.integers(3)}" if rng.random() < 0.8 else None
                tasks.append(Task(float(rng.integers(1, 9)), needs=model))
            assert clock(tasks, devices) == by_brute_force(tasks, devices, 0.5)
    # Four thirds of the best order, at most, where nothing waits (Graham 1969).
    lengths = [5.0, 4.0, 3.0, 3.0, 3.0]
    best = min(clock([Task(of) for of in order], 2) for order in permutations(lengths))
    assert (best, clock([Task(of) for of in lengths], 2)) == (9, 10)


def test_one_queue_leaves_a_tenth_of_the_tail_of_dealt_out_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`paper_lean` on eight A100, in the middle: dealt out before the start by their expected cost,
    runs that end early leave GPUs idle.
    """
    forecast = Forecast(load_profile("paper_lean"))
    works = forecast.works_of("clean")
    assert [of.spec for of in works] == longest_first(clean_runs(forecast.profile))
    a100 = forecast.assumptions.devices["a100"]
    parts = np.array([sum(forecast.seconds(work, a100)) for work in works])
    seconds = (parts * forecast.kept(works))[:, 1]
    mean = seconds.sum() / 8
    queued = clock([Task(of) for of in seconds], 8) / mean

    shares = np.zeros(8)
    dealt = np.zeros(8)
    for work, of_run in zip(works, seconds, strict=True):
        least = shares.argmin()
        shares[least] += cost(work.spec)
        dealt[least] += of_run
    assert queued < 1.02
    assert dealt.max() / mean > 1.1

    # And it is the order of the launcher.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    runs = [Run(spec, str(i), PAIRS, "") for i, spec in enumerate(clean_runs(forecast.profile))]
    started = [run.spec for queue in queues(runs) for job in queue for run in job.runs]
    assert sorted(map(cost, started), reverse=True) == [cost(work.spec) for work in works]


PAIRS = {"pairs": {"path": "pairs", "hash": ""}}


def test_compilation_is_paid_by_every_rank_and_process() -> None:
    """Four pre-trainings on eight GPUs, and eight processes that clean with one view and two."""
    plain = Forecast(load_profile("paper"))
    choices = {"pretrain.compile": True, "clean.compile": True}
    compiled = Forecast(load_profile("paper", overrides=choices))
    gpu = plain.assumptions.devices["h100"]
    more = compiled.hours(gpu)["start"] - plain.hours(gpu)["start"]
    assert more * 3600 == pytest.approx((4 * 8 + 8 * 2) * np.array([60, 270, 480]))


BEFORE = {
    ("paper", 8, "a100"): (1189.5, 1342.2, 1539.6),
    ("paper", 8, "h100"): (566.6, 692.1, 889.4),
    ("paper_lean", 8, "a100"): (241.3, 325.2, 442.4),
    ("paper_lean", 8, "h100"): (116.4, 172.2, 264.1),
    ("paper_lean", 8, "rtx3090"): (498.1, 715.8, 1069.3),
    ("paper_lean cc3m", 8, "a100"): (114.7, 145.2, 186.8),
    ("paper_lean cc3m", 8, "h100"): (55.3, 77.0, 112.7),
    ("paper_lean", 1, "a100"): (291.9, 383.3, 512.3),
    ("night", 1, "a100"): (3.04, 3.51, 4.10),
    ("night", 1, "h100"): (1.49, 1.88, 2.43),
    ("night", 1, "rtx3090"): (6.74, 8.17, 10.26),
}
"""GPU-hours in all, by a forecast that drew on shares of the peak and counted FLOPs on the model."""


@pytest.mark.parametrize("case", BEFORE)
def test_hours_are_those_of_the_forecast_by_shares_of_the_peak(case: tuple[str, int, str]) -> None:
    name, gpus, device = case
    profile, *dataset = name.split()
    hours = plan(profile, gpus, *dataset)["hours"][device]
    assert hours["total"] == pytest.approx(BEFORE[case], rel=0.03)
    parts = [hours[part] for part in ("pretrain", "clean", "evaluate", "start")]
    assert hours["total"] == pytest.approx(np.sum(parts, axis=0))
    # The queue's tail, and starts, are what the clock has beside.
    assert hours["wall"] == pytest.approx(np.divide(hours["total"], gpus), rel=0.05)


def test_rates_that_gpu_check_measured_give_a_row_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assumed, "MEASURED", tmp_path / "gpu-check.json")
    rates = {"tf32": {"image": 50e12, "text": 100e12, "evaluation": 80e12}}
    measured = {"device": "NVIDIA X", "memory_bytes": 80 * 10**9, "flops": rates}
    assumed.MEASURED.write_text(json.dumps(measured))
    low, middle, high = plan("paper")["hours"]["NVIDIA X, measured"]["pretrain"]
    assert low == middle == high

    forecast = Forecast(load_profile("paper"))
    views = {"cc3m": 0, "cc6m": 0}
    for work in forecast.works_of("pretrain"):
        views[work.spec.dataset] += work.pairs * work.spec.num_views
    gflop = {"cc3m": 3 * 3.069, "cc6m": 3 * 5.550}
    seconds = sum(of * (34.76e9 / 50e12 + gflop[name] / 100e3) for name, of in views.items())
    assert middle == pytest.approx(1.01 * seconds / 3600, rel=0.001)
    # Nothing was measured in the arithmetic of this one.
    assert "NVIDIA X, measured" not in plan("paper_lean")["hours"]


def test_what_a_gpu_cannot_hold_it_is_not_planned_for() -> None:
    """A BatchNorm group of 256 pairs keeps 36 GB in TF32, half of it in bfloat16."""
    assert list(plan("paper")["hours"]) == ["a100", "h100"]
    assert list(plan("paper_lean")["hours"]) == ["a100", "h100", "rtx3090"]


def test_mini_takes_half_an_hour_to_two_on_two_cores() -> None:
    """As README.md says; twice the cores, half the time."""
    forecast = Forecast(load_profile("mini"))
    low, middle, high = 60 * forecast.hours_on_cores(2)
    assert 20 < low < middle < high < 120
    on_four = 60 * forecast.hours_on_cores(4)
    assert on_four == pytest.approx([low / 2, middle / 2, high / 2], rel=0.1)
    assert plan("mini")["hours"] == {}


def test_plan_gives_json_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "paper", "--json", "--gpus", "2"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["gpus"] == 2
    assert content["hours"].keys() == {"a100", "h100"}
    assert main(["plan", "smoke"]) == 0
    out = capsys.readouterr().out
    assert "| pretrain | 4 | 1,664 | 12 |" in out
    assert "minutes on" in out


def test_the_page_has_the_tables_that_the_command_writes(root: Path) -> None:
    page = (root / "docs/gpu.md").read_text(encoding="utf-8")
    for profile in ("paper", "paper_lean"):
        assert cost_table(plan(profile)) in page
    low, _, high = plan("night", 1)["hours"]["rtx3090"]["wall"]
    assert f"{low:.3g} to {high:.3g} hours of an RTX 3090" in page
    assert high <= 12, "a night"


def test_the_steps_of_the_page_have_the_hours_and_the_disk_of_the_forecast(root: Path) -> None:
    """On eight A100s; what pre-training leaves of the clock is the sweep's."""
    page = (root / "docs/gpu.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if re.match(r"\| \[\d\. ", line)]
    steps = [[cell.strip() for cell in row] for row in rows]
    assert len(steps) == 6
    forecast = plan("paper_lean")
    hours = {name: np.array(span) for name, span in forecast["hours"]["a100"].items()}
    pretrain_clock = hours["pretrain"] / 8
    for number, gpu_hours, of_clock in (
        (3, hours["pretrain"], pretrain_clock),
        (4, hours["clean"] + hours["evaluate"], hours["wall"] - pretrain_clock),
    ):
        expected = [f"{low:.0f} to {high:.0f}" for low, _, high in (gpu_hours, of_clock)]
        assert steps[number][2:4] == expected

    disk = forecast["disk_bytes"]
    trained = disk["models"] + disk["work"]
    data = sum(disk.values()) - trained
    assert [steps[number][4] for number in (1, 3)] == [f"{data / 1e9:.0f}", f"{trained / 1e9:.0f}"]


def test_every_assumption_names_its_source(root: Path) -> None:
    content = (root / "specs/plan.yaml").read_text(encoding="utf-8")
    values = [line for line in content.splitlines() if not re.match(r"#|devices:|  \w+:  #", line)]
    assert len(values) > 25
    source = re.compile(r" # (assumed|paper|code|measured): \w")
    assert [line for line in values if not source.search(line)] == []
