"""The time that is left of a study: seconds that the plan expects, times one measured ratio."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

from repro.data.memory import cores, devices
from repro.launch.places import count_from_environment
from repro.plan.assumptions import load_assumptions
from repro.plan.forecast import Forecast
from repro.spec import Profile, RunSpec
from repro.view.states import RunState

STAGE_SECONDS = {"data": 28.0, "report": 28.0}
"""Of stages without runs, on two cores of an AMD EPYC, at the profile `smoke`; others take one."""
PAIR_SECONDS = 9e-4
"""More of the stage `data` for each pair of the profile."""
TRUST_SECONDS = 10.0
"""Expected seconds after which what was measured counts as much as what was expected."""

Alike = tuple[str, str, str]
Stages = Mapping[str, tuple[float, float]]
"""By name in DVC, when the stage of a call began and ended; an end of 0: it runs."""


@dataclass
class Remaining:
    """How long the runs of a profile take on the devices of this machine."""

    profile: Profile

    @cached_property
    def epoch_seconds(self) -> dict[Alike, float]:
        """Seconds of an epoch of the runs of the profile, evaluations included."""
        assumptions = load_assumptions()
        gpus = len(devices())
        device = assumptions.devices["a100" if gpus else "core"]
        forecast = Forecast(self.profile, gpus or slots())
        seconds = {}
        for work in forecast.works:
            training, evaluating = forecast.seconds(work, device)
            low, _, high = (training + evaluating).tolist()
            # In the middle, a machine of either end is off by the same factor.
            whole = sqrt(low * high)
            if gpus:
                whole /= forecast.ranks(work.spec)
            seconds[alike(work.spec)] = whole / work.spec.schedule.epochs
        return seconds

    def expected(self, spec: RunSpec) -> float:
        """Seconds of a run; one of a study that the profile has not is like the longest of its
        stage.
        """
        known = self.epoch_seconds
        of_stage = [seconds for kind, seconds in known.items() if kind[0] == spec.stage]
        epoch = known.get(alike(spec), max(of_stage or known.values()))
        return epoch * spec.schedule.epochs

    def seconds(
        self, states: Sequence[RunState], names: Sequence[str] = (), stages: Stages | None = None
    ) -> float:
        """Seconds until all runs, and the stages of these names, have ended; each state gets those
        of its own run. `stages` are those of the call so far.
        """
        expected = [self.expected(state.spec) for state in states]
        pairs = zip(states, expected, strict=True)
        planned = sum(each * state.share for state, each in pairs if state.seconds)
        measured = sum(state.seconds for state in states)
        ratio = (measured + TRUST_SECONDS) / (planned + TRUST_SECONDS)

        left = self._stage_seconds(names, stages or {})
        for stage in ("pretrain", "clean"):
            of_stage = []
            for state, each in zip(states, expected, strict=True):
                if state.spec.stage == stage:
                    state.left = each * (1 - state.share) * ratio
                    of_stage.append(each * (1 - state.share))
            # A pre-training takes all GPUs.
            places = 1 if stage == "pretrain" and devices() else slots()
            # Cleaning begins when all models are there.
            left += max(sum(of_stage) / places, max(of_stage, default=0.0))
        return left * ratio

    def _stage_seconds(self, names: Sequence[str], stages: Stages) -> float:
        """Expected seconds of those stages that have not ended, beside their runs."""
        left = 0.0
        for name in names:
            kind = name.partition("@")[0]
            seconds = STAGE_SECONDS.get(kind, 1.0)
            if kind == "data":
                seconds += PAIR_SECONDS * sum(self.profile.data.num_pairs.values())
            begin, end = stages.get(name, (0.0, 0.0))
            if not end:
                left += max(0.0, seconds - (time.time() - begin if begin else 0.0))
        return left


def alike(spec: RunSpec) -> Alike:
    """Equal in runs of a profile that take as long. Cleaning asks as much of any model."""
    of = spec.model_name if spec.clean_size is None else f"{spec.dataset}-{spec.clean_size}"
    return spec.stage, of, spec.loss


def slots() -> int:
    """Runs side by side on this machine."""
    return count_from_environment("REPRO_SLOTS", len(devices()) or cores())
