"""The time that is left of a study: the plan's seconds of every run, corrected by those measured.

Before a run of a kind has made a step, its seconds are the plan's, times what other runs took over
theirs. Stages beside the runs take what they took elsewhere, corrected by those of the same call.
"""

import heapq
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from repro.launch.places import cores, count_from_environment, devices
from repro.plan.assumptions import load_assumptions
from repro.plan.counted import counts_of
from repro.plan.forecast import Forecast
from repro.plan.work import kind_of
from repro.spec import Profile, RunSpec
from repro.view.states import RunState

STAGE_SECONDS = {
    "resolve": 1.0,
    "data": 28.0,
    "poison": 1.0,
    "pretrain": 1.3,
    "clean": 1.5,
    "report": 14.0,
}
"""Of a stage of the graph beside its runs, on two cores of an AMD EPYC, at the profile `smoke`."""
START_SECONDS = 8.0
"""From the start of a process to the first step of its first run, there."""
RUN_SECONDS = 0.8
"""Of a run beside what its clock counts: model, record, delivery; there."""
UPDATE_SECONDS = 5e-9
"""Of an optimizer step of a core, for each weight: no FLOPs, but memory."""
TRUST_SECONDS = 10.0
"""Seconds of a run after which what was measured counts as much as what was expected."""

Alike = tuple[str, str, str | None, str]
Stages = Mapping[str, tuple[float, float]]
"""By name in DVC, when the stage of a call began and ended; an end of 0: it runs."""


@dataclass
class Remaining:
    """How long the runs of a profile take on the devices of this machine."""

    profile: Profile
    slow: float = 0.5
    """Where between the fastest machine that the plan assumes, 0, and the slowest, 1."""

    @cached_property
    def expected(self) -> dict[Alike, float]:
        """Seconds of an epoch of the runs of the profile, evaluations included."""
        assumptions = load_assumptions()
        gpus = len(devices())
        device = assumptions.devices["a100" if gpus else "core"]
        forecast = Forecast(
            self.profile, counts_of(self.profile, assumptions), gpus or slots(), assumptions
        )
        seconds = {}
        for work in forecast.works:
            spec = work.spec
            steps = work.pairs / spec.schedule.global_batch_size
            update = 0.0 if gpus else UPDATE_SECONDS * steps * forecast.counts.parameters
            ranks = forecast.ranks(spec) if gpus else 1
            low, high = forecast.seconds(work, device).tolist()
            whole = (low + self.slow * (high - low)) / ranks + update
            # The first run of several evaluates their start model; it does not stand for the rest.
            seconds[alike(spec)] = whole / spec.schedule.epochs
        return seconds

    def of_runs(self, states: Sequence[RunState]) -> float:
        """Seconds until all runs have ended; each state gets those of its own run."""
        ratio = self._ratios(states)
        for state in states:
            each = self._expected(state.spec) * ratio(state.spec)
            state.left = each * (1 - state.share)
        speed = ratio(None)
        total = 0.0
        # Cleaning begins when all models are there.
        for stage in ("pretrain", "clean"):
            due = [state for state in states if state.spec.stage == stage and state.share < 1]
            total += _side_by_side(due, speed)
        return total

    def of_stages(self, names: Iterable[str], stages: Stages) -> float:
        """Seconds of those stages that have not ended, beside their runs."""
        names, now = list(names), time.time()
        taken = {
            name: end - begin
            for name, (begin, end) in stages.items()
            # One that DVC left out has no length.
            if end > begin and _kind(name) not in ("pretrain", "clean")
        }
        expected = sum(STAGE_SECONDS[_kind(name)] for name in taken)
        speed = (sum(taken.values()) + TRUST_SECONDS) / (expected + TRUST_SECONDS)
        left = 0.0
        for name in names:
            begin, end = stages.get(name, (0.0, 0.0))
            if not end:
                passed = now - begin if begin else 0.0
                left += max(0.0, STAGE_SECONDS[_kind(name)] * speed - passed)
        return left

    def _expected(self, spec: RunSpec) -> float:
        """Seconds of a run; one of a study that the profile has not is like the longest of it."""
        epoch = self.expected.get(alike(spec), max(self.expected.values()))
        return epoch * spec.schedule.epochs

    def _ratios(self, states: Sequence[RunState]) -> "Ratio":
        ratio = Ratio()
        for state in states:
            if state.made_here and state.share and state.seconds:
                ratio.add(state.spec, state.seconds, self._expected(state.spec) * state.share)
        return ratio


class Ratio:
    """Measured seconds over expected ones, by kind of run."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, spec: RunSpec, measured: float, expected: float) -> None:
        """A run, or the part of it that is done."""
        for kind in (kind_of(spec), ""):
            self.sums[kind][0] += measured
            self.sums[kind][1] += expected

    def __call__(self, spec: RunSpec | None) -> float:
        """Of the kind of `spec`; of all kinds for None, and where none of a kind was measured."""
        measured, expected = self.sums[""]
        overall = (measured + TRUST_SECONDS) / (expected + TRUST_SECONDS)
        if spec is None:
            return overall
        measured, expected = self.sums[kind_of(spec)]
        return (measured + TRUST_SECONDS * overall) / (expected + TRUST_SECONDS)


def _side_by_side(states: Sequence[RunState], speed: float) -> float:
    """Seconds in which these runs end on the places of this machine, the longest first."""
    if not states:
        return 0.0
    running = [state for state in states if state.state == "running"]
    alone = bool(devices()) and states[0].spec.stage == "pretrain"
    places = [0.0] * (1 if alone else min(slots(), len(states)))
    # A place that has a run has started.
    for number in range(len(running), len(places)):
        places[number] = START_SECONDS * speed
    heapq.heapify(places)
    waiting = sorted(
        (state for state in states if state.state != "running"),
        key=lambda state: -(state.left or 0.0),
    )
    for state in [*running, *waiting]:
        free = heapq.heappop(places)
        heapq.heappush(places, free + (state.left or 0.0) + RUN_SECONDS * speed)
    return max(places)


def alike(spec: RunSpec) -> Alike:
    """Equal in runs of a profile that take as long."""
    return spec.stage, spec.cell, spec.clean_size, spec.loss


def slots() -> int:
    """Runs side by side on this machine."""
    return count_from_environment("REPRO_SLOTS", len(devices()) or cores())


def _kind(stage: str) -> str:
    """Kind of a stage of the graph by its name, such as `clean@mini-cc3m-mmcl`."""
    return stage.partition("@")[0]
