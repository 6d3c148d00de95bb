"""The order in which devices take runs, and when the last one ends.

The launcher and the forecast share `longest_first`.
"""

import heapq
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from repro.spec import RunSpec
from repro.train.schedule import num_steps

PAIRS: dict[str, int] = {"cc3m": 1, "cc6m": 2, "100k": 1, "200k": 2}
"""Pairs that a run trains on, in units of the smaller set, as the paper's names have them."""


def cost(spec: RunSpec) -> float:
    """Expected duration of a run in arbitrary units, comparable within a stage."""
    pairs = PAIRS[spec.clean_size or spec.dataset]
    epochs = num_steps(spec, steps_per_epoch=1)
    return pairs * epochs * spec.num_views


def longest_first(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """Pre-trainings, which others wait for, then cleaning runs; the longest of either first."""
    return sorted(specs, key=lambda spec: (spec.stage == "clean", -cost(spec)))


class Task(NamedTuple):
    """A run in a queue."""

    seconds: float
    makes: Hashable = None
    """The model that it trains for others."""
    needs: Hashable = None
    """The model that it starts from, where another task makes it."""


def clock(tasks: Sequence[Task], devices: int) -> float:
    """Seconds until all tasks have ended, on so many devices that take from one queue.

    A free device takes the first task whose model is there, or waits for the next model.
    """
    waiting = list(tasks)
    free = [0.0] * devices
    there: dict[Hashable, float] = {None: 0.0}  # since when, by model
    last = 0.0
    while waiting:
        now = heapq.heappop(free)
        ready = [task for task in waiting if there.get(task.needs, now + 1) <= now]
        if not ready:
            later = [moment for moment in there.values() if moment > now]
            heapq.heappush(free, min(later))
            continue

        task = ready[0]
        waiting.remove(task)
        end = now + task.seconds
        last = max(last, end)
        heapq.heappush(free, end)
        if task.makes is not None:
            there[task.makes] = end
    return last
