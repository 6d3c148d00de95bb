"""One training run, from start model to last evaluation; the same loop pre-trains and cleans.

Read `train` top to bottom: resume, then for each step batch, training step, evaluation, choice of
the model, checkpoint; at the end hand on the model. All randomness is keyed by (seed, step), so a
run that was killed ends bitwise like one that was not.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from repro.ledger import (
    CLEANED,
    Counts,
    Row,
    RunOutcome,
    append_row,
    cleaned_row,
    count_outcomes,
    identity_of,
    rewind_rows,
    sample_images,
)
from repro.spec import RunSpec
from repro.train.build import build_optimizer
from repro.train.defences import DEFENCES, objective_of
from repro.train.gradient_cache import GradientCache, needs_cache
from repro.train.loading import on_device
from repro.train.model import PairEncoder
from repro.train.pairs import TrainingPairs
from repro.train.predictions import Predictions
from repro.train.process import checkpoint, distributed
from repro.train.process.checkpoint import load_optimizer, optimizer_state, save_tensors
from repro.train.process.device import peak_bytes, reset_peak, set_arithmetic, to_host
from repro.train.process.progress import Clock, Progress
from repro.train.process.stopping import Interrupted, Stop, stop_requests
from repro.train.schedule import evaluation_steps, learning_rate, num_steps
from repro.train.step import training_step
from repro.train.validation import validation_loss

METRIC_EVERY = 10
"""Steps between loss points in the tracking record, and between two questions to other ranks."""
GRADIENT_NORM = "gradient_norm"

MOST_GRAPHS = 32
"""Compiled graphs of a process: one for each number of views, three with the gradient cache."""

Emit = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Task:
    """A run's inputs, loaded."""

    spec: RunSpec
    fingerprint: str
    work_dir: Path
    pairs: TrainingPairs
    evaluate: Callable[[CLIP, int, int, Stop], Predictions]
    """(model, step, draw, stop) to what the model makes of the N evaluation images. It calls `stop`
    between its batches, on every rank as often, and what that raises drops the evaluation.
    """
    is_target: NDArray[np.bool_]
    """(N,) evaluation images of the target class."""
    validation: TrainingPairs | None
    """Pairs of the validation loss, where it picks the model."""
    is_validation: NDArray[np.bool_] | np.bool_ = np.False_
    """(N,) evaluation images of the validation part."""


def train(
    task: Task,
    model: CLIP,
    restored_optimizer: bytes | None,
    device: torch.device,
    emit: Emit,
    workers: int,
) -> RunOutcome:
    """Train `model` in place from the newest checkpoint on, appending rows to the work folder.

    `restored_optimizer` is the pre-training AdamW state where `optimizer_state: restored` asks for
    it. Raises Interrupted after a checkpoint when a signal asks to stop.
    """
    run = TrainingRun(task, model, device, emit)
    run.resume(restored_optimizer)

    # Leaving the block, however that happens, ends the loader processes and waits for the last
    # checkpoint's write; signals are collected as long as it lasts.
    batches = run.pairs.batches(run.progress.step, run.last_step, workers)
    with (
        stop_requests(device) as stop,
        checkpoint.Saver(task.work_dir) as saver,
        contextlib.closing(batches),
    ):
        # Tokens stay on the host, where a step sorts them by length (`text_parts`).
        ahead = on_device(batches, device, 1)
        try:
            # The start model is evaluated too: it is what cleaning is compared with.
            run.evaluate_if_due(stop)
            while not run.done:
                run.step(ahead)
                run.evaluate_if_due(stop)
                if saver.due and not run.done:
                    run.save_checkpoint(saver)
                # Ranks ask each other rarely: the host waits for the device meanwhile.
                if distributed.ranks() == 1 or run.progress.step % METRIC_EVERY == 0:
                    stop()
        except Interrupted:
            # Raised on all ranks at the same step. None may leave before the file is written: the
            # first that ends may take the others with it.
            run.save_checkpoint(saver)
            saver.wait()
            distributed.barrier()
            raise

    return run.outcome()


class TrainingRun:
    """The state of a run, and what a step of the loop does with it.

    A loss is read one step late: while the host reads it, the device has the next step to do.
    `late` reads the loss parts of the last step, and a checkpoint stores them as `Progress.unread`.
    """

    def __init__(self, task: Task, model: CLIP, device: torch.device, emit: Emit) -> None:
        spec = task.spec

        # Before the first evaluation: all of a run computes by the same rules.
        set_arithmetic(spec.precision, spec.deterministic, device)
        reset_peak(device)

        self.task, self.spec, self.pairs = task, spec, task.pairs
        self.model, self.device, self.emit = model, device, emit
        self.objective = objective_of(spec)

        # As it is before training, also where the run goes on from a checkpoint.
        self.start: PairEncoder | None = None
        if self.objective.needs_start:
            frozen = copy.deepcopy(model).eval().requires_grad_(False)
            self.start = PairEncoder(frozen, norm_groups(spec))

        self.start_weights: dict[str, Tensor] = {}
        if DEFENCES[spec.defence_settings.name].keeps_start:
            weights = model.named_parameters()
            self.start_weights = {key: value.detach().clone() for key, value in weights}

        # A submodule, which optimizer and checkpoints take in with everything else.
        if self.objective.modules is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(spec.seed)
                modules = self.objective.modules(spec.model.embed_dim)
            model.objective = modules.to(device)
        self.optimizer = build_optimizer(model, spec.optimizer, spec.switches.weight_decay_rule)

        self.last_step = num_steps(spec, self.pairs.steps_per_epoch)
        self.evaluate_at = set(evaluation_steps(spec, self.pairs.steps_per_epoch))
        self.progress, self.clock = Progress(), Clock()
        self.late: Callable[[], dict[str, float]] = dict

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step was the last of an epoch."""
        return self.progress.step % self.pairs.steps_per_epoch == 0

    @property
    def done(self) -> bool:
        """Whether no step is left to make."""
        progress = self.progress
        return progress.step == self.last_step or bool(progress.reason or progress.given_up)

    def rate(self, step: int) -> float:
        """Learning rate of the 0-based step; 0 before the first."""
        steps, offset = self.pairs.steps_per_epoch, self.spec.switches.schedule_offset
        return 0.0 if step < 0 else learning_rate(self.spec.schedule, step, steps, offset)

    def resume(self, restored_optimizer: bytes | None) -> None:
        """Go on from the newest checkpoint, if there is one, and forget rows beyond it."""
        # CleanCLIP's code loads the state of the pre-training's optimizer before it finetunes.
        if restored_optimizer is not None:
            load_optimizer(self.model, self.optimizer, load(restored_optimizer))

        # A checkpoint has moments of its own, which take the place of those.
        state = checkpoint.load_checkpoint(self.task.work_dir, self.model, self.optimizer)
        if state is not None:
            vars(self.progress).update(state["progress"])
            self.clock = Clock(**state["clock"])
            self.late = self.progress.unread.copy

        # Rows of steps that the checkpoint does not know will be made again.
        if distributed.rank() == 0:
            rewind_rows(self.task.work_dir, self.progress.evaluated_step)

        # Wrapped after loading: DDP and the gradient cache give all ranks the weights of rank 0.
        self.encoder = build_encoder(self.model, self.spec, self.device)
        self.model.train(self.progress.training)
        self.clock.begin()
        clock = self.clock
        self.measured = self.progress.step, clock.train_seconds, clock.data_wait_seconds

    def step(self, batches: Iterator[Sequence[Tensor]]) -> None:
        """One optimizer step on the next batch."""
        progress, spec = self.progress, self.spec
        self.clock.lap()
        images, tokens = next(batches)
        self.clock.lap("data_wait_seconds")

        # The step to come is the first of an epoch.
        if self.at_epoch_end:
            progress.training = True
            self.model.train()

        trained, rate = (self.encoder, self.model, self.optimizer), self.rate(progress.step)
        start = self.start, self.start_weights
        losses = training_step(*trained, images, tokens, spec, rate, *start)
        if (progress.step + 1) % METRIC_EVERY == 0:
            losses |= {GRADIENT_NORM: self.gradient_norm()}
        self.read_loss()
        arrived = to_host(losses)
        self.late = lambda: {name: float(value) for name, value in arrived().items()}
        progress.step += 1
        self.clock.lap("train_seconds")

    def read_loss(self) -> None:
        """Add the loss of the last step to the sums; one that is no number ends the run."""
        progress, values = self.progress, self.late()
        self.late = dict
        if not values:
            return
        # For the tracking record alone: no part of the loss.
        norm = {GRADIENT_NORM: values.pop(GRADIENT_NORM)} if GRADIENT_NORM in values else {}

        # A row holds the mean over the steps since the row before it.
        progress.counted += 1
        for name, value in values.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value

        # Mostly noticed a step late; the evaluation after it is the last row of the run.
        if not math.isfinite(values["loss"]) and not progress.reason:
            loss = values["loss"]
            progress.reason = f"loss is {loss} after step {progress.step} of {self.last_step}"
        if progress.step % METRIC_EVERY == 0:
            self.emit_metrics(values | norm | self.speed())

    def gradient_norm(self) -> Tensor:
        """Norm of the gradient of the last step, over all weights; a scalar on the device."""
        gradients = [of.grad for of in self.model.parameters() if of.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def speed(self) -> dict[str, float]:
        """Pairs per second since the last call, of all ranks, the share of that time spent on
        waiting for batches, and the peak of memory in bytes.
        """
        clock, before = self.clock, self.measured
        self.measured = now = self.progress.step, clock.train_seconds, clock.data_wait_seconds
        steps, training, waiting = (new - old for new, old in zip(now, before, strict=True))
        seconds = training + waiting
        return {
            "pairs_per_second": steps * self.spec.schedule.global_batch_size / max(seconds, 1e-9),
            "waiting_share": waiting / max(seconds, 1e-9),
            "peak_memory_bytes": float(peak_bytes(self.device)),
        }

    def evaluate_if_due(self, stop: Stop) -> None:
        """Append the row of the present model, and keep the best model, where the last step asks
        for it and it is not done; leave the model in the mode that the switch names.
        """
        spec, progress, validation = self.spec, self.progress, self.task.validation
        due = progress.step in self.evaluate_at or progress.reason
        if not due or progress.evaluated_step == progress.step:
            return
        self.read_loss()
        self.clock.lap("train_seconds")

        # The authors' triggers are drawn anew for each evaluation.
        draw = progress.evaluations if spec.switches.evaluation_triggers == "redrawn" else 0

        # Ranks share the images, but the last step left each with statistics of its own groups.
        distributed.broadcast(self.model.buffers())
        try:
            predictions = self.task.evaluate(self.model, progress.step, draw, stop)
        finally:
            self.clock.lap("evaluate_seconds")

        outcomes = predictions.correct, predictions.attacked, self.task.is_target

        def counts(images: NDArray[np.bool_]) -> dict[str, Any]:
            parts = (part[images] for part in outcomes)
            return {"num_images": int(images.sum()), **count_outcomes(*parts)}

        seen, held_out = predictions.seen, predictions.seen & self.task.is_validation
        samples, steps = sample_images(len(seen)), max(progress.counted, 1)
        means = {name: total / steps for name, total in progress.sums.items()}
        row = Row(
            **identity_of(spec, self.task.fingerprint),
            epoch=progress.step / self.pairs.steps_per_epoch,
            step=progress.step,
            **counts(seen),
            sample_classes=predictions.classes[samples].tolist(),
            sample_classes_triggered=predictions.classes_triggered[samples].tolist(),
            train_loss=means or None,
            logit_scale=self.model.logit_scale.exp().item(),
            step_learning_rate=self.rate(progress.step - 1),
            seconds=self.clock.seconds,
            validation=Counts(**counts(held_out)) if held_out.any() else None,
        )
        if distributed.rank() == 0:
            append_row(self.task.work_dir, row)
            self.keep_cleaned(row)
        asr = row.asr(spec.switches.asr_denominator)
        self.emit_metrics({"zero_shot_top1": row.accuracy, "attack_success_rate": asr})

        # The denominator of the ASR in the report must not decide what is trained.
        progress.lowest_asr = min(progress.lowest_asr, row.asr("all"))
        progress.given_up = self.hopeless()

        # With `eval` BatchNorm then stays frozen till the epoch ends, as in the authors' code.
        progress.evaluations += 1
        progress.evaluated_step = progress.step
        progress.sums, progress.counted = {}, 0
        progress.training = spec.switches.mode_after_evaluation == "train" or self.at_epoch_end
        self.model.train(progress.training)

        # The model of the lowest validation loss is handed on (the authors on CC3M).
        if validation is not None and progress.step and self.at_epoch_end:
            distributed.broadcast(self.model.buffers())
            loss = validation_loss(self.model, validation)
            self.emit_metrics({"validation_loss": loss})
            if loss < progress.best_loss:
                progress.best_loss, progress.best_step = loss, progress.step
                self.save_model()

    def hopeless(self) -> str:
        """Why a cleaning run is given up by `stop_early`; empty where it goes on."""
        rule, progress = self.spec.stop_early, self.progress
        epochs = progress.step / self.pairs.steps_per_epoch
        if rule is None or epochs != rule.epochs or progress.lowest_asr < rule.asr:
            return ""
        return f"given up: no ASR below {rule.asr:g} in {rule.epochs} epochs"

    def save_checkpoint(self, saver: checkpoint.Saver) -> None:
        """Begin a checkpoint: tensors are copied here, and written while training goes on."""
        # Rank 0 alone writes; before the first step there is nothing that a new start lacks.
        if distributed.rank() or not self.progress.step:
            return
        self.progress.unread = self.late()
        self.clock.lap()
        state = {"progress": asdict(self.progress), "clock": asdict(self.clock)}
        saver.save(self.progress.step, self.model, self.optimizer, state)

    def save_model(self) -> None:
        """Write model and moments, by rank 0."""
        if distributed.rank():
            return
        moments = optimizer_state(self.model, self.optimizer)
        for part, tensors in (("model", self.model.state_dict()), ("optimizer", moments)):
            save_tensors(self.task.work_dir / f"{part}.safetensors", without_objective(tensors))

    def keep_cleaned(self, row: Row) -> None:
        """Write the weights of a cleaned model, with its row, if it is the best of the run."""
        spec, path, rank = self.spec, self.task.work_dir / CLEANED, row.rank(self.spec)
        if not spec.keeps_cleaned or rank is None:
            return
        best = cleaned_row(path)
        # A row that is not earlier is of an attempt that was cut short after the last checkpoint.
        if best and best.step < row.step and (best.rank(spec) or rank) <= rank:
            return
        own = without_objective(self.model.state_dict())
        # Without the wall time, equal models are equal files.
        save_tensors(path, own, {"row": row.model_copy(update={"seconds": 0.0}).model_dump_json()})

    def outcome(self) -> RunOutcome:
        """Save the model of a pre-training, unless a better one was kept; how the run ended."""
        progress = self.progress
        self.clock.lap()
        # Nobody goes on from a cleaned model; `keep_cleaned` has kept the best.
        if self.spec.stage == "pretrain" and not progress.best_step:
            self.save_model()
        return {
            "status": "diverged" if progress.reason else "completed",
            "reason": progress.reason or progress.given_up,
            "ranks": distributed.ranks(),
            "threads": torch.get_num_threads(),
            **asdict(self.clock),
            "peak_memory_bytes": peak_bytes(self.device),
            "num_samples": progress.step * self.spec.schedule.global_batch_size,
            "model_step": progress.best_step or progress.step,
            "deterministic": self.spec.deterministic,
        }

    def emit_metrics(self, values: dict[str, float]) -> None:
        """Report numbers of the last step."""
        content = {
            "step": self.progress.step,
            "total_steps": self.last_step,
            "epoch": self.progress.step / self.pairs.steps_per_epoch,
            "seconds": self.clock.seconds,
            "values": values,
        }
        self.emit("metrics", content)


def without_objective(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without those of the objective's own modules, which end with their training."""
    return {name: value for name, value in tensors.items() if not name.startswith("objective.")}


def norm_groups(spec: RunSpec) -> int:
    """BatchNorm groups of one rank; ValueError where ranks and groups do not fit."""
    size, batch = spec.schedule.norm_batch_size, spec.schedule.global_batch_size
    per_rank, rest = divmod(batch, distributed.ranks())
    if rest or per_rank % size:
        raise ValueError(
            f"{spec.run_id}: {distributed.ranks()} ranks"
            f" (allowed: a divisor of {batch // size} = global_batch_size / norm_batch_size)"
        )
    return per_rank // size


def build_encoder(model: CLIP, spec: RunSpec, device: torch.device) -> nn.Module:
    """What encodes this rank's pairs: with DDP or the gradient cache, compiled or not."""
    groups = norm_groups(spec)
    if spec.compile:
        # Runs of one kind share the graphs of a process. Beyond the limit torch would go on
        # uncompiled.
        torch._dynamo.config.recompile_limit = MOST_GRAPHS
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        # Else what DDP calls is cut into a graph for each 25 MB of weights, whose gradients could
        # then be sent while others are computed: 29 compilations to save milliseconds of a step.
        torch._dynamo.config.optimize_ddp = False

    # A rank that has too little memory for all its groups takes them one after another.
    if needs_cache(spec, groups, device):
        print(f"{spec.run_id}: {groups} BatchNorm groups a rank, one after the other")
        return GradientCache(model, groups, spec.compile)

    encoder = PairEncoder(model, groups)
    if spec.compile:
        encoder.compile()
    if distributed.ranks() == 1:
        return encoder
    # Before each forward pass rank 0 hands its BatchNorm statistics to the others.
    return DistributedDataParallel(encoder, gradient_as_bucket_view=True)
