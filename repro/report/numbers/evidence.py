"""Everything that a report is computed from: runs of the profile, and the authors' points.

A run counts only if it is whole, of this profile and specification, and, if it is a cleaning run,
of the model that its pre-training run handed on. Others are named and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repro.profile import clean_runs, pretrain_runs
from repro.report.keyed import Keyed
from repro.report.numbers import checks
from repro.report.numbers.cells import CLEANCLIP
from repro.report.numbers.evaluations import Denominator, FinishedRun, Point, Source, read_runs
from repro.runs.layout import RESULTS, results_dir
from repro.runs.published import read_bits
from repro.spec import CleanSize, Dataset, Loss, Objective, Profile, RunSpec


@dataclass(frozen=True, slots=True)
class MissingRun(Keyed):
    """A run that the profile asks for and that is not counted."""

    stage: Literal["pretrain", "clean"]
    cell: str
    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class AuthorsFile(Keyed):
    """A file of the authors' points."""

    name: str
    sha256: str
    points: int
    verified: bool
    """Whether it is the published file, byte for byte."""


AuthorsPoints = tuple[tuple[Point, ...], tuple[AuthorsFile, ...]]
"""Points, and the files that they were read from."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the report needs to know of a profile."""

    name: str
    protocol: str
    stand_in: str
    """What the dataset slots hold instead of the paper's data; empty if they hold the real data."""
    cap: float
    """A model counts as cleaned at an ASR of at most this."""
    confidence: float
    denominator: Denominator
    seeds: tuple[int, ...]
    """The first one fills the tables; the others show the spread between seeds."""
    target_class: str
    """What the attack should evoke."""

    @classmethod
    def of(cls, profile: Profile) -> Settings:
        """The settings of a checked profile."""
        return cls(
            name=profile.name,
            protocol=profile.protocol,
            stand_in=profile.data.stand_in,
            cap=profile.evaluate.asr_cap,
            confidence=profile.evaluate.confidence,
            denominator=profile.switches.asr_denominator,
            seeds=tuple(profile.pretrain.seeds),
            target_class=profile.data.poison.target_class,
        )


@dataclass(frozen=True)
class Evidence:
    """Everything a report is computed from."""

    settings: Settings
    runs: tuple[FinishedRun, ...] = ()
    """Completed or diverged runs that the profile asks for."""
    controls: tuple[FinishedRun, ...] = ()
    """Runs on unpoisoned pairs and runs of variants: never in tables 1 and 2."""
    missing: tuple[MissingRun, ...] = ()
    """Runs asked for without a result that counts."""
    notices: tuple[str, ...] = ()
    """What a reader should know about the ledger: runs that are left out, runs that differ."""
    authors: tuple[Point, ...] = ()
    files: tuple[AuthorsFile, ...] = ()
    """The authors' files that were read."""
    archived: bool = False
    """The runs come from an archive of results/studies, which has no bits."""
    root: Path = field(default=Path(), compare=False)

    def correct(self, point: Point) -> NDArray[np.bool_] | None:
        """(N,) images that an evaluation classified right.

        None of the authors' points and of archived runs.
        """
        if point.source == "authors" or self.archived:
            return None
        bits = read_bits(self.root / point.run, point.images)["correct"]
        right: NDArray[np.bool_] = bits[point.index]
        return right

    def cleaning(
        self,
        dataset: Dataset,
        objective: Objective,
        size: CleanSize,
        loss: Loss | None = None,
        seed: int | None = None,
        source: Source = "ledger",
    ) -> list[Point]:
        """Evaluations of a cell after cleaning has begun; of all losses and seeds if not given."""
        pool = self.authors if source == "authors" else self._cleaning_points
        return [
            point
            for point in pool
            if (point.dataset, point.objective, point.clean_size) == (dataset, objective, size)
            and loss in (None, point.loss)
            and (seed is None or point.seed == seed)
            # None, a step that the authors do not tell, is after the start as well.
            and point.step != 0
        ]

    def start(self, dataset: Dataset, objective: Objective, seed: int) -> Point | None:
        """The model that is cleaned, as pre-training left it, else as a cleaning run found it."""
        for run in self.runs:
            spec = run.record.spec
            model = (spec.stage, spec.dataset, spec.pretrain_objective, spec.seed)
            if model == ("pretrain", dataset, objective, seed) and run.rows:
                return run.handed_on(self.settings.denominator)
        for point in self._cleaning_points:
            of = (point.dataset, point.objective, point.seed, point.step)
            if of == (dataset, objective, seed, 0):
                return point
        return None

    def authors_start(
        self, dataset: Dataset, objective: Objective, size: CleanSize, loss: Loss = CLEANCLIP
    ) -> Point | None:
        """The authors' first evaluation before cleaning; their CC6M files have none."""
        for point in self.authors:
            series = (point.dataset, point.objective, point.clean_size, point.loss)
            if series == (dataset, objective, size, loss) and point.step == 0:
                return point
        return None

    @cached_property
    def diverged(self) -> frozenset[str]:
        """Folders of the runs whose loss was no finite number at some step."""
        return frozenset(run.folder for run in (*self.runs, *self.controls) if run.diverged)

    @cached_property
    def _cleaning_points(self) -> list[Point]:
        points = []
        for run in self.runs:
            if run.record.spec.stage == "clean":
                points += run.points(self.settings.denominator)
        return points


class RunKey(NamedTuple):
    """What names a run within a profile."""

    stage: str
    cell: str
    run_id: str

    @classmethod
    def of(cls, spec: RunSpec) -> RunKey:
        """The name of a specification's run."""
        return cls(spec.stage, spec.cell, spec.run_id)


@dataclass
class _Sorted:
    """Runs of the ledger by what becomes of them."""

    runs: dict[RunKey, FinishedRun] = field(default_factory=dict)
    controls: list[FinishedRun] = field(default_factory=list)
    reasons: dict[RunKey, str] = field(default_factory=dict)
    """Why a run that is asked for does not count."""
    notices: list[str] = field(default_factory=list)


def read_evidence(
    profile: Profile, root: Path = Path(), authors: AuthorsPoints = ((), ())
) -> Evidence:
    """Read `results/<profile>` below `root` and compare it with what the profile asks for.

    Raises LedgerError for a result file that cannot be used. Failed runs count as missing, with
    their reason; runs that the profile does not ask for, or that were made with another
    specification, are named and left out.
    """
    asked = [*pretrain_runs(profile), *clean_runs(profile)]
    expected = {RunKey.of(spec): spec for spec in asked}
    found = _Sorted()
    for run in read_runs(root / RESULTS / profile.name, root):
        _sort(run, expected, found)

    # A model may have been trained again after it was cleaned: the old cleaning is of no use then.
    reasons = checks.foreign_models(found.runs.values())
    for key, run in list(found.runs.items()):
        if run.folder in reasons:
            found.reasons[key] = reasons[run.folder]
            found.notices.append(f"{run.folder} is left out: {reasons[run.folder]}")
            del found.runs[key]

    points, files = authors
    runs = tuple(found.runs.values())
    return Evidence(
        settings=Settings.of(profile),
        runs=runs,
        controls=tuple(found.controls),
        missing=tuple(
            MissingRun(spec.stage, spec.cell, spec.run_id, found.reasons.get(key, "no result"))
            for key, spec in expected.items()
            if key not in found.runs
        ),
        notices=(*found.notices, *checks.run_notices(runs)),
        authors=points,
        files=files,
        root=root,
    )


def _sort(run: FinishedRun, expected: Mapping[RunKey, RunSpec], found: _Sorted) -> None:
    """Put a run where it belongs, or say why it is left out."""
    record, spec = run.record, run.record.spec
    key = RunKey.of(spec)

    # A folder that was copied or renamed by hand would count under another run's name.
    place = results_dir(spec, RESULTS) / spec.run_id
    if run.folder != place.as_posix():
        found.notices.append(f"{run.folder} holds the record of {'/'.join(key)} and is left out")
    # A run on clean pairs or with another setting is evidence, but not for Tables 1 and 2.
    elif spec.variant or not spec.poisoned:
        found.controls.append(run)
    # Left over from an earlier profile, for example a learning rate that is no longer in the grid.
    elif key not in expected:
        found.notices.append(f"{run.folder} is not a run of this profile and is left out")
    # `computed` leaves out what changes no result, such as names and the ASR's cap.
    elif spec.computed() != expected[key].computed():
        found.reasons[key] = "made with another specification; run the study again"
    # A diverged run counts with the rows that it has; a failed one does not count at all.
    elif record.status == "failed":
        found.reasons[key] = f"failed: {record.reason}"
    elif not run.rows:
        found.reasons[key] = "no evaluation recorded"
    else:
        found.runs[key] = run
