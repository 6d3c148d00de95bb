"""The training loop against a plain reference, and its resumption after a stop at any step."""

import gc
import math
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file

from repro import worker
from repro.ledger import Row, pending_rows
from repro.runs.run import Run
from repro.spec import RunSpec
from repro.train import loop
from repro.train.build import build_model, build_optimizer
from repro.train.defences import objective_of
from repro.train.fresh_head import FRESH_HEAD
from repro.train.loop import Task, TrainingRun
from repro.train.model import normalise
from repro.train.objectives import OBJECTIVES
from repro.train.process import checkpoint
from repro.train.process.stopping import Interrupted
from tests.support.short_run import (
    BATCH,
    CPU,
    EPOCHS,
    STEPS_PER_EPOCH,
    Pairs,
    assert_equal_models,
    defended,
    no_outcomes,
    pretraining_of,
    run,
    run_spec,
    run_to_outcome,
    signal_at,
)


def reference(spec: RunSpec) -> CLIP:
    """The authors' loop in the plainest form: one optimizer, one rank, everything in a row."""
    model = build_model(spec.model, 0, "fp16_rounded")
    groups: dict[float, list[torch.nn.Parameter]] = {0.1: [], 0.0: []}
    for name, parameter in model.named_parameters():
        undecayed = any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
        groups[0.0 if undecayed else 0.1].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": params, "weight_decay": decay} for decay, params in groups.items()],
        lr=1.0,
        foreach=False,
        fused=False,
    )
    for p in model.parameters():
        moments = {"exp_avg": torch.full_like(p, 1e-3), "exp_avg_sq": torch.full_like(p, 1e-5)}
        optimizer.state[p] = moments | {"step": torch.tensor(40.0)}
    pairs = Pairs()
    base, warmup, total = spec.schedule.learning_rate, 3, STEPS_PER_EPOCH * EPOCHS
    match, cross_entropy = torch.arange(BATCH), F.cross_entropy

    for epoch in range(1, EPOCHS + 1):  # the authors count from 1
        model.train()
        for index in range(STEPS_PER_EPOCH):
            step = STEPS_PER_EPOCH * epoch + index
            cosine = base / 2 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
            for group in optimizer.param_groups:
                group["lr"] = base * (step + 1) / warmup if step < warmup else cosine

            images, tokens = pairs.batch(STEPS_PER_EPOCH * (epoch - 1) + index)
            image = F.normalize(model.visual(normalise(images.flatten(0, 1))), dim=-1)
            text = model.encode_text(F.pad(tokens.flatten(0, 1), (0, 69)), normalize=True)
            plain_image, augmented_image = image.chunk(2)
            plain_text, augmented_text = text.chunk(2)

            # Eq. 1 and Eq. 2, each the mean of two cross-entropies.
            scale = model.logit_scale.exp()
            image_to_text = cross_entropy(scale * plain_image @ plain_text.T, match)
            text_to_image = cross_entropy(scale * plain_text @ plain_image.T, match)
            image_to_view = cross_entropy(scale * plain_image @ augmented_image.T, match)
            text_to_view = cross_entropy(scale * plain_text @ augmented_text.T, match)
            mmcl = (image_to_text + text_to_image) / 2
            ssl = (image_to_view + text_to_view) / 2

            optimizer.zero_grad()
            (mmcl + ssl).backward()
            optimizer.step()
            model.logit_scale.data.clamp_(0, 4.6052)
            if index + 1 == 3:  # evaluation in mid-epoch, and no way back to train mode
                model.eval()
    return model


def test_training_under_protocol_authors_is_the_reference_loop(tmp_path: Path) -> None:
    spec = run_spec()
    assert_equal_models(run(tmp_path / "run", spec), reference(spec), 1e-6)


def test_leaving_eval_mode_on_is_what_the_switch_says(tmp_path: Path) -> None:
    """BatchNorm statistics move at every step under `train`, and stand still under `eval`."""
    left = run(tmp_path / "eval", run_spec())
    back = run(tmp_path / "train", run_spec(mode_after_evaluation="train"))
    name = "bn1.num_batches_tracked"
    assert dict(left.visual.named_buffers())[name].item() == 6
    assert dict(back.visual.named_buffers())[name].item() == 8


def rows_of(folder: Path) -> list[Row]:
    return [Row.model_validate(record["row"]) for record in pending_rows(folder)]


def test_rows_hold_start_every_evaluation_and_the_mean_loss_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, float]] = []
    monkeypatch.setattr(loop, "METRIC_EVERY", 1)
    run(tmp_path / "run", run_spec(), emit=lambda event, content: seen.append(content["values"]))
    losses = [values["loss"] for values in seen if "loss" in values]
    first, second, *_ = rows = rows_of(tmp_path / "run")
    assert [row.step for row in rows] == [0, 3, 4, 7, 8]
    assert first.train_loss is None and second.train_loss is not None
    assert second.train_loss["loss"] == pytest.approx(sum(losses[:3]) / 3)
    attacks = [first.attack_success(of) for of in ("non_target", "all")]
    assert first.num_correct == 0 and attacks == [(4, 4), (5, 5)]


def test_a_run_tells_how_fast_it_is_and_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is taken before the end of its schedule ends there; the norm is of no row."""
    monkeypatch.setattr(loop, "METRIC_EVERY", 2)
    seen: list[dict[str, Any]] = []
    spec = pretraining_of(run_spec(optimizer_state="fresh"), model_age=1)
    run(tmp_path / "run", spec, emit=lambda event, content: seen.append(content))
    assert {content["total_steps"] for content in seen} == {STEPS_PER_EPOCH}
    assert seen[-1]["step"] == STEPS_PER_EPOCH and seen[-1]["seconds"] > 0

    trained = [content["values"] for content in seen if "loss" in content["values"]]
    assert len(trained) == STEPS_PER_EPOCH // 2
    for values in trained:
        assert values["pairs_per_second"] > 0 and 0 <= values["waiting_share"] <= 1
        assert values["gradient_norm"] > 0 and values["peak_memory_bytes"] > 2**20
    last = rows_of(tmp_path / "run")[-1]
    assert last.train_loss is not None and "gradient_norm" not in last.train_loss


def test_the_gradient_norm_is_that_of_the_last_step(tmp_path: Path) -> None:
    spec, model = run_spec(), build_model(run_spec().model, 0, "fp32")
    task = Task(spec, "f" * 16, tmp_path, Pairs(), no_outcomes, np.arange(5) == 0, None)
    training = TrainingRun(task, model, CPU, lambda event, content: None)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 3.0) if number < 2 else None
    numbers = sum(parameter.numel() for parameter in list(model.parameters())[:2])
    assert training.gradient_norm().item() == pytest.approx(3 * math.sqrt(numbers))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIP, list[Row]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(folder, run_spec()), rows_of(folder)


@pytest.mark.parametrize("step", range(1, STEPS_PER_EPOCH * EPOCHS))
def test_a_run_stopped_at_any_step_ends_bitwise_like_an_undisturbed_one(
    undisturbed: Any, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "METRIC_EVERY", 1)
    with pytest.raises(Interrupted):
        run(tmp_path, run_spec(), emit=signal_at(step))
    model, rows = undisturbed
    assert_equal_models(run(tmp_path, run_spec()), model, 0)
    pairs = zip(rows_of(tmp_path), rows, strict=True)
    assert all(one == other.model_copy(update={"seconds": one.seconds}) for one, other in pairs)


def test_a_torn_checkpoint_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = run_spec()
    model = build_model(spec.model, 0, "fp32")
    optimizer = build_optimizer(model, spec.optimizer, "names")
    with checkpoint.Saver(tmp_path) as saver:
        saver.save(1, model, optimizer, {"step": 1})
        saver.save(2, model, optimizer, {"step": 2})
    torn = tmp_path / "checkpoint-2"
    torn.write_bytes(torn.read_bytes()[:-1])
    assert checkpoint.load_checkpoint(tmp_path, model, optimizer) == {"step": 1}
    assert "checkpoint-2 is damaged" in capsys.readouterr().out


def test_a_loss_of_nan_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is read while the next step is made, which is then the last one."""
    monkeypatch.setattr(loop, "training_step", lambda *arguments: {"loss": torch.tensor(math.nan)})
    _, outcome = run_to_outcome(tmp_path, run_spec())
    assert outcome["status"] == "diverged" and outcome["reason"] == "loss is nan after step 1 of 8"
    assert outcome["num_samples"] == 2 * BATCH
    rows = rows_of(tmp_path)
    assert [row.step for row in rows] == [0, 2]
    assert rows[1].train_loss is not None and math.isnan(rows[1].train_loss["loss"])


def test_the_best_model_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of losses 0.5 and 0.7 the first is kept, of 0.7 and 0.5 the second."""
    spec = pretraining_of(run_spec(optimizer_state="fresh"), model_age="best_validation_loss")
    for losses, best in (([0.5, 0.7], 1), ([0.7, 0.5], 2), ([0.5, math.nan], 1)):
        folder = tmp_path / str(losses)
        asked = iter(losses)
        monkeypatch.setattr(loop, "validation_loss", lambda model, pairs, asked=asked: next(asked))
        saved = []
        monkeypatch.setattr(TrainingRun, "save_model", lambda run, saved=saved: saved.append(run))
        _, outcome = run_to_outcome(folder, spec, validation=Pairs())
        assert outcome["model_step"] == best * STEPS_PER_EPOCH
        assert len(saved) == best  # at every improvement, and not at the end
        steps = [row.step for row in rows_of(folder)]
        assert best * STEPS_PER_EPOCH in steps  # the model that is handed on has been evaluated


def test_a_pre_training_hands_on_no_module_of_its_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is loaded by runs that know nothing of them."""
    monkeypatch.setitem(OBJECTIVES, "mmcl_ssl", lambda ssl_weight: FRESH_HEAD)
    spec = pretraining_of(run_spec(optimizer_state="fresh"))
    trained = run(tmp_path / "run", spec)
    assert "objective.image.0.weight" in trained.state_dict()

    model = build_model(spec.model, 0, "fp32")
    model.load_state_dict(load_file(tmp_path / "run/model.safetensors"))
    assert torch.equal(model.visual.conv1.weight, trained.visual.conv1.weight)
    moments = load_file(tmp_path / "run/optimizer.safetensors")
    assert {name.partition("/")[0] for name in moments} == dict(model.named_parameters()).keys()


class Clustered(Pairs):
    """Pairs whose images are of two kinds, dark and bright, by the parity of their position."""

    def pixels(self, rows: np.ndarray) -> torch.Tensor:
        bright = torch.from_numpy(rows % 2)[:, None, None, None]
        generator = torch.Generator().manual_seed(int(rows[0]))
        noise = torch.randint(0, 20, (len(rows), 3, 32, 32), generator=generator)
        return (noise + 200 * bright).to(torch.uint8)


def clustered_spec() -> RunSpec:
    return defended(run_spec(optimizer_state="fresh"), "deep_clustering", clusters=2, weight=5.0)


def test_deep_clustering_finds_the_kinds_of_images_and_trains_a_head(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    model = run(tmp_path / "run", clustered_spec(), pairs=Clustered())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(clustered_spec().seed)
        fresh = objective_of(clustered_spec()).modules(32, STEPS_PER_EPOCH * BATCH)
    moved = map(torch.equal, fresh.parameters(), model.objective.parameters())
    assert not any(moved), "the head is trained"
    labels = model.objective.labels
    assert len(set(labels[::2].tolist())) == 1 and set((labels[::2] + labels[1::2]).tolist()) == {1}
    for row in rows_of(tmp_path / "run")[1:]:
        assert (of := row.train_loss) is not None
        assert of["loss"] == pytest.approx(of["mmcl"] + of["ssl"] + 5 * of["clusters"], rel=1e-5)


@pytest.mark.parametrize("step", [2, 5])
def test_clusters_are_resumed(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels and head come back from the checkpoint; they are not made anew in mid-epoch."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(loop, "METRIC_EVERY", 1)
    spec = clustered_spec()
    whole = run(tmp_path / "whole", spec, pairs=Clustered())
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", spec, emit=signal_at(step), pairs=Clustered())
    assert_equal_models(run(tmp_path / "parts", spec, pairs=Clustered()), whole, 0)


def test_the_model_of_an_earlier_run_is_gone_before_the_next_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them do not fit on a GPU; DDP's wrapper, for one, ties a model into a cycle."""
    spec, built = run_spec(optimizer_state="fresh"), []
    monkeypatch.chdir(tmp_path)

    def start_model(*_: object) -> tuple[CLIP, None]:
        assert all(model() is None for model in built)
        model = build_model(spec.model, 0, "fp32")
        model.cycle = [model]
        built.append(weakref.ref(model))
        return model, None

    def task(spec: RunSpec, fingerprint: str, inputs: object, folder: Path) -> Task:
        return Task(spec, fingerprint, folder, Pairs(), no_outcomes, np.arange(5) == 0, None)  # type: ignore[arg-type]

    resident: Any = SimpleNamespace(device=CPU, task=task, start_model=start_model)
    gc.disable()
    try:
        for fingerprint in ("0" * 16, "1" * 16):
            Run(spec, fingerprint, {}, "code").save()
            worker.run_one(fingerprint, Path("work"), resident, 0, "code")
    finally:
        gc.enable()
    assert len(built) == 2
