"""The time that is left of a study: planned seconds of runs, starts and stages, corrected by those
that were measured.

Runs of one kind take as much longer than planned as those of the kind that have made steps, and all
of a call as much longer as the part of it that is over. A stage of which none has is known by half.
"""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from repro.data.memory import cores
from repro.launch.places import count_from_environment, devices
from repro.plan.assumptions import load_assumptions
from repro.plan.counted import counts_of
from repro.plan.forecast import Forecast
from repro.plan.work import kind_of
from repro.runs.signals import leaving_at_once
from repro.spec import Profile, RunSpec
from repro.view.states import RunState

STAGE_SECONDS = {
    "resolve": 1.0,
    "data": 28.0,
    "poison": 1.0,
    "pretrain": 1.3,
    "clean": 1.5,
    "report": 28.0,
}
"""Of a stage of the graph beside its runs, on two cores of an AMD EPYC, at the profile `smoke`.
`report` lies between 14 at `smoke`, measured there, and 57 at `mini`, reckoned by the ratio of both
on a slower machine.
"""
PAIR_SECONDS = 9e-4
"""More of the stage `data` for each pair of the profile; reckoned in the same way."""
START_SECONDS = 8.0
"""From the start of a process to the first step of its first run, there."""
RUN_SECONDS = 0.8
"""Of a run beside what its clock counts: model, record, delivery; there."""
UPDATE_SECONDS = 5e-9
"""Of an optimizer step of a core, for each weight: no FLOPs, but memory."""
TRUST_SECONDS = 10.0
"""Seconds of a plan after which what was measured counts as much as what was expected."""
SLOWEST = 3.0
"""How much slower than planned stages without runs let the runs be expected, at most."""

Alike = tuple[str, str, str]
Stages = Mapping[str, tuple[float, float]]
"""By name in DVC, when the stage of a call began and ended; an end of 0: it runs."""


@dataclass
class Remaining:
    """How long the runs of a profile take on the devices of this machine."""

    profile: Profile
    slow: float = 0.5
    """Where between the fastest machine of the plan, 0, and the slowest, 1, by factors."""

    @cached_property
    def expected(self) -> dict[Alike, float]:
        """Seconds of an epoch of the runs of the profile, evaluations included."""
        assumptions = load_assumptions()
        gpus = len(devices())
        device = assumptions.devices["a100" if gpus else "core"]
        counts = counts_of(self.profile, assumptions)
        forecast = Forecast(self.profile, counts, gpus or slots(), assumptions)
        seconds = {}
        for work in forecast.works:
            spec = work.spec
            training, evaluating = forecast.seconds(work, device)
            low, _, high = (training + evaluating).tolist()
            # In the middle, a machine of either end is off by the same factor.
            whole = low * (high / low) ** self.slow
            if gpus:
                whole /= forecast.ranks(spec)
            else:
                steps = work.pairs / spec.schedule.global_batch_size
                whole += UPDATE_SECONDS * steps * counts.parameters
            # The first run of several evaluates their start model; it does not stand for the rest.
            seconds[alike(spec)] = whole / spec.schedule.epochs
        return seconds

    @cached_property
    def stage_seconds(self) -> dict[str, float]:
        """Seconds of a stage of the profile beside its runs."""
        pairs = sum(self.profile.data.num_pairs.values())
        seconds = dict(STAGE_SECONDS)
        seconds["data"] += PAIR_SECONDS * pairs
        return seconds

    def seconds(
        self,
        states: Sequence[RunState],
        names: Sequence[str] = (),
        stages: Stages | None = None,
        began: float | None = None,
    ) -> float:
        """Seconds until all runs, and the stages of these names, have ended; each state gets those
        of its own run.

        `stages` are those of the call that began at `began`. What the plan says is left takes as
        much longer as what has passed since then took longer, stages with and without runs apart;
        without a call, as the runs did.
        """
        ratio = self._ratios(states)
        now = time.time()
        weights = []
        for state in states:
            # By kind: a machine that is slow at one of them need not be slow at another.
            weight = self._expected(state.spec) * ratio(state.spec)
            state.left = weight * (1 - state.share)
            weights.append(weight / ratio(None))

        stages = stages or {}
        shares = [state.share for state in states]
        with_runs, others = _by_runs(names)
        of_runs = _of_runs(states, weights, shares, now)
        of_runs += self._of_stages(with_runs, stages, now)
        of_others = self._of_stages(others, stages, now)
        if began is None:
            return (of_runs + of_others) * ratio(None)

        # As the call found it: without what was made before, and stages that it left out. What an
        # archive has bears no time of its end.
        shares = [float(state.share == 1 and state.ended < began) for state in states]
        ran = [name for name in names if name not in stages or len(set(stages[name])) > 1]
        with_runs, others = _by_runs(ran)
        whole_of_runs = _of_runs(states, weights, shares, None)
        whole_of_runs += self._of_stages(with_runs, {}, now)
        whole_of_others = self._of_stages(others, {}, now)

        passed = 0.0  # in stages without runs
        for name, (begin, end) in stages.items():
            if not _has_runs(name):
                passed += (end or now) - begin
        slower = _slower(passed, whole_of_others - of_others)
        # A machine may be slower; a download says nothing about its cores.
        core = min(slower, SLOWEST)
        slower_runs = _slower(now - began - passed, whole_of_runs - of_runs, core)
        return of_others * slower + of_runs * slower_runs

    def _expected(self, spec: RunSpec) -> float:
        """Seconds of a run; one of a study that the profile has not is like the longest of its
        stage.
        """
        expected = self.expected
        epoch = expected.get(alike(spec))
        if epoch is None:
            of_stage = [expected[kind] for kind in expected if kind[0] == spec.stage]
            epoch = max(of_stage or expected.values())
        return epoch * spec.schedule.epochs

    def _of_stages(self, names: Sequence[str], stages: Stages, now: float) -> float:
        """Planned seconds of those stages that have not ended, beside their runs."""
        left = 0.0
        for name in names:
            begin, end = stages.get(name, (0.0, 0.0))
            if not end:
                stage, _, _ = name.partition("@")
                passed = now - begin if begin else 0.0
                left += max(0.0, self.stage_seconds[stage] - passed)
        return left

    def _ratios(self, states: Sequence[RunState]) -> "Ratio":
        ratio = Ratio()
        for state in states:
            if state.made_here and state.share and state.seconds:
                expected = self._expected(state.spec) * state.share
                ratio.add(state.spec, state.seconds, expected)
        return ratio


class Ratio:
    """Measured seconds over expected ones, by kind of run."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))

    def add(self, spec: RunSpec, measured: float, expected: float) -> None:
        """A run, or the part of it that is done."""
        for kind in (kind_of(spec), spec.stage, ""):
            all_measured, all_expected = self.sums[kind]
            self.sums[kind] = all_measured + measured, all_expected + expected

    def __call__(self, spec: RunSpec | None) -> float:
        """Of the kind of `spec`, or of its stage where none of the kind was measured; of all runs
        for None.
        """
        overall = _slower(*self.sums[""])
        if spec is None:
            return overall
        # Half of it, by factors, is the machine's; the rest is how it suits the other stage.
        stage = _slower(*self.sums[spec.stage], math.sqrt(overall))
        return _slower(*self.sums[kind_of(spec)], stage)


def _of_runs(
    states: Sequence[RunState], weights: Sequence[float], shares: Sequence[float], now: float | None
) -> float:
    """Planned seconds of the runs, whose shares are done; `now` is None where none has begun."""
    total = 0.0
    # Cleaning begins when all models are there.
    for stage in ("pretrain", "clean"):
        due = []
        for state, weight, share in zip(states, weights, shares, strict=True):
            if state.spec.stage == stage and share < 1:
                due.append((weight * (1 - share) + RUN_SECONDS, state))
        if due:
            places = min(slots(), len(due))
            # A pre-training takes all GPUs.
            if stage == "pretrain" and devices():
                places = 1
            total += _side_by_side(due, places, now)
    return total


def _side_by_side(due: list[tuple[float, RunState]], places: int, now: float | None) -> float:
    """Seconds in which these runs end on so many places."""
    left = [seconds for seconds, _ in due]
    shared = max(sum(left) / places, max(left))
    if now is None:
        return START_SECONDS + shared
    if any(state.state == "running" for _, state in due):
        return shared
    # A process that has taken its runs is about to start.
    waited = max((now - state.since for _, state in due if state.since), default=0.0)
    return max(0.0, START_SECONDS - waited) + shared


def _has_runs(stage: str) -> bool:
    """Whether a stage of the graph trains."""
    return stage.startswith(("pretrain@", "clean@"))


def _by_runs(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Stages with runs, and those without."""
    with_runs = [name for name in names if _has_runs(name)]
    others = [name for name in names if not _has_runs(name)]
    return with_runs, others


def _slower(passed: float, planned: float, before: float = 1.0) -> float:
    """By what factor something takes longer than planned, which was `before` for all one knew."""
    took = max(0.0, passed) + TRUST_SECONDS * before
    return took / (max(0.0, planned) + TRUST_SECONDS)


def count_model(profile: Profile) -> None:
    """Have the profile's model counted, which takes seconds for one of one's own.

    Before the board is drawn, for a stop signal does not reach its thread.
    """
    with leaving_at_once():
        counts_of(profile, load_assumptions())


def alike(spec: RunSpec) -> Alike:
    """Equal in runs of a profile that take as long. Cleaning asks as much of any model."""
    of = spec.model_name if spec.clean_size is None else f"{spec.dataset}-{spec.clean_size}"
    return spec.stage, of, spec.loss


def slots() -> int:
    """Runs side by side on this machine."""
    return count_from_environment("REPRO_SLOTS", len(devices()) or cores())
