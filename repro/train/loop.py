"""One training run, from start model to last evaluation; the same loop pre-trains and cleans.

Read `train` top to bottom: resume, then for each step batch, training step, evaluation, choice of
the model, checkpoint; at the end hand on the model. All randomness is keyed by (seed, step), so a
run that was killed ends bitwise like one that was not.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from repro.ledger import Row, append_row, identity_of, rewind_rows, sample_images
from repro.spec import RunSpec
from repro.train.clustering import attach
from repro.train.gradient_cache import GradientCache, needs_cache
from repro.train.loading import on_device
from repro.train.model import PairEncoder, build_optimizer
from repro.train.pairs import TrainingPairs
from repro.train.predictions import Predictions
from repro.train.process import checkpoint, distributed
from repro.train.process.device import peak_bytes, reset_peak, set_arithmetic
from repro.train.process.progress import Clock, Progress, TrainingOutcome
from repro.train.process.stopping import Interrupted, Stop, stop_requests
from repro.train.process.tensor_files import (
    load_optimizer,
    model_tensors,
    optimizer_tensors,
    save_tensors,
)
from repro.train.schedule import evaluation_steps, learning_rate, num_steps
from repro.train.step import training_step
from repro.train.validation import validation_loss

METRIC_EVERY = 10
"""Steps between loss points in the tracking record, and between two questions to other ranks."""

Emit = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Task:
    """A run's inputs, loaded."""

    spec: RunSpec
    fingerprint: str
    work_dir: Path
    pairs: TrainingPairs
    evaluate: Callable[[CLIP, int, int, Stop], Predictions]
    """(model, step, draw, stop) to what the model makes of the N evaluation images.

    It calls `stop` between its batches, on every rank as often; what that raises drops the
    evaluation, which is made from its beginning when the run goes on.
    """
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
) -> TrainingOutcome:
    """Train `model` in place as the spec says, appending rows to the work folder.

    `restored_optimizer` is the pre-training AdamW state where `optimizer_state: restored` asks for
    it. Resumes from the newest checkpoint. Raises Interrupted after a checkpoint when a signal asks
    to stop.
    """
    run = TrainingRun(task, model, device, emit)
    run.resume(restored_optimizer)

    # Leaving the block, however that happens, ends the loader processes and waits for the last
    # checkpoint's write; signals are collected as long as it lasts.
    batches = task.pairs.batches(run.progress.step, run.last_step, workers)
    with (
        stop_requests(device) as stop,
        checkpoint.Saver(task.work_dir) as saver,
        contextlib.closing(batches),
    ):
        ahead = on_device(batches, device)
        try:
            # The start model is evaluated too: it is what cleaning is compared with.
            run.evaluate_if_due(stop)
            while not run.done:
                run.step(*run.next_batch(ahead))
                run.evaluate_if_due(stop)
                if saver.due and not run.done:
                    run.save_checkpoint(saver)
                run.stop_if_asked(stop)
        except Interrupted:
            # Raised on all ranks at the same step. None may leave before rank 0 has its copies.
            run.save_checkpoint(saver)
            distributed.barrier()
            raise

    run.hand_on()
    return run.outcome()


class TrainingRun:
    """A run under way, its state, and each thing that a step of the loop does with it."""

    def __init__(self, task: Task, model: CLIP, device: torch.device, emit: Emit) -> None:
        spec, pairs = task.spec, task.pairs

        # Before the first evaluation: all of a run computes by the same rules.
        set_arithmetic(spec.precision, spec.deterministic, device)
        reset_peak(device)

        self.task, self.spec, self.pairs = task, spec, pairs
        self.model, self.device, self.emit = model, device, emit

        # The head of the deep-clustering term is a part of the model: the optimizer comes after it.
        self.clusters = attach(model, spec, len(pairs.rows))
        self.optimizer = build_optimizer(model, spec.optimizer, spec.switches.weight_decay_rule)

        self.last_step = num_steps(spec, pairs.steps_per_epoch)
        self.evaluate_at = set(evaluation_steps(spec, pairs.steps_per_epoch))
        self.progress, self.clock = Progress(), Clock()
        self.unread: Mapping[str, Tensor | float] = {}
        """Loss parts of the last step, which the device may still be computing."""

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step was the last of an epoch."""
        return self.progress.step % self.pairs.steps_per_epoch == 0

    @property
    def done(self) -> bool:
        """Whether no step is left to make."""
        return self.progress.step == self.last_step or bool(self.progress.reason)

    @property
    def rate(self) -> float:
        """Learning rate of the last step; 0 before the first."""
        return self._rate(self.progress.step - 1) if self.progress.step else 0.0

    def _rate(self, step: int) -> float:
        steps, offset = self.pairs.steps_per_epoch, self.spec.switches.schedule_offset
        return learning_rate(self.spec.schedule, step, steps, offset)

    def resume(self, restored_optimizer: bytes | None) -> None:
        """Go on from the newest checkpoint, if there is one, and forget rows beyond it."""
        # CleanCLIP's code loads the state of the pre-training's optimizer before it finetunes.
        if restored_optimizer is not None:
            load_optimizer(self.model, self.optimizer, restored_optimizer)

        # A checkpoint has moments of its own, which take the place of those.
        found = checkpoint.load_checkpoint(self.task.work_dir, self.model, self.optimizer)
        if found is not None:
            vars(self.progress).update(found[1]["progress"])
            self.clock = Clock(**found[1]["clock"])
            self.unread = self.progress.unread

        # Rows of steps that the checkpoint does not know will be made again.
        if distributed.rank() == 0:
            rewind_rows(self.task.work_dir, self.progress.evaluated_step)

        # Wrapped after loading: DDP and the gradient cache give all ranks the weights of rank 0.
        self.encoder = self._encoder()
        self.model.train(self.progress.training)
        self.clock.begin()

    def _encoder(self) -> torch.nn.Module:
        groups = pairs_per_rank(self.spec) // self.spec.schedule.norm_batch_size

        # A rank that has too little memory for all its groups takes them one after another.
        if needs_cache(self.spec, groups, self.device):
            print(f"{self.spec.run_id}: {groups} BatchNorm groups a rank, one after the other")
            return GradientCache(self.model, groups, self.spec.compile)

        encoder: torch.nn.Module = PairEncoder(self.model, groups)
        if distributed.ranks() > 1:
            # Before each forward pass rank 0 hands its BatchNorm statistics to the others.
            encoder = DistributedDataParallel(encoder, gradient_as_bucket_view=True)
        if self.spec.compile:
            encoder = torch.compile(encoder)  # type: ignore[assignment]
        return encoder

    def next_batch(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Images and tokens of the next step on the device."""
        self.clock.lap()
        images, tokens = next(batches)
        self.clock.lap("data_wait_seconds")
        return images, tokens

    def step(self, images: Tensor, tokens: Tensor) -> None:
        """One optimizer step; the loss of the step before is read while the device is at work."""
        progress, spec = self.progress, self.spec

        # The step to come is the first of an epoch.
        if self.at_epoch_end:
            progress.training = True
            self.model.train()
            if self.clusters is not None:
                # Every rank labels all pairs, so all need the same model, statistics included.
                distributed.share_buffers(self.model)
                seed = spec.seed + progress.step
                self.clusters.renew(self.model, self.pairs, self.optimizer, seed)

        # What the deep-clustering term looks labels up by: all B pairs, not this rank's alone.
        members = None
        if self.clusters is not None:
            members = torch.from_numpy(self.pairs.positions(progress.step)).to(self.device)

        rate = self._rate(progress.step)
        losses = training_step(
            self.encoder, self.model, self.optimizer, images, tokens, spec, rate, members
        )

        # The device has the next step to do while the host waits for the loss of the one before.
        self.read_loss()
        self.unread = losses
        progress.step += 1
        self.clock.lap("train_seconds")

    def read_loss(self) -> None:
        """Add the loss of the last step to the sums; one that is no number ends the run."""
        progress = self.progress
        values = {name: float(value) for name, value in self.unread.items()}
        self.unread = {}
        if not values:
            return

        # A row tells the mean over the steps since the row before it.
        progress.counted += 1
        for name, value in values.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value

        # Mostly noticed a step late; the evaluation after it is the last row of the run.
        if not math.isfinite(values["loss"]) and not progress.reason:
            loss = values["loss"]
            progress.reason = f"loss is {loss} after step {progress.step} of {self.last_step}"
        if progress.step % METRIC_EVERY == 0:
            self._emit_metrics(values)

    def evaluate_if_due(self, stop: Stop) -> None:
        """Evaluate, and keep the best model, where the last step asks for it and it is not done."""
        progress = self.progress
        wanted = progress.step in self.evaluate_at or progress.reason
        if not wanted or progress.evaluated_step == progress.step:
            return

        self.evaluate(stop)
        if self.task.validation is not None and progress.step and self.at_epoch_end:
            self.keep_best(self.task.validation)

    def evaluate(self, stop: Stop) -> None:
        """Append the row of the present model; leave it in the mode that the switch wants."""
        spec, progress = self.spec, self.progress
        self.read_loss()
        self.clock.lap("train_seconds")

        # The authors' triggers are drawn anew for each evaluation.
        draw = progress.evaluations if spec.switches.evaluation_triggers == "redrawn" else 0

        # Ranks share the images, but the last step left each with statistics of its own groups.
        distributed.share_buffers(self.model)
        try:
            predictions = self.task.evaluate(self.model, progress.step, draw, stop)
        finally:
            self.clock.lap("evaluate_seconds")

        row = self._row(predictions)
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

        # With `eval` BatchNorm then stays frozen till the epoch ends, as in the authors' code.
        progress.evaluations += 1
        progress.evaluated_step = progress.step
        progress.sums, progress.counted = {}, 0
        progress.training = spec.switches.mode_after_evaluation == "train" or self.at_epoch_end
        self.model.train(progress.training)

    def _row(self, predictions: Predictions) -> Row:
        progress, is_target = self.progress, self.task.is_target
        # Nothing was trained yet in the row of the start model.
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
        """Save the model if its validation loss is the lowest so far (the authors on CC3M)."""
        distributed.share_buffers(self.model)
        loss = validation_loss(self.model, validation)
        self._emit_metrics({"validation_loss": loss})
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            self._save_model()

    def stop_if_asked(self, stop: Stop) -> None:
        """Raise Interrupted if this rank, or another one, was asked to stop."""
        # Several ranks ask rarely: it is a collective, for which the host waits for the device.
        if distributed.ranks() == 1 or self.progress.step % METRIC_EVERY == 0:
            stop()

    def save_checkpoint(self, saver: checkpoint.Saver) -> None:
        """Begin a checkpoint: tensors are copied here, and written while training goes on."""
        # Rank 0 alone writes; before the first step there is nothing that a new start lacks.
        if distributed.rank() or not self.progress.step:
            return

        # The last loss may not have been read yet, and the step is not made again.
        self.progress.unread = {name: float(value) for name, value in self.unread.items()}
        self.clock.lap()
        state = {"progress": asdict(self.progress), "clock": asdict(self.clock)}
        saver.save(self.progress.step, self.model, self.optimizer, state)

    def hand_on(self) -> None:
        """Leave the model of a pre-training in the work folder, unless a better one was kept."""
        self.clock.lap()
        # Nobody goes on from a cleaned model: its rows and bits are all that the study wants.
        if self.spec.stage == "pretrain" and not self.progress.best_step:
            self._save_model()

    def outcome(self) -> TrainingOutcome:
        """How the run ended."""
        return TrainingOutcome(
            status="diverged" if self.progress.reason else "completed",
            reason=self.progress.reason,
            ranks=distributed.ranks(),
            threads=torch.get_num_threads(),
            **asdict(self.clock),
            peak_memory_bytes=peak_bytes(self.device),
            num_samples=self.progress.step * self.spec.schedule.global_batch_size,
            model_step=self.progress.best_step or self.progress.step,
            deterministic=self.spec.deterministic,
            files=self.progress.files,
        )

    def _save_model(self) -> None:
        """Write model and moments, by rank 0, and remember their hashes."""
        if distributed.rank():
            return

        parts = {
            "model.safetensors": model_tensors(self.model),
            "optimizer.safetensors": optimizer_tensors(self.model, self.optimizer),
        }
        for name, tensors in parts.items():
            self.progress.files[name] = save_tensors(self.task.work_dir / name, tensors)

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
