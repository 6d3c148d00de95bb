"""When a run is at which learning rate, and when it evaluates: step arithmetic, no tensors."""

import math
from typing import Literal

from repro.spec import RunSpec, Schedule


def learning_rate(
    schedule: Schedule, step: int, steps_per_epoch: int, offset: Literal["none", "one_epoch"]
) -> float:
    """Learning rate of the 0-based optimizer step: linear warm-up, then half a cosine to 0 (paper
    Sec. 3 and 4).

    `one_epoch` is the authors' counter, which starts at epoch 1 (code: CleanCLIP src/train.py): the
    warm-up is cut by one epoch and in the last epoch the rate runs past the end of the cosine and
    rises again.
    """
    step += steps_per_epoch if offset == "one_epoch" else 0

    # Counted from 1: the first step trains already, at 1/warmup_steps of the rate.
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps

    # Of the whole schedule, also where `model_age` ends the run before. At least 1 step of descent,
    # for warm-up may take all of them.
    total = steps_per_epoch * schedule.epochs
    progress = (step - schedule.warmup_steps) / max(total - schedule.warmup_steps, 1)
    return schedule.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def num_steps(spec: RunSpec, steps_per_epoch: int) -> int:
    """Optimizer steps of the run: those of the schedule, or up to the epoch of `model_age`."""
    return steps_per_epoch * (
        spec.model_age if isinstance(spec.model_age, int) else spec.schedule.epochs
    )


def evaluation_steps(spec: RunSpec, steps_per_epoch: int) -> list[int]:
    """Steps after which the run evaluates, ascending; 0 is the start model and the last step is
    always there.

    With `evaluate_every_steps` n: after n, 2n, ... steps of each epoch and at its end (the authors'
    rhythm). Where the validation loss picks the model, every epoch's end is there too.
    """
    last = num_steps(spec, steps_per_epoch)

    if spec.evaluate_every_steps is not None:
        # The count begins anew in each epoch, so the last distance of an epoch may be a short one.
        within = [*range(spec.evaluate_every_steps, steps_per_epoch, spec.evaluate_every_steps)]
        epochs = range(0, last, steps_per_epoch)
        steps = {begin + step for begin in epochs for step in (*within, steps_per_epoch)}
    else:
        # Equal distances, rounded to whole steps; pre-training evaluates at most once an epoch.
        per_epoch = spec.evaluations_per_epoch or 1.0
        count = int(last / steps_per_epoch * per_epoch)
        steps = {round(k * steps_per_epoch / per_epoch) for k in range(1, count + 1)}

    if spec.model_age == "best_validation_loss":
        steps |= set(range(steps_per_epoch, last, steps_per_epoch))

    # More evaluations than steps fall together, or round to 0.
    return sorted({0, last} | {step for step in steps if 0 < step <= last})
