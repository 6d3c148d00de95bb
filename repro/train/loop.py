"""One training run, from start model to last evaluation; the same loop pre-trains and cleans.

Read `train` top to bottom: resume, then for each step batch, learning rate, forward, loss, backward, clamp; evaluate
where the schedule says so; hand on the model. All randomness is keyed by (seed, step), so a run that was killed ends bitwise like one
that was not.
"""

from __future__ import annotations

import contextlib
import math
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch.nn.parallel import DistributedDataParallel

from repro.ledger import Row, append_row, identity_of, rewind_rows, sample_images
from repro.spec import RunSpec
from repro.train import checkpoint, distributed
from repro.train.clustering import attach
from repro.train.losses import total_loss
from repro.train.model import PairEncoder, build_optimizer, clamp_logit_scale
from repro.train.pairs import TrainingPairs
from repro.train.schedule import evaluation_steps, learning_rate, num_steps
from repro.train.validation import validation_loss

CHECKPOINT_SECONDS = 30.0
"""Wall time between checkpoints: the most that a kill costs."""
METRIC_EVERY = 10
"""Steps between loss points in the tracking record."""

Emit = Callable[[str, dict[str, Any]], None]


class Outcome(NamedTuple):
    """What a model made of every evaluation image."""

    correct: NDArray[np.bool_]
    """(N,) classified right without a trigger."""
    attacked: NDArray[np.bool_]
    """(N,) classified as the target with it."""
    classes: NDArray[np.int64]
    """(N,) predicted classes without a trigger."""
    classes_triggered: NDArray[np.int64]
    """(N,) predicted classes with it."""


class Interrupted(SystemExit):
    """SIGTERM, SIGINT or SIGUSR1 arrived: the run has a checkpoint and goes on at the next start."""


@dataclass
class Progress:
    """What a checkpoint must carry besides tensors."""

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of loss parts since the last evaluation."""
    counted: int = 0
    evaluations: int = 0
    best_loss: float = math.inf
    """Lowest validation loss so far, where it picks the model."""
    best_step: int = 0
    training: bool = True
    """Mode of the model: False between a mid-epoch evaluation and the epoch's end under `mode_after_evaluation: eval`."""
    seconds: float = 0.0
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    data_wait_seconds: float = 0.0


@dataclass(frozen=True)
class Task:
    """A run's inputs, loaded."""

    spec: RunSpec
    fingerprint: str
    work_dir: Path
    pairs: TrainingPairs
    evaluate: Callable[[CLIP, int, int], Outcome]
    """(model, step, draw) to what the model makes of the N evaluation images."""
    is_target: NDArray[np.bool_]
    """(N,) evaluation images of the target class."""
    validation: TrainingPairs | None
    """Pairs of the validation loss, where it picks the model."""


def train(
    task: Task,
    model: CLIP,
    restored_optimizer: bytes | None,
    device: torch.device,
    emit: Emit,
    workers: int,
) -> dict[str, Any]:
    """Train `model` in place as the spec says, appending rows to the work folder; returns the outcome.

    `restored_optimizer` is the pre-training AdamW state where `optimizer_state: restored` asks for it. Resumes from
    the newest checkpoint. Raises Interrupted after a checkpoint when a signal asks to stop.
    """
    spec, pairs = task.spec, task.pairs
    clusters = attach(model, spec, len(pairs.rows))
    optimizer = build_optimizer(model, spec.optimizer, spec.switches.weight_decay_rule)
    if restored_optimizer is not None:
        checkpoint.load_optimizer(model, optimizer, restored_optimizer)
    progress = Progress()
    if (found := checkpoint.load_checkpoint(task.work_dir, model, optimizer)) is not None:
        progress = Progress(**found[1])
    if distributed.rank() == 0:
        rewind_rows(task.work_dir, progress.step if found else -1)
    groups = pairs_per_rank(spec) // spec.schedule.norm_batch_size
    encoder: torch.nn.Module = PairEncoder(model, groups)
    if distributed.ranks() > 1:
        encoder = DistributedDataParallel(
            encoder
        )  # rank 0 hands its BatchNorm statistics to the others
    if spec.compile:
        encoder = torch.compile(encoder)  # type: ignore[assignment]
    last = num_steps(spec, pairs.steps_per_epoch)
    evaluate_at = set(evaluation_steps(spec, pairs.steps_per_epoch))
    reason = ""
    begun = last_saved = time.monotonic()
    earlier = progress.seconds
    if found is None:
        _evaluate(task, model, progress, 0.0, emit)
    model.train(progress.training)
    with _stop_requests() as stop_requested, checkpoint.Saver(task.work_dir) as saver:
        batches = pairs.batches(progress.step, last, workers)
        while progress.step < last:
            waited = time.monotonic()
            images, tokens = (tensor.to(device, non_blocking=True) for tensor in next(batches))
            started = time.monotonic()
            if progress.step % pairs.steps_per_epoch == 0:
                progress.training = True
                model.train()
                if clusters is not None:
                    clusters.renew(model, pairs, optimizer, spec.seed + progress.step)
            rate = learning_rate(
                spec.schedule, progress.step, pairs.steps_per_epoch, spec.switches.schedule_offset
            )
            members = (
                torch.from_numpy(pairs.positions(progress.step)).to(device)
                if clusters is not None
                else None
            )
            losses = training_step(encoder, model, optimizer, images, tokens, spec, rate, members)
            progress.step += 1
            progress.counted += 1
            values = {name: float(value) for name, value in losses.items()}
            for name, value in values.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            ended = time.monotonic()
            progress.data_wait_seconds += started - waited
            progress.train_seconds += ended - started
            progress.seconds = earlier + ended - begun
            if not math.isfinite(values["loss"]):
                reason = f"loss is {values['loss']} after step {progress.step} of {last}"
            if progress.step % METRIC_EVERY == 0:
                emit(
                    "metrics",
                    {
                        "step": progress.step,
                        "epoch": progress.step / pairs.steps_per_epoch,
                        "values": values,
                    },
                )
            if progress.step in evaluate_at or reason:
                _evaluate(task, model, progress, rate, emit)
                progress.training = (
                    spec.switches.mode_after_evaluation == "train"
                    or progress.step % pairs.steps_per_epoch == 0
                )
                model.train(progress.training)
                progress.seconds = earlier + time.monotonic() - begun
            if task.validation is not None and progress.step % pairs.steps_per_epoch == 0:
                _keep_best(task, task.validation, model, optimizer, progress, emit)
            if reason:
                break
            stop = (
                distributed.any_rank(bool(stop_requested), device)
                if progress.step % METRIC_EVERY == 0 or distributed.ranks() == 1
                else False
            )
            if (
                distributed.rank() == 0
                and (stop or ended - last_saved > CHECKPOINT_SECONDS)
                and progress.step < last
            ):
                saver.save(
                    progress.step, model, optimizer, asdict(progress)
                )  # a copy all through: training goes on meanwhile
                last_saved = time.monotonic()
            if stop:
                distributed.barrier()
                raise Interrupted(128 + signal.SIGTERM)
    if spec.stage == "pretrain" and distributed.rank() == 0 and not progress.best_step:
        _save_model(task.work_dir, model, optimizer)
    return {
        "status": "diverged" if reason else "completed",
        "reason": reason,
        "ranks": distributed.ranks(),
        "threads": torch.get_num_threads(),
        "seconds": progress.seconds,
        "train_seconds": progress.train_seconds,
        "evaluate_seconds": progress.evaluate_seconds,
        "data_wait_seconds": progress.data_wait_seconds,
        "peak_memory_bytes": _peak_memory(device),
        "num_samples": progress.step * spec.schedule.global_batch_size,
        "model_step": progress.best_step or progress.step,
    }


def training_step(
    encoder: torch.nn.Module,
    model: CLIP,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    tokens: torch.Tensor,
    spec: RunSpec,
    rate: float,
    members: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """One optimizer step on this rank's (V, b, ...) part of the global batch; returns the global batch's loss parts.

    `members` (B,) are the batch's positions among the run's pairs, for the deep-clustering term.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with _precision(spec, images.device):
        image_features, text_features, log_scale = encoder(images, tokens)
    gathered = distributed.gather_features(image_features.float())
    clusters = (
        model.clusters.loss(gathered[0], members, spec.switches.gather)
        if members is not None
        else None
    )
    losses = total_loss(
        spec.loss_weights,
        gathered,
        distributed.gather_features(text_features.float()),
        distributed.share(log_scale, spec.switches.gather).exp(),
        clusters,
    )
    (losses["loss"] * distributed.backward_scale(spec.switches.gather)).backward()
    optimizer.step()
    clamp_logit_scale(model)
    return {name: value.detach() for name, value in losses.items()}


def pairs_per_rank(spec: RunSpec) -> int:
    """Pairs of one rank; ValueError where ranks and BatchNorm groups do not fit."""
    per_rank, rest = divmod(spec.schedule.global_batch_size, distributed.ranks())
    if rest or per_rank % spec.schedule.norm_batch_size:
        allowed = spec.schedule.global_batch_size // spec.schedule.norm_batch_size
        raise ValueError(
            f"{spec.run_id}: {distributed.ranks()} ranks (allowed: a divisor of {allowed} = global_batch_size / norm_batch_size)"
        )
    return per_rank


def _evaluate(task: Task, model: CLIP, progress: Progress, rate: float, emit: Emit) -> None:
    started = time.monotonic()
    draw = progress.evaluations if task.spec.switches.evaluation_triggers == "redrawn" else 0
    outcome = task.evaluate(model, progress.step, draw)
    progress.evaluations += 1
    took = time.monotonic() - started
    progress.evaluate_seconds += took
    progress.seconds += took
    losses = (
        {name: total / progress.counted for name, total in progress.sums.items()}
        if progress.counted
        else None
    )
    progress.sums, progress.counted = {}, 0
    correct, attacked, is_target = outcome.correct, outcome.attacked, task.is_target
    samples = sample_images(len(correct))
    row = Row(
        **identity_of(task.spec, task.fingerprint),
        epoch=progress.step / task.pairs.steps_per_epoch,
        step=progress.step,
        num_images=len(correct),
        num_correct=int(correct.sum()),
        num_attacked=int(attacked.sum()),
        num_target=int(is_target.sum()),
        num_target_attacked=int((attacked & is_target).sum()),
        sample_classes=outcome.classes[samples].tolist(),
        sample_classes_triggered=outcome.classes_triggered[samples].tolist(),
        train_loss=losses,
        logit_scale=model.logit_scale.exp().item(),
        step_learning_rate=rate,
        seconds=progress.seconds,
    )
    if distributed.rank() == 0:
        append_row(task.work_dir, row, correct, attacked, is_target)
    asr = row.asr(task.spec.switches.asr_denominator)
    emit(
        "metrics",
        {
            "step": row.step,
            "epoch": row.epoch,
            "values": {"zero_shot_top1": row.accuracy, "attack_success_rate": asr},
        },
    )


def _keep_best(
    task: Task,
    validation: TrainingPairs,
    model: CLIP,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    emit: Emit,
) -> None:
    """Save the model if its validation loss is the lowest so far (the authors keep the best epoch of CC3M)."""
    loss = validation_loss(model, validation)
    emit(
        "metrics",
        {
            "step": progress.step,
            "epoch": progress.step / task.pairs.steps_per_epoch,
            "values": {"validation_loss": loss},
        },
    )
    if loss < progress.best_loss:
        progress.best_loss, progress.best_step = loss, progress.step
        if distributed.rank() == 0:
            _save_model(task.work_dir, model, optimizer)


def _save_model(work_dir: Path, model: CLIP, optimizer: torch.optim.Optimizer) -> None:
    checkpoint.save_tensors(work_dir / "model.safetensors", checkpoint.model_tensors(model))
    checkpoint.save_tensors(
        work_dir / "optimizer.safetensors", checkpoint.optimizer_tensors(model, optimizer)
    )


def _precision(spec: RunSpec, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        spec.precision != "fp32"
    )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=spec.precision == "bf16")


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect stop signals instead of dying in the middle of a step."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {
        number: signal.signal(number, lambda got, _frame: received.append(got))
        for number in numbers
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
