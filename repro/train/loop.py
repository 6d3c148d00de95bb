"""One training run, from start model to last evaluation; the same loop pre-trains and cleans.

Read `train` top to bottom: resume, then for each step batch, training step, evaluation, choice of the model, checkpoint;
at the end hand on the model. All randomness is keyed by (seed, step), so a run that was killed ends bitwise like one that
was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from repro.ledger import Row, append_row, identity_of, rewind_rows, sample_images
from repro.spec import RunSpec
from repro.train import checkpoint, distributed
from repro.train.arithmetic import set_arithmetic
from repro.train.clock import Clock
from repro.train.clustering import attach
from repro.train.memory import peak_bytes, reset_peak
from repro.train.model import PairEncoder, build_optimizer
from repro.train.pairs import TrainingPairs
from repro.train.predictions import Predictions
from repro.train.schedule import evaluation_steps, learning_rate, num_steps
from repro.train.step import training_step
from repro.train.stopping import Interrupted, stop_requests
from repro.train.validation import validation_loss

CHECKPOINT_SECONDS = 30.0
"""Wall time between checkpoints: the most that a kill costs."""
METRIC_EVERY = 10
"""Steps between loss points in the tracking record."""

Emit = Callable[[str, dict[str, Any]], None]


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


@dataclass(frozen=True)
class Task:
    """A run's inputs, loaded."""

    spec: RunSpec
    fingerprint: str
    work_dir: Path
    pairs: TrainingPairs
    evaluate: Callable[[CLIP, int, int], Predictions]
    """(model, step, draw) to what the model makes of the N evaluation images."""
    is_target: NDArray[np.bool_]
    """(N,) evaluation images of the target class."""
    validation: TrainingPairs | None
    """Pairs of the validation loss, where it picks the model."""


@dataclass(frozen=True)
class TrainingOutcome:
    """How a run ended and what it took; the fields are those of `repro.ledger.RunRecord`."""

    status: Literal["completed", "diverged"]
    reason: str
    ranks: int
    threads: int
    seconds: float
    train_seconds: float
    evaluate_seconds: float
    data_wait_seconds: float
    peak_memory_bytes: int
    num_samples: int
    model_step: int
    deterministic: bool


def train(
    task: Task,
    model: CLIP,
    restored_optimizer: bytes | None,
    device: torch.device,
    emit: Emit,
    workers: int,
) -> TrainingOutcome:
    """Train `model` in place as the spec says, appending rows to the work folder.

    `restored_optimizer` is the pre-training AdamW state where `optimizer_state: restored` asks for it. Resumes from
    the newest checkpoint. Raises Interrupted after a checkpoint when a signal asks to stop.
    """
    run = TrainingRun(task, model, device, emit)
    progress = run.progress

    if not run.resume(restored_optimizer):
        run.evaluate()
    model.train(progress.training)

    with stop_requests() as stop_requested, checkpoint.Saver(task.work_dir) as saver:
        batches = task.pairs.batches(progress.step, run.last_step, workers)
        while progress.step < run.last_step:
            run.step(*run.next_batch(batches))
            if progress.step in run.evaluate_at or run.reason:
                run.evaluate()
            if task.validation is not None and run.at_epoch_end:
                run.keep_best(task.validation)

            if run.reason:
                break
            stop = run.must_stop(bool(stop_requested))
            run.save_checkpoint(saver, stop)
            if stop:
                distributed.barrier()
                raise Interrupted(128 + signal.SIGTERM)

    run.hand_on()
    return run.outcome()


class TrainingRun:
    """A run under way: model, optimizer, progress and clock, and each thing that a step of the loop does with them."""

    def __init__(self, task: Task, model: CLIP, device: torch.device, emit: Emit) -> None:
        spec, pairs = task.spec, task.pairs
        set_arithmetic(spec.precision, spec.deterministic, device)
        reset_peak(device)
        self.task, self.spec, self.pairs = task, spec, pairs
        self.model, self.device, self.emit = model, device, emit
        self.clusters = attach(model, spec, len(pairs.rows))
        self.optimizer = build_optimizer(model, spec.optimizer, spec.switches.weight_decay_rule)
        self.last_step = num_steps(spec, pairs.steps_per_epoch)
        self.evaluate_at = set(evaluation_steps(spec, pairs.steps_per_epoch))
        self.progress, self.clock = Progress(), Clock()
        self.rate = 0.0
        """Learning rate of the last step."""
        self.reason = ""
        """Why the run ends early; empty while all is well."""

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step was the last of an epoch."""
        return self.progress.step % self.pairs.steps_per_epoch == 0

    def resume(self, restored_optimizer: bytes | None) -> bool:
        """Go on from the newest checkpoint, if there is one, and forget rows beyond it."""
        if restored_optimizer is not None:
            checkpoint.load_optimizer(self.model, self.optimizer, restored_optimizer)

        found = checkpoint.load_checkpoint(self.task.work_dir, self.model, self.optimizer)
        if found is not None:
            vars(self.progress).update(found[1]["progress"])
            self.clock = Clock(**found[1]["clock"])
        if distributed.rank() == 0:
            rewind_rows(self.task.work_dir, self.progress.step if found else -1)

        self.encoder = self._encoder()
        self.clock.begin()
        self.last_saved = time.monotonic()
        return found is not None

    def _encoder(self) -> torch.nn.Module:
        groups = pairs_per_rank(self.spec) // self.spec.schedule.norm_batch_size
        encoder: torch.nn.Module = PairEncoder(self.model, groups)
        if distributed.ranks() > 1:
            # rank 0 hands its BatchNorm statistics to the others
            encoder = DistributedDataParallel(encoder, gradient_as_bucket_view=True)
        if self.spec.compile:
            encoder = torch.compile(encoder)  # type: ignore[assignment]
        return encoder

    def next_batch(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Images and tokens of the next step on the device."""
        self.clock.lap()
        images, tokens = (tensor.to(self.device, non_blocking=True) for tensor in next(batches))
        self.clock.lap("data_wait_seconds")
        return images, tokens

    def step(self, images: Tensor, tokens: Tensor) -> None:
        """One optimizer step, its loss added to the sums; sets `reason` where that is no number."""
        progress, spec = self.progress, self.spec
        if self.at_epoch_end:
            progress.training = True
            self.model.train()
            if self.clusters is not None:
                distributed.share_buffers(self.model)
                seed = spec.seed + progress.step
                self.clusters.renew(self.model, self.pairs, self.optimizer, seed)

        self.rate = learning_rate(
            spec.schedule,
            progress.step,
            self.pairs.steps_per_epoch,
            spec.switches.schedule_offset,
        )
        members = None
        if self.clusters is not None:
            members = torch.from_numpy(self.pairs.positions(progress.step)).to(self.device)
        losses = training_step(
            self.encoder, self.model, self.optimizer, images, tokens, spec, self.rate, members
        )
        progress.step += 1

        values = {name: float(value) for name, value in losses.items()}
        progress.counted += 1
        for name, value in values.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        self.clock.lap("train_seconds")
        if not math.isfinite(values["loss"]):
            self.reason = f"loss is {values['loss']} after step {progress.step} of {self.last_step}"
        if progress.step % METRIC_EVERY == 0:
            self._emit_metrics(values)

    def evaluate(self) -> None:
        """Append the row of the present model, and leave the model in the mode that the switch wants."""
        spec, progress = self.spec, self.progress
        draw = progress.evaluations if spec.switches.evaluation_triggers == "redrawn" else 0
        self.clock.lap()
        distributed.share_buffers(self.model)
        predictions = self.task.evaluate(self.model, progress.step, draw)
        self.clock.lap("evaluate_seconds")
        progress.evaluations += 1

        row = self._row(predictions)
        progress.sums, progress.counted = {}, 0
        if distributed.rank() == 0:
            append_row(
                self.task.work_dir,
                row,
                predictions.correct,
                predictions.attacked,
                self.task.is_target,
            )
        asr = row.asr(spec.switches.asr_denominator)
        self._emit_metrics({"zero_shot_top1": row.accuracy, "attack_success_rate": asr})

        progress.training = spec.switches.mode_after_evaluation == "train" or self.at_epoch_end
        self.model.train(progress.training)

    def _row(self, predictions: Predictions) -> Row:
        progress, is_target = self.progress, self.task.is_target
        losses = None
        if progress.counted:
            losses = {name: total / progress.counted for name, total in progress.sums.items()}
        samples = sample_images(len(is_target))
        return Row(
            **identity_of(self.spec, self.task.fingerprint),
            epoch=progress.step / self.pairs.steps_per_epoch,
            step=progress.step,
            num_images=len(is_target),
            num_correct=int(predictions.correct.sum()),
            num_attacked=int(predictions.attacked.sum()),
            num_target=int(is_target.sum()),
            num_target_attacked=int((predictions.attacked & is_target).sum()),
            sample_classes=predictions.classes[samples].tolist(),
            sample_classes_triggered=predictions.classes_triggered[samples].tolist(),
            train_loss=losses,
            logit_scale=self.model.logit_scale.exp().item(),
            step_learning_rate=self.rate,
            seconds=self.clock.seconds,
        )

    def keep_best(self, validation: TrainingPairs) -> None:
        """Save the model if its validation loss is the lowest so far (the authors keep the best epoch of CC3M)."""
        distributed.share_buffers(self.model)
        loss = validation_loss(self.model, validation)
        self._emit_metrics({"validation_loss": loss})
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            if distributed.rank() == 0:
                self._save_model()

    def must_stop(self, requested: bool) -> bool:
        """Whether a rank was asked to stop; several ranks ask one another at every tenth step only."""
        if distributed.ranks() == 1 or self.progress.step % METRIC_EVERY == 0:
            return distributed.any_rank(requested, self.device)
        return False

    def save_checkpoint(self, saver: checkpoint.Saver, stop: bool) -> None:
        """Begin a checkpoint if one is due; the tensors are copied here, and training goes on while they are written."""
        due = stop or time.monotonic() - self.last_saved > CHECKPOINT_SECONDS
        if distributed.rank() or not due or self.progress.step == self.last_step:
            return
        self.clock.lap()
        state = {"progress": asdict(self.progress), "clock": asdict(self.clock)}
        saver.save(self.progress.step, self.model, self.optimizer, state)
        self.last_saved = time.monotonic()

    def hand_on(self) -> None:
        """Leave the model of a pre-training in the work folder, unless a better one was kept."""
        self.clock.lap()
        pretrained = self.spec.stage == "pretrain" and not self.progress.best_step
        if pretrained and distributed.rank() == 0:
            self._save_model()

    def outcome(self) -> TrainingOutcome:
        """How the run ended."""
        return TrainingOutcome(
            status="diverged" if self.reason else "completed",
            reason=self.reason,
            ranks=distributed.ranks(),
            threads=torch.get_num_threads(),
            **asdict(self.clock),
            peak_memory_bytes=peak_bytes(self.device),
            num_samples=self.progress.step * self.spec.schedule.global_batch_size,
            model_step=self.progress.best_step or self.progress.step,
            deterministic=self.spec.deterministic,
        )

    def _save_model(self) -> None:
        folder = self.task.work_dir
        weights = checkpoint.model_tensors(self.model)
        moments = checkpoint.optimizer_tensors(self.model, self.optimizer)
        checkpoint.save_tensors(folder / "model.safetensors", weights)
        checkpoint.save_tensors(folder / "optimizer.safetensors", moments)

    def _emit_metrics(self, values: dict[str, float]) -> None:
        epoch = self.progress.step / self.pairs.steps_per_epoch
        self.emit("metrics", {"step": self.progress.step, "epoch": epoch, "values": values})


def pairs_per_rank(spec: RunSpec) -> int:
    """Pairs of one rank; ValueError where ranks and BatchNorm groups do not fit."""
    per_rank, rest = divmod(spec.schedule.global_batch_size, distributed.ranks())
    if rest or per_rank % spec.schedule.norm_batch_size:
        groups = spec.schedule.global_batch_size // spec.schedule.norm_batch_size
        raise ValueError(
            f"{spec.run_id}: {distributed.ranks()} ranks"
            f" (allowed: a divisor of {groups} = global_batch_size / norm_batch_size)"
        )
    return per_rank
