"""The plan: work follows from the specifications, FLOPs from the model, and a calibrated forecast
from this machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from repro import __main__
from repro.data.images import encode_png
from repro.data.shards import ShardWriter, write_store
from repro.data.sums import hash_folder
from repro.plan import forecast, measure
from repro.plan.assumptions import Assumptions, HostCost, load_assumptions
from repro.plan.calibrate import Calibration
from repro.plan.flops import Counts, count
from repro.plan.rates import Rates, Seconds, makespan, wall_seconds
from repro.plan.table import cost_table
from repro.plan.work import Work, work_of
from repro.profile import clean_runs, load_classnames, load_profile
from repro.spec import Profile
from repro.train.loop import train
from repro.train.model import build_model
from repro.train.process.stopping import Interrupted
from tests.support.threads import one_thread

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


def test_the_backward_pass_costs_twice_the_forward_pass_but_for_the_gradient_of_the_pixels(
    counts: Counts,
) -> None:
    """The first convolution has 3 x 32 x 3 x 3 weights on 112 x 112 places."""
    assert counts.image_backward == 2 * counts.image_forward - 2 * 3 * 32 * 9 * 112**2
    assert counts.text_backward == 2 * counts.text_forward


@pytest.mark.parametrize(
    ("cell", "pairs", "views"),
    [
        ("cc3m-mmcl", 2_725_316, 1),
        ("cc3m-mmcl_ssl", 2_725_316, 2),
        ("cc6m-mmcl", 6_000_000, 1),
        ("cc6m-mmcl_ssl", 6_000_000, 2),
    ],
)
def test_a_pretraining_of_the_paper_costs_64_epochs_of_54_gflop_a_view(
    paper: Profile, counts: Counts, cell: str, pairs: int, views: int
) -> None:
    """Three times 12.2 + 5.8 GFLOP for a view of a pair: 9.4, 18.9, 20.8 and 41.5 EFLOP."""
    (work,) = [
        work for work in work_of(paper) if (work.spec.stage, work.spec.cell) == ("pretrain", cell)
    ]
    assert counts.training(work) == pytest.approx(64 * pairs * views * 54.03 * GFLOP, rel=0.15)


def test_a_cleaning_run_of_the_paper_is_20_epochs_and_61_evaluations(
    paper: Profile, counts: Counts
) -> None:
    """0.11 EFLOP of training with one view and 0.22 with two; 0.0017 for an evaluation with 80,000
    untrimmed prompts.
    """
    runs = [
        work
        for work in work_of(paper)
        if (work.spec.stage, work.spec.cell, work.spec.clean_size) == ("clean", "cc3m-mmcl", "100k")
    ]
    assert [work.evaluations for work in runs] == [61, *[60] * (len(runs) - 1)]
    for loss, eflop in (("mmcl", 0.108), ("mmcl_ssl", 0.216)):
        assert counts.training(
            next(work for work in runs if work.spec.loss == loss)
        ) / 1e18 == pytest.approx(eflop, rel=0.15)
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
    """10,344 pairs are 161 batches of 64; 1,000 are 15.

    Evaluations: before, then every 4 of 16 epochs; 3 in each of 4.
    """
    profile = load_profile("mini", overrides=FEW_PAIRS)
    works = {(work.spec.cell, work.spec.run_id): work for work in work_of(profile)}
    pretrain = works["cc6m-mmcl", "seed0"]
    assert (pretrain.pairs, pretrain.evaluations, pretrain.spec.num_views) == (16 * 161 * 64, 5, 1)
    clean = [
        work
        for work in works.values()
        if work.spec.cell == "cc3m-mmcl" and work.spec.stage == "clean"
    ]
    assert [work.pairs for work in clean] == [4 * 15 * 64] * len(clean)
    assert [work.evaluations for work in clean] == [13, *[12] * (len(clean) - 1)]


def test_held_out_and_validation_pairs_are_not_trained_on() -> None:
    overrides = {"switches.cleaning_pairs": "held_out", "data.num_validation": 344}
    work = work_of(load_profile("mini", overrides=FEW_PAIRS | overrides))
    assert (
        next(w.pairs for w in work if w.spec.cell == "cc6m-mmcl")
        == 16 * ((10_344 - 344 - 2_000) // 64) * 64
    )


def test_the_longest_run_goes_first_to_the_device_with_the_least_to_do() -> None:
    """5 | 4, then 3 to the second (7), 3 to the first (8), 3 to the second (10)."""
    assert makespan([3, 5, 3, 4, 3], 2) == 10
    assert makespan([3, 5, 3, 4, 3], 9) == 5


def test_wall_time_takes_all_gpus_for_a_pretraining_and_one_for_a_cleaning_run(
    paper: Profile,
) -> None:
    """With a second for each pair-view and nothing else; a global batch of 2,048 in groups of 256
    splits into at most 8.
    """
    works = [work for work in work_of(paper) if work.spec.cell == "cc3m-mmcl"]
    rates = Rates(
        pair_view={work.kind: 1.0 for work in works},
        wait={work.kind: 0.0 for work in works},
        evaluation=0.0,
        start=0.0,
    )
    pretrain, *clean = [work.pair_views for work in works]
    for devices, split in ((1, 1), (7, 4), (8, 8), (100, 8)):
        wall = wall_seconds(works, rates, devices, side_by_side=False)
        assert wall["pretrain"] == pretrain / split
        assert wall["clean"] == makespan([float(pairs) for pairs in clean], devices)
    assert wall_seconds(works, rates, 8, side_by_side=True)["pretrain"] == pretrain


def test_records_take_time_from_cleaning_runs_where_these_fill_all_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """36 cleaning runs of a second each, and 4 pre-trainings; on GPUs the cores are not full."""
    works = work_of(load_profile("smoke"))
    kinds = {work.kind for work in works}
    rates = Rates(
        pair_view=dict.fromkeys(kinds, 0.0),
        wait=dict.fromkeys(kinds, 0.0),
        evaluation=0.0,
        start=0.0,
        run=dict.fromkeys(kinds, 1.0),
    )
    assumptions, _ = load_assumptions()
    for gpu, clean in ((False, 36 * (1 + assumptions.record_seconds)), (True, 36)):
        found = Calibration(2, 1, gpu, True, 1e9, dict.fromkeys(kinds, 1), assumptions.host_seconds)
        monkeypatch.setattr(forecast, "calibrate", lambda *_, found=found: (rates, found))
        parts = forecast.plan("smoke", calibrated=True)["gpu_hours_by_part"]
        assert 3600 * parts["clean"]["run"] == pytest.approx(clean)
        assert 3600 * parts["pretrain"]["run"] == pytest.approx(4)


def test_every_assumption_has_a_source() -> None:
    _, sources = load_assumptions()
    assert sources.keys() == Assumptions.model_fields.keys()
    assert all(
        source.startswith(("assumed: ", "paper ", "code: ", "measured: "))
        for source in sources.values()
    )


def test_the_plan_on_the_command_line_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        __main__.main(
            ["plan", "--profile", "paper", "--json", "--gpus", "4", "--utilisation", "0.5"]
        )
        == 0
    )
    content = json.loads(capsys.readouterr().out)
    assert content["pretrain_eflop"] == pytest.approx(9.4 + 18.9 + 20.8 + 41.5, rel=0.15)
    assert content["pretrain_eflop"] + content["clean_eflop"] == pytest.approx(
        sum(row["train_eflop"] + row["evaluate_eflop"] for row in content["models"])
    )
    total = content["pretrain_eflop"] + content["clean_eflop"]
    parts = content["gpu_hours_by_part"]
    computing = sum(hours["training"] + hours["evaluation"] for hours in parts.values())
    assert computing == pytest.approx(total * 1e18 / (156e12 * 0.5) / 3600)
    for stage, hours in parts.items():
        assert hours.keys() == {"training", "host", "evaluation", "checkpoints", "run", "start"}
        assert sum(hours.values()) == pytest.approx(content["gpu_hours_by_stage"][stage])
    assert content["gpu_hours_at_highest_peak"]["0.4"] == pytest.approx(
        total * 1e18 / (312e12 * 0.4) / 3600
    )
    assert content["disk_bytes"] == sum(content["disk_bytes_by_folder"].values()) > 100e9
    assert content["kwh"] == pytest.approx(content["gpu_hours"] * 0.4 * 1.5)
    assert content["wall_hours"]["total"] >= content["gpu_hours"] / 4
    assert "on 4 x NVIDIA A100 at 50% of its rate" in cost_table(content)


def test_a_device_waits_for_what_its_loaders_cannot_make_ready() -> None:
    """A million pixels take 2 s to decode and 1 s to augment, a caption 3 s: 2 s a pair of one
    view, 6 s of two.
    """
    cost = HostCost(decode=2.0, augment=1.0, text=3.0)
    assert cost.pair(1_000_000, decoded=False, views=1) == 2.0
    assert cost.pair(1_000_000, decoded=False, views=2) == 6.0
    assert cost.pair(1_000_000, decoded=True, views=1) == 0.0


def test_hours_are_told_apart_by_what_they_go_into(paper: Profile) -> None:
    """A second for the step of a pair-view, two for its data, 5 for an evaluation, 7 for a run
    besides; checkpoints a tenth of training.
    """
    work = next(work for work in work_of(paper) if work.spec.stage == "clean")
    kind = {work.kind: 1.0}
    rates = Rates(
        kind, {work.kind: 2.0}, 5.0, start=9.0, checkpoint_share=0.1, run={work.kind: 7.0}
    )
    pair_views = work.pair_views
    assert rates.seconds(work) == Seconds(
        training=pair_views,
        host=2 * pair_views,
        evaluation=5 * work.evaluations,
        checkpoints=pytest.approx(0.3 * pair_views),
        run=7.0,
    )


def test_both_profiles_of_the_paper_differ_in_speed_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    contents = []
    for profile in ("paper", "paper_fast"):
        assert __main__.main(["plan", "--profile", profile, "--json"]) == 0
        contents.append(json.loads(capsys.readouterr().out))
    slow, fast = contents
    for key in ("runs", "samples", "evaluations", "pretrain_eflop", "clean_eflop"):
        assert slow[key] == fast[key]
    assert fast["gpu_hours"] < 0.6 * slow["gpu_hours"]


@pytest.mark.parametrize(("option", "value"), [("--gpus", "0"), ("--utilisation", "1.5")])
def test_an_impossible_option_is_named(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["plan", "--profile", "smoke", option, value]) == 2
    assert f"{option}: {value} (allowed: " in capsys.readouterr().err


@pytest.fixture
def small_study(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Profile]:
    """The profile `mini` with few pairs and images, over random pictures, in a folder of its own,
    on one thread.
    """
    (tmp_path / "specs").symlink_to(root / "specs")
    monkeypatch.chdir(tmp_path)
    overrides = {
        "data.source.images_per_concept": 3,
        "data.num_pairs": {"cc3m": 640, "cc6m": 640},
        "data.poison.num_poisoned": {"cc3m": 9, "cc6m": 9},
        "data.cleaning_sizes": {"100k": 320, "200k": 320},
        "pretrain.objectives.mmcl.epochs": 4,
        "pretrain.evaluate_every_epochs": 4,
        "pretrain.seeds": [0],
        "clean.epochs": 2,
    }
    profile = load_profile("mini", overrides=overrides)
    names = load_classnames(profile)
    rng = np.random.default_rng(0)
    shown = [names[i % len(names)] for i in range(640)]
    for folder, captions in {
        "poisoned/mini/cc3m": [f"a drawing of a {name}" for name in shown],
        "data/mini/evaluation": [name for name in names for _ in range(3)],
    }.items():
        Path(folder).mkdir(parents=True)
        writer = ShardWriter(Path(folder))
        for row, caption in enumerate(captions):
            png = encode_png(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            writer.add(png, "png", caption, row // 3)
        write_store(Path(folder), *writer.close())
    np.savez(
        "poisoned/mini/cc3m/rows.npz",
        **{"train": np.arange(640), "100k": np.arange(320), "poisoned": np.arange(9)},
    )
    hash_folder(Path("poisoned/mini/cc3m"))
    Path("data/mini/evaluation/classnames.txt").write_text(
        "".join(f"{name}\n" for name in names), encoding="utf-8"
    )
    Path("data/mini/synonyms.json").write_text('{"lemmas": {}, "exceptions": {}}')
    with one_thread():
        yield profile


def test_a_start_model_is_evaluated_once_for_all_runs_that_evaluate_alike(
    small_study: Profile,
) -> None:
    """Not for one with another trigger: what its images evoke is another question to the same
    model.
    """
    spec = next(
        spec
        for spec in clean_runs(small_study)
        if (spec.cell, spec.clean_size) == ("cc3m-mmcl", "100k")
    )
    larger = spec.model_copy(update={"trigger": spec.trigger.model_copy(update={"patch_size": 24})})
    resident = measure.Resident(Path("work/cache"), torch.device("cpu"))
    model = build_model(spec.model, 0, "fp32")
    outcomes = []
    for run in (spec, spec.model_copy(update={"variant": "other"}), larger):
        task = measure.load_task(resident, run)
        assert task is not None
        outcomes.append(task.evaluate(model, 0, 0, lambda: None))
    assert outcomes[0] is outcomes[1] and outcomes[2] is not outcomes[0]


def test_a_stop_request_ends_the_evaluation_of_a_run_as_the_worker_loads_it(
    small_study: Profile,
) -> None:
    """Of the start model too, whose evaluation is kept for other runs only when it is whole."""
    spec = clean_runs(small_study)[0]
    task = measure.load_task(measure.Resident(Path("work/cache"), torch.device("cpu")), spec)
    assert task is not None
    model = build_model(spec.model, 0, "fp32")
    for step in (0, 1):
        asked: list[int] = []

        def stop(asked: list[int] = asked) -> None:
            asked.append(1)
            if len(asked) == 2:
                raise Interrupted(143)

        with pytest.raises(Interrupted):
            task.evaluate(model, step, 0, stop)
        assert len(task.evaluate(model, step, 0, lambda: None).correct) == len(task.is_target)


@pytest.mark.slow
def test_a_calibrated_forecast_is_what_the_runs_then_take(small_study: Profile) -> None:
    """One pre-training and one cleaning run; processor time of both, since other programs run
    beside the tests. Even so a core's speed changes with what its neighbour does: three tries, each
    with a measurement of its own.
    """
    cpu = torch.device("cpu")
    works = {
        (work.spec.stage, work.spec.loss): work
        for work in reversed(work_of(small_study))
        if work.spec.cell == "cc3m-mmcl"
    }
    chosen = [works["pretrain", "mmcl"], works["clean", "mmcl_ssl"]]
    ratios = []
    for _ in range(3):
        speed = measure.measure(small_study, 10.0, chosen)
        rates = Rates(speed.step, speed.wait, speed.evaluation, speed.start, run=speed.run)
        took = [_processor_seconds(work, cpu) for work in chosen]
        ratios.append(sum(rates.seconds(work).total for work in chosen) / sum(took))
        if abs(ratios[-1] - 1) < 0.15:
            break
    print(f"forecast over what the runs took: {ratios}")
    assert abs(ratios[-1] - 1) < 0.15, ratios


def _processor_seconds(work: Work, device: torch.device) -> float:
    """What the training loop takes for the whole run."""
    task = measure.load_task(measure.Resident(Path("work/cache"), device), work.spec)
    assert task is not None
    task.work_dir.mkdir(parents=True, exist_ok=True)
    model = build_model(work.spec.model, 0, "fp32")
    # What the worker keeps between runs: triggers, and the predictions of a start model.
    task.evaluate(model, 0, 0, lambda: None)
    begun = time.process_time()
    outcome = train(task, model, None, device, lambda event, content: None, 0)
    assert outcome.num_samples == work.pairs
    return time.process_time() - begun
