"""One training run, from start model to last evaluation; the same loop pre-trains and cleans.

Read `train` top to bottom: resume, then for each step batch, learning rate, forward, loss, backward, clamp; evaluate
where the schedule says so. All randomness is keyed by (seed, step), so a run that was killed ends bitwise like one
that was not.
"""

from __future__ import annotations

import contextlib
import math
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch.nn.parallel import DistributedDataParallel

from repro.ledger import Row, append_row, rewind_rows
from repro.spec import RunSpec
from repro.train import checkpoint, distributed
from repro.train.losses import total_loss
from repro.train.model import PairEncoder, build_optimizer, clamp_logit_scale
from repro.train.pairs import TrainingPairs
from repro.train.schedule import evaluation_steps, learning_rate, num_steps

CHECKPOINT_SECONDS = 30.0
"""Wall time between checkpoints: the most that a kill costs."""
METRIC_EVERY = 10
"""Steps between loss points in the tracking record."""

Bits = tuple[NDArray[np.bool_], NDArray[np.bool_]]
Emit = Callable[[str, dict[str, Any]], None]


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
    evaluate: Callable[[CLIP, int, int], Bits]
    """(model, step, draw) to per-image outcomes (N,), (N,): classified right; triggered and classified as the target."""
    is_target: NDArray[np.bool_]
    """(N,) evaluation images of the target class."""


def train(task: Task, model: CLIP, restored_optimizer: bytes | None, device: torch.device, emit: Emit, workers: int) -> dict[str, Any]:
    """Train `model` in place as the spec says, appending rows to the work folder; returns the outcome.

    `restored_optimizer` is the pre-training AdamW state where `optimizer_state: restored` asks for it. Resumes from
    the newest checkpoint. Raises Interrupted after a checkpoint when a signal asks to stop.
    """
    spec, pairs = task.spec, task.pairs
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
        encoder = DistributedDataParallel(encoder, broadcast_buffers=True)
    last = num_steps(spec.schedule, pairs.steps_per_epoch)
    evaluate_at = set(evaluation_steps(spec, pairs.steps_per_epoch))
    reason = ""
    begun = last_saved = time.monotonic()
    earlier = progress.seconds
    if found is None:
        _evaluate(task, model, progress, 0.0, emit)
    model.train(progress.training)
    with _stop_requests() as stop_requested:
        batches = pairs.batches(progress.step, last, workers)
        while progress.step < last:
            waited = time.monotonic()
            images, tokens = (tensor.to(device, non_blocking=True) for tensor in next(batches))
            started = time.monotonic()
            if progress.step % pairs.steps_per_epoch == 0:
                progress.training = True
                model.train()
            rate = learning_rate(spec.schedule, progress.step, pairs.steps_per_epoch, spec.switches.schedule_offset)
            losses = training_step(encoder, model, optimizer, images, tokens, spec, rate)
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
                emit("metrics", {"step": progress.step, "epoch": progress.step / pairs.steps_per_epoch, "values": values})
            if progress.step in evaluate_at or reason:
                _evaluate(task, model, progress, rate, emit)
                progress.training = spec.switches.mode_after_evaluation == "train" or progress.step % pairs.steps_per_epoch == 0
                model.train(progress.training)
                progress.seconds = earlier + time.monotonic() - begun
            if reason:
                break
            stop = (
                distributed.any_rank(bool(stop_requested), device)
                if progress.step % METRIC_EVERY == 0 or distributed.ranks() == 1
                else False
            )
            if distributed.rank() == 0 and (stop or ended - last_saved > CHECKPOINT_SECONDS) and progress.step < last:
                checkpoint.save_checkpoint(task.work_dir, progress.step, model, optimizer, vars(progress).copy())
                last_saved = time.monotonic()
            if stop:
                distributed.barrier()
                raise Interrupted(128 + signal.SIGTERM)
    if spec.stage == "pretrain" and distributed.rank() == 0:
        checkpoint.save_tensors(task.work_dir / "model.safetensors", checkpoint.model_tensors(model))
        checkpoint.save_tensors(task.work_dir / "optimizer.safetensors", checkpoint.optimizer_tensors(model, optimizer))
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
    }


def training_step(
    encoder: torch.nn.Module,
    model: CLIP,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    tokens: torch.Tensor,
    spec: RunSpec,
    rate: float,
) -> dict[str, torch.Tensor]:
    """One optimizer step on this rank's (V, b, ...) part of the global batch; returns the global batch's loss parts."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with _precision(spec, images.device):
        image_features, text_features, log_scale = encoder(images, tokens)
    losses = total_loss(
        spec.loss_weights,
        distributed.gather_features(image_features.float()),
        distributed.gather_features(text_features.float()),
        distributed.share(log_scale, spec.switches.gather).exp(),
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
    correct, attacked = task.evaluate(model, progress.step, draw)
    progress.evaluations += 1
    took = time.monotonic() - started
    progress.evaluate_seconds += took
    progress.seconds += took
    losses = {name: total / progress.counted for name, total in progress.sums.items()} if progress.counted else None
    progress.sums, progress.counted = {}, 0
    is_target = task.is_target
    row = Row(
        run=task.spec.run_id, fingerprint=task.fingerprint, profile=task.spec.profile, stage=task.spec.stage,
        dataset=task.spec.dataset, pretrain_objective=task.spec.pretrain_objective, clean_size=task.spec.clean_size,
        loss=task.spec.loss, variant=task.spec.variant, poisoned=task.spec.poisoned,
        learning_rate=task.spec.schedule.learning_rate, seed=task.spec.seed,
        epoch=progress.step / task.pairs.steps_per_epoch, step=progress.step, num_images=len(correct),
        num_correct=int(correct.sum()), num_attacked=int(attacked.sum()), num_target=int(is_target.sum()),
        num_target_attacked=int((attacked & is_target).sum()), train_loss=losses,
        logit_scale=model.logit_scale.exp().item(), step_learning_rate=rate, seconds=progress.seconds,
    )  # fmt: skip
    if distributed.rank() == 0:
        append_row(task.work_dir, row, correct, attacked, is_target)
    asr = row.asr(task.spec.switches.asr_denominator)
    emit("metrics", {"step": row.step, "epoch": row.epoch, "values": {"zero_shot_top1": row.accuracy, "attack_success_rate": asr}})


def _precision(spec: RunSpec, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = spec.precision != "fp32"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=spec.precision == "bf16")


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect stop signals instead of dying in the middle of a step."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda got, _frame: received.append(got)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
