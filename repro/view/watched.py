"""What is watched: the runs of a profile or of a study, and the call of `reproduce` around them."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Self

from repro.files import is_held, read_json, replace_json
from repro.names import DATASETS, GRAPH_OBJECTIVES
from repro.profile import (
    graph_profile,
    load_profile,
    overrides_of,
    runs_of,
)
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
from repro.view.remaining import Remaining, Stages
from repro.view.states import RunState, State, key_of, read_states

CALL_FILE = WORK / "call.json"
"""Of the present call of `reproduce`, or else the last."""
CALL_LOCK = Path(".dvc/tmp/profile.lock")
"""Held while `reproduce` runs in this folder."""


@dataclass
class Call:
    """A call of `reproduce`, as CALL_FILE has it; times are in seconds since the epoch."""

    profile: str
    began: float
    ended: float = 0.0
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By name in DVC, beginning and end; an end of 0: the stage runs."""

    def save(self) -> None:
        """Write CALL_FILE."""
        CALL_FILE.parent.mkdir(exist_ok=True)
        replace_json(CALL_FILE, asdict(self), sync=False)

    @classmethod
    def read(cls) -> Self | None:
        """The call of which CALL_FILE tells; None if there was none."""
        content = read_json(CALL_FILE)
        if content is None:
            return None
        stages = {name: (begin, end) for name, (begin, end) in content["stages"].items()}
        return cls(**content | {"stages": stages})

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return not self.ended and is_held(CALL_LOCK)

    def stage_under_way(self, number: int) -> str:
        """The stage that runs, and which of `number` it is; empty between two stages."""
        for name, (_, end) in self.stages.items():
            if not end:
                return f"{name} ({len(self.stages)} of {number})"
        return ""


@dataclass
class View:
    """How far a study is at one moment."""

    title: str
    states: list[RunState]
    began: float | None
    """Start of the call that makes the runs, in seconds since the epoch; None where none does."""
    left: float | None
    """Seconds until the end of the call; None where nothing was measured or is to do."""
    stage: str = ""
    """What runs beside training, and which of how many it is."""

    def count(self, *states: State, stage: str = "") -> int:
        """Runs in one of the states, or in any where none is named, of one stage if named."""
        chosen = self.states
        if stage:
            chosen = [state for state in chosen if state.spec.stage == stage]
        if states:
            chosen = [state for state in chosen if state.state in states]
        return len(chosen)


class Watched:
    """The runs of a profile or study, to be looked at again and again."""

    def __init__(
        self, title: str, profile: Profile, specs: list[RunSpec], results: Path, *, graph: bool
    ) -> None:
        """`graph`: the runs are made by the stages of the graph, not by a study."""
        self.title = title
        self.profile = profile
        self.results = results
        self.runs = [(spec, key_of(spec)) for spec in specs]
        self.stages = graph_stages(profile.name) if graph else []
        self.remaining = Remaining(profile)
        self.archived: set[tuple[str, str]] = set()
        """Variants and keys of runs that an archive has."""
        self.lent: set[str] = set()
        """Keys of pre-trainings that are made for this study, under the name of another."""

    @classmethod
    def of_profile(cls, name: str) -> Self:
        """All runs of a profile."""
        profile = graph_profile(name)
        overrides = overrides_of(name)
        seeds = profile.pretrain.seeds
        title = f"{name}, {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
        for setting, value in overrides.items():
            title += f", {setting}={value}"
        specs = runs_of(profile)
        return cls(title, profile, specs, RESULTS, graph=True)

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
            return cls(title, profile, trainings, TRAINED / name, graph=False)
        runs = study_runs(study, study_profiles(study))
        specs = [spec for spec in runs if (spec.variant, spec.seed) in chosen]

        archived = {(of.spec.variant, key_of(of.spec)) for of, _ in whole_runs(name)}
        due = [spec for spec in specs if (spec.variant, key_of(spec)) not in archived]
        lent = _lent(study, due)
        watched = cls(title, profile, [*lent, *specs], WORK / "studies" / name, graph=False)
        watched.archived = archived
        watched.lent = {key_of(spec) for spec in lent}
        return watched

    def look(self, began: float | None = None) -> View:
        """State of every run and time left; `began` is the start of a call but `reproduce`'s."""
        states = read_states(self.runs, self.results)
        for state, (spec, key) in zip(states, self.runs, strict=True):
            made = (spec.variant, key) in self.archived
            made |= key in self.lent and model_dir(spec).exists()
            if state.state == "waiting" and made:
                state.state = "done"
        if call := self._call():
            left = self._seconds(states, self.stages, call.stages)
            stage = call.stage_under_way(len(self.stages))
            return View(self.title, states, call.began, left or None, stage)

        left = self._seconds(states)
        runs_on = any(state.state in ("running", "queued") for state in states)
        return View(self.title, states, began, left if runs_on and left else None)

    def _seconds(
        self, states: list[RunState], names: Sequence[str] = (), stages: Stages | None = None
    ) -> float:
        """Seconds that are left. A training counts once, also where variants share it."""
        once: dict[str, RunState] = {}
        for state, (_, key) in zip(states, self.runs, strict=True):
            if key not in once or once[key].share < state.share:
                once[key] = state
        left = self.remaining.seconds(list(once.values()), names, stages)
        for state, (_, key) in zip(states, self.runs, strict=True):
            state.left = once[key].left
        return left

    def _call(self) -> Call | None:
        """The call of `reproduce` that makes these runs at present."""
        call = Call.read()
        if call and call.is_running and call.profile == self.profile.name and self.stages:
            return call
        return None


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


def graph_stages(profile: str) -> list[str]:
    """Names of the stages that `reproduce` runs for a profile, in order."""
    models = [
        f"{profile}-{dataset}-{loss}" for dataset, loss in product(DATASETS, GRAPH_OBJECTIVES)
    ]
    stages = [f"resolve@{profile}", f"data@{profile}"]
    stages += [f"poison@{profile}-{dataset}" for dataset in DATASETS]
    stages += [f"pretrain@{model}" for model in models]
    stages += [f"clean@{model}" for model in models]
    return [*stages, f"report@{profile}"]
