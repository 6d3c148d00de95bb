"""A training run of eight steps on random pixels: small, and yet the real loop."""

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP
from safetensors.torch import save

from repro.ledger import RunOutcome
from repro.profile import clean_runs, load_profile
from repro.spec import Defence, RunSpec
from repro.train.build import build_model
from repro.train.loop import Task, train
from repro.train.predictions import Predictions
from repro.train.process.stopping import Stop
from repro.train.step import training_step
from repro.train.views.tokens import tokenize

CPU = torch.device("cpu")
STEPS_PER_EPOCH, EPOCHS, BATCH = 4, 2, 6
AUTHORS = load_profile("authors").switches.model_dump()


class Pairs:
    """Random pixels and captions, a pure function of the step."""

    steps_per_epoch = STEPS_PER_EPOCH
    rows = np.arange(STEPS_PER_EPOCH * BATCH)

    def __len__(self) -> int:
        return STEPS_PER_EPOCH * EPOCHS

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        shape = (2, BATCH, 3, 32, 32)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        numbers = torch.randint(0, 99, (2 * BATCH,), generator=generator)
        tokens = tokenize([f"number {int(n)}" for n in numbers], "cut").long()
        return images, tokens[:, :8].unflatten(0, (2, BATCH))

    def positions(self, step: int) -> np.ndarray:
        begin = step % STEPS_PER_EPOCH * BATCH
        return self.rows[begin : begin + BATCH]

    def batches(
        self, start: int, stop: int, workers: int
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        return (self.batch(step) for step in range(start, stop))


def run_spec(**switches: Any) -> RunSpec:
    """CleanCLIP under protocol `authors`, evaluated in the middle of each epoch."""
    overrides = {f"switches.{name}": value for name, value in (AUTHORS | switches).items()}
    runs = clean_runs(load_profile("smoke", overrides=overrides))
    run = next(run for run in runs if run.loss == "mmcl_ssl")
    schedule = {"epochs": EPOCHS, "warmup_steps": 3}
    schedule |= {"global_batch_size": BATCH, "norm_batch_size": BATCH}
    rhythm = {"evaluations_per_epoch": None, "evaluate_every_steps": 3}
    return scheduled(run, **schedule).model_copy(update=rhythm)


def scheduled(run: RunSpec, **changes: Any) -> RunSpec:
    """The run with other fields of its schedule."""
    return run.model_copy(update={"schedule": run.schedule.model_copy(update=changes)})


def defended(spec: RunSpec, name: str, **settings: float) -> RunSpec:
    """The run with this defence."""
    defence = Defence.model_validate({"name": name, **settings})
    return spec.model_copy(update={"defence": defence})


def pretraining_of(spec: RunSpec, **changes: Any) -> RunSpec:
    """The run as a pre-training."""
    return spec.model_copy(update={"stage": "pretrain", "clean_size": None, **changes})


def no_outcomes(model: CLIP, step: int, draw: int, stop: Stop) -> Predictions:
    return Predictions(np.zeros(5, bool), np.ones(5, bool), np.arange(5), np.ones(5, np.int64))


def run(*arguments: Any, **options: Any) -> CLIP:
    """Train a fresh model to the end of the run, as `run_to_outcome`; returns it."""
    return run_to_outcome(*arguments, **options)[0]


def run_to_outcome(
    work_dir: Path,
    spec: RunSpec,
    evaluate: Any = no_outcomes,
    emit: Any = lambda event, content: None,
    pairs: Any = None,
    validation: Any = None,
    num_images: int = 5,
) -> tuple[CLIP, RunOutcome]:
    """Train a fresh model to the end of the run; returns it and what the run says of itself."""
    work_dir.mkdir(exist_ok=True)
    model = build_model(spec.model, 0, spec.switches.initialisation)
    task = Task(
        spec, "f" * 16, work_dir, pairs or Pairs(), evaluate, np.arange(num_images) == 0, validation
    )
    return model, train(task, model, restored_state(spec), CPU, emit, 0)


def restored_state(spec: RunSpec) -> bytes | None:
    """Moments of one earlier step, as pre-training would leave them."""
    if spec.switches.optimizer_state == "fresh":
        return None
    model = build_model(spec.model, 0, spec.switches.initialisation)
    state = {}
    for name, parameter in model.named_parameters():
        state[f"{name}/exp_avg"] = torch.full(parameter.shape, 1e-3)
        state[f"{name}/exp_avg_sq"] = torch.full(parameter.shape, 1e-5)
        state[f"{name}/step"] = torch.tensor(40.0)
    return save(state)


def assert_equal_models(one: CLIP, other: CLIP, tolerance: float) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(
            a, b, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def signal_in(at: int, step: Any = training_step) -> Any:
    """Training steps; the one with the number `at`, from 1 and over all runs, is asked to stop."""
    made: list[int] = []

    def signalled(*arguments: Any) -> Any:
        made.append(at)
        if len(made) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    return signalled


def signal_at(step: int) -> Any:
    def emit(event: str, content: dict[str, Any]) -> None:
        if "loss" in content["values"] and content["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return emit
