"""What is watched: the runs of a profile or of a study, the call of `reproduce` around them, and
the time that is left.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Self

from repro.data.memory import cores, devices
from repro.files import is_held, read_json, replace_json
from repro.launch.places import count_from_environment
from repro.plan.forecast import Forecast
from repro.plan.work import work_of
from repro.profile import graph_profile, load_profile, overrides_of, runs_of
from repro.runs.layout import RESULTS, WORK, model_dir
from repro.spec import Profile, RunSpec
from repro.study.models import TRAINED
from repro.study.spec import (
    Study,
    chosen_models,
    lenders,
    load_study,
    study_profiles,
    study_runs,
    trainings_of,
)
from repro.view.archive import whole_runs
from repro.view.states import RunState, State, key_of, read_states

CALL_FILE = WORK / "call.json"
"""Of the present call of `reproduce`, or else the last."""
CALL_LOCK = Path(".dvc/tmp/profile.lock")
"""Held while `reproduce` runs in this folder."""
TRUST_SECONDS = 10.0
"""Expected seconds after which what was measured counts as much as what was expected."""


@dataclass
class Call:
    """A call of `reproduce`, as CALL_FILE has it."""

    profile: str
    began: float
    """In seconds since the epoch."""
    stage: str = ""
    """The stage of DVC that runs; empty between two."""

    def save(self) -> None:
        """Write CALL_FILE."""
        CALL_FILE.parent.mkdir(exist_ok=True)
        replace_json(CALL_FILE, asdict(self), sync=False)

    @classmethod
    def of_profile(cls, profile: str) -> Self | None:
        """The call that runs in this folder, if it is of the profile."""
        content = read_json(CALL_FILE) if is_held(CALL_LOCK) else None
        return cls(**content) if content and content["profile"] == profile else None


@dataclass
class View:
    """How far a study is at one moment."""

    title: str
    states: list[RunState]
    began: float | None
    """Start of the call that makes the runs, in seconds since the epoch; None where none does."""
    left: float | None
    """Seconds until the runs of the call have ended; None where none are made, or to be made."""
    stage: str = ""
    """The stage of DVC that runs."""

    def count(self, *states: State, stage: str = "") -> int:
        """Runs in one of the states, or in any where none is named, of one stage if named."""
        return sum(
            state.spec.stage in (stage or state.spec.stage)
            and state.state in (states or state.state)
            for state in self.states
        )


class Watched:
    """The runs of a profile or study, to be looked at again and again."""

    def __init__(
        self, title: str, profile: Profile, specs: Sequence[RunSpec], results: Path, study: str = ""
    ) -> None:
        """`study` makes the runs, or else the stages of the graph."""
        self.title = title
        self.profile = profile
        self.results = results
        self.study = study
        self.runs = [(spec, key_of(spec)) for spec in specs]
        self.expected = expected_seconds(profile, specs)
        self.archived: set[str] = set()
        """Keys of runs that an archive has."""
        self.lent: set[str] = set()
        """Keys of pre-trainings that are made for this study, under the name of another."""

    @classmethod
    def of_profile(cls, name: str) -> Self:
        """All runs of a profile."""
        profile = graph_profile(name)
        seeds = profile.pretrain.seeds
        title = f"{name}, {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
        for setting, value in overrides_of(name).items():
            title += f", {setting}={value}"
        return cls(title, profile, runs_of(profile), RESULTS)

    @classmethod
    def of_study(
        cls,
        name: str,
        seeds: Collection[int] = (),
        variants: Collection[str] = (),
        models: Collection[str] = (),
    ) -> Self:
        """The runs of a study, or of some of its seeds and variants, after the models of other
        studies that they start from and that are not there; or the training of `models` alone.
        """
        study = load_study(name)
        # SpecError for a choice that the study lacks, before anything is drawn.
        chosen = chosen_models(study, seeds, variants)
        title, profile = f"study {name}", load_profile(study.profile)
        if models:
            trainings = trainings_of(study, chosen, models)
            return cls(title, profile, trainings, TRAINED / name, name)
        runs = study_runs(study, study_profiles(study))
        specs = [spec for spec in runs if (spec.variant, spec.seed) in chosen]
        archived = {key_of(run.record.spec) for run in whole_runs(name)}
        lent = _lent(study, [spec for spec in specs if key_of(spec) not in archived])
        watched = cls(title, profile, [*lent, *specs], WORK / "studies" / name, name)
        watched.archived = archived
        watched.lent = {key_of(spec) for spec in lent}
        return watched

    def look(self, began: float | None = None) -> View:
        """State of every run and time left; `began` is the start of a call but `reproduce`'s."""
        states = read_states(self.runs, self.results)
        for state, (spec, key) in zip(states, self.runs, strict=True):
            made = key in self.archived or (key in self.lent and model_dir(spec).exists())
            if state.state == "waiting" and made:
                state.state = "done"
        left = self.seconds_left(states) or None
        if not self.study and (call := Call.of_profile(self.profile.name)):
            return View(self.title, states, call.began, left, call.stage)
        runs_on = any(state.state in ("running", "queued") for state in states)
        return View(self.title, states, began, left if runs_on else None)

    def seconds_left(self, states: Sequence[RunState]) -> float:
        """Seconds until all runs have ended: what is expected, times one measured ratio; each state
        gets those of its own run.
        """
        # A training counts once, also where variants share it.
        once: dict[str, tuple[RunState, float]] = {}
        for state, (_, key), expected in zip(states, self.runs, self.expected, strict=True):
            if key not in once or once[key][0].share < state.share:
                once[key] = state, expected
        planned = sum(expected * of.share for of, expected in once.values() if of.seconds)
        measured = sum(of.seconds for of, _ in once.values())
        ratio = (measured + TRUST_SECONDS) / (planned + TRUST_SECONDS)

        left = {key: ratio * expected * (1 - of.share) for key, (of, expected) in once.items()}
        for state, (_, key) in zip(states, self.runs, strict=True):
            state.left = left[key]
        total = 0.0
        for stage in ("pretrain", "clean"):
            of_stage = [left[key] for key, (of, _) in once.items() if of.spec.stage == stage]
            # A pre-training takes all GPUs.
            places = 1 if stage == "pretrain" and devices() else slots()
            # Cleaning begins when all models are there.
            total += max(sum(of_stage) / places, max(of_stage, default=0.0))
        return total


def expected_seconds(profile: Profile, specs: Sequence[RunSpec]) -> list[float]:
    """Seconds that each run takes on the devices of this machine, as the plan expects."""
    forecast = Forecast(profile, len(devices()) or slots())
    known = forecast.assumptions.devices
    seconds = []
    for work in work_of(profile, specs):
        # A core does not know the arithmetic of GPUs: such runs go from a login node to others.
        on_gpu = bool(devices()) or not known["core"].knows(work.spec)
        training, evaluating = forecast.seconds(work, known["a100" if on_gpu else "core"])
        low, _, high = training + evaluating
        # In the middle, a machine of either end is off by the same factor.
        seconds.append(sqrt(low * high) / (forecast.ranks(work.spec) if on_gpu else 1))
    return seconds


def slots() -> int:
    """Runs side by side on this machine."""
    return count_from_environment("REPRO_SLOTS", len(devices()) or cores())


def _lent(study: Study, due: list[RunSpec]) -> list[RunSpec]:
    """Pre-trainings of other studies' models that the runs start from and that are not there."""
    # A study that pre-trains lists a borrowed model among its own.
    if "pretrain" in study.stages:
        return []
    wanted = {(study.variants[of.variant].models, of.seed, of.model_name) for of in due}
    lent = []
    for lender in lenders(study, {(of.variant, of.seed) for of in due}):
        of_lender = load_study(lender)
        runs = study_runs(of_lender, study_profiles(of_lender), "pretrain")
        lent += [run for run in runs if (run.variant, run.seed, run.model_name) in wanted]
    return [run for run in lent if not model_dir(run).exists()]
