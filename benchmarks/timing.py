"""Interleaved timing: both sides in turn within one run, so that whatever else the machine does
falls on both.

Time is processor time of this process and of those it waited for. For work on one core, that is the
time on the wall of an idle machine, and less than half as noisy on a busy one.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """A figure of bench.json, and the seconds behind it."""

    ratio: float
    """Median of `runs`."""
    unit: str
    runs: list[float]
    """One value a repetition."""
    reference_seconds: float
    """Median of the side that is compared with."""
    seconds: float
    """Median of ours."""


def processor_seconds() -> float:
    """Time spent so far; differences count."""
    return time.process_time() + sum(os.times()[2:4])


def compare(
    reference: Callable[[], object],
    ours: Callable[[], object],
    repetitions: int,
    clock: Callable[[], float] = processor_seconds,
    *,
    units: int = 1,
    warm_up: bool = True,
) -> Measurement:
    """How many times as fast `ours` is as `reference`: the median over pairs of calls, which go
    first in turn.

    A call does `units` of work, and seconds are given for one. `warm_up` calls each side once
    before, unmeasured.
    """
    sides = {"reference": reference, "ours": ours}
    for call in sides.values() if warm_up else ():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        for name in list(sides)[:: 1 if repetition % 2 else -1]:
            begun = clock()
            sides[name]()
            seconds[name].append(clock() - begun)
    runs = [slow / fast for slow, fast in zip(seconds["reference"], seconds["ours"], strict=True)]
    medians = {name: statistics.median(values) / units for name, values in seconds.items()}
    return Measurement(
        statistics.median(runs), "times as fast", runs, medians["reference"], medians["ours"]
    )
