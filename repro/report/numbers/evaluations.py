"""Evaluations as the report sees them, whether they come from our ledger or from the authors' published files.

A `Point` is one dot of Figures 1-3. A `Evidence` is everything the report is computed from: the settings that decide
what counts as cleaned, the runs that the profile asks for, what is missing, and what lies in the ledger besides.
Points hold counts; fractions, denominators and intervals follow from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from repro.ledger import Row, RunRecord, check_unique, read_bits, read_results
from repro.plan.work import Work, work_of
from repro.profile import clean_runs, load_classnames, pretrain_runs
from repro.spec import CleanSize, Dataset, Loss, Objective, Profile, RunSpec

DATASETS: tuple[Dataset, ...] = ("cc3m", "cc6m")
SIZES: tuple[CleanSize, ...] = ("100k", "200k")
OBJECTIVES: tuple[Objective, ...] = ("mmcl", "mmcl_ssl")
LOSSES: tuple[Loss, ...] = ("mmcl", "ssl", "mmcl_ssl")
CLEANCLIP: Loss = "mmcl_ssl"
"""CleanCLIP is finetuning with L_MMCL + L_SSL (paper Sec. 3)."""
LABELS = {
    "cc3m": "CC3M",
    "cc6m": "CC6M",
    "100k": "100K",
    "200k": "200K",
    "mmcl": "MMCL",
    "ssl": "SSL",
    "mmcl_ssl": "MMCL + SSL",
}
"""How the keys of specifications and ledger are printed."""

Cell = tuple[Dataset, CleanSize, Objective]
"""A place in Table 1: dataset slot, cleaning size, pre-training objective."""

TABLE1_ROWS: tuple[tuple[Dataset, CleanSize], ...] = (
    ("cc3m", "100k"),
    ("cc6m", "100k"),
    ("cc6m", "200k"),
)
"""Rows of Table 1 as corrected (specs/claims.yaml, errata): no CC3M model was cleaned with 200K pairs."""

PANELS: dict[str, tuple[Cell, ...]] = {
    "figure1": (("cc3m", "100k", "mmcl"), ("cc3m", "100k", "mmcl_ssl")),
    "figure2": (("cc6m", "100k", "mmcl"), ("cc6m", "100k", "mmcl_ssl")),
    "figure3": (
        ("cc6m", "100k", "mmcl_ssl"),
        ("cc6m", "200k", "mmcl_ssl"),
        ("cc6m", "100k", "mmcl"),
        ("cc6m", "200k", "mmcl"),
    ),
}
"""Panels of the paper's scatter plots; the last two of Figure 3 are the control that the paper lacks."""


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation of a model during cleaning (or of the model that is cleaned)."""

    source: Literal["ledger", "authors"]
    dataset: Dataset
    objective: Objective
    clean_size: CleanSize | None
    loss: Loss
    learning_rate: float | None
    """None where the source does not say: in the authors' files."""
    seed: int | None
    epoch: float | None
    step: int | None
    correct: int
    images: int
    attacked: int
    """Attacked images by the headline denominator."""
    attackable: int
    """The headline denominator of the ASR."""
    other_asr: float | None
    """ASR by the other denominator; None in the authors' files."""
    run: str
    """Folder of the run, or file and series of the authors' points."""
    index: int
    """Row within the run or series."""

    @property
    def accuracy(self) -> float:
        """Zero-shot top-1, fraction."""
        return self.correct / self.images

    @property
    def asr(self) -> float:
        """Attack success rate by the headline denominator, fraction."""
        return self.attacked / self.attackable


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
    denominator: Literal["all", "non_target"]
    seeds: tuple[int, ...]
    """The first one fills the tables; the others show the spread between seeds."""
    target_class: str
    """What the attack should evoke."""
    classnames: tuple[str, ...]
    """Names of the evaluation classes by number; empty where no class is named."""

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
            classnames=tuple(load_classnames(profile)),
        )


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One published run of the ledger."""

    folder: str
    """Path below the repository, with forward slashes."""
    record: RunRecord
    rows: tuple[Row, ...]
    sha256: str
    """Over the three files of the run."""

    @property
    def machine(self) -> str:
        """Processor or GPU, and version of torch: what decides how sums are rounded."""
        environment = self.record.environment
        return (
            f"{environment.get('device', 'unknown')}, torch {environment.get('torch', 'unknown')}"
        )

    def points(self, denominator: Literal["all", "non_target"]) -> list[Point]:
        """Its evaluations in order."""
        return [_point(self, index, row, denominator) for index, row in enumerate(self.rows)]

    def handed_on(self, denominator: Literal["all", "non_target"]) -> Point:
        """Evaluation of the model that the run leaves: the last one up to its step."""
        return next(
            (
                p
                for p in reversed(self.points(denominator))
                if (p.step or 0) <= self.record.model_step
            ),
            self.points(denominator)[0],
        )


@dataclass(frozen=True)
class Evidence:
    """Everything a report is computed from."""

    settings: Settings
    runs: tuple[FinishedRun, ...] = ()
    """Completed or diverged runs that the profile asks for."""
    controls: tuple[FinishedRun, ...] = ()
    """Runs on unpoisoned pairs and runs of variants: never in tables 1 and 2."""
    missing: tuple[dict[str, str], ...] = ()
    """Runs asked for without a result: `stage`, `cell`, `run`, `reason`."""
    planned: tuple[Work, ...] = ()
    """The work of every run that the profile asks for."""
    notices: tuple[str, ...] = ()
    """What a reader should know about the ledger: extra and outdated runs."""
    authors: tuple[Point, ...] = ()
    files: tuple[dict[str, Any], ...] = ()
    """The authors' files that were read: `name`, `sha256`, `points`, `verified`."""
    archived: bool = False
    """The runs come from an archive of results/studies, which has no bits."""
    root: Path = field(default=Path(), compare=False)

    def correct(self, point: Point) -> NDArray[np.bool_] | None:
        """(N,) images that an evaluation classified right; None of the authors' points and of archived runs."""
        if point.source == "authors" or self.archived:
            return None
        right: NDArray[np.bool_] = read_bits(self.root / point.run, point.images)["correct"][
            point.index
        ]
        return right

    def cleaning(
        self,
        dataset: Dataset,
        objective: Objective,
        size: CleanSize,
        loss: Loss | None = None,
        seed: int | None = None,
        source: Literal["ledger", "authors"] = "ledger",
    ) -> list[Point]:
        """Evaluations after cleaning has begun, of one cell; of every loss and seed where none is given."""
        pool = self.authors if source == "authors" else self._cleaning_points
        return [
            point
            for point in pool
            if (point.dataset, point.objective, point.clean_size) == (dataset, objective, size)
            and loss in (None, point.loss)
            and (seed is None or point.seed == seed)
            and point.step != 0
        ]

    def start(self, dataset: Dataset, objective: Objective, seed: int) -> Point | None:
        """The model that is cleaned: as the pre-training run left it, or else the first row of a cleaning run."""
        for run in self.runs:
            spec = run.record.spec
            if (spec.stage, spec.dataset, spec.pretrain_objective, spec.seed) == (
                "pretrain",
                dataset,
                objective,
                seed,
            ) and run.rows:
                return run.handed_on(self.settings.denominator)
        starts = (
            p
            for p in self._cleaning_points
            if (p.dataset, p.objective, p.seed, p.step) == (dataset, objective, seed, 0)
        )
        return next(starts, None)

    @cached_property
    def _cleaning_points(self) -> list[Point]:
        return [
            p
            for run in self.runs
            if run.record.spec.stage == "clean"
            for p in run.points(self.settings.denominator)
        ]


def read_evidence(
    profile: Profile,
    root: Path = Path(),
    authors: tuple[tuple[Point, ...], tuple[dict[str, Any], ...]] = ((), ()),
) -> Evidence:
    """Read `results/<profile>` below `root` and compare it with what the profile asks for.

    Raises LedgerError for a result file that cannot be used. Failed runs count as missing, with their reason; runs that
    the profile does not ask for, or that were made with another specification, are named and left out.
    """
    expected = {
        (r.stage, r.cell, r.run_id): r for r in [*pretrain_runs(profile), *clean_runs(profile)]
    }
    runs: dict[tuple[str, str, str], FinishedRun] = {}
    controls: list[FinishedRun] = []
    reasons: dict[tuple[str, str, str], str] = {}
    notices: list[str] = []
    for run in read_runs(root / "results" / profile.name, root):
        record, spec = run.record, run.record.spec
        key = (spec.stage, spec.cell, spec.run_id)
        if run.folder != "/".join(("results", profile.name, *key)):
            notices.append(f"{run.folder} holds the record of {'/'.join(key)} and is left out")
        elif spec.variant or not spec.poisoned:
            controls.append(run)
        elif key not in expected:
            notices.append(f"{run.folder} is not a run of this profile and is left out")
        elif _identity(spec) != _identity(expected[key]):
            reasons[key] = "made with another specification; run the study again"
        elif record.status == "failed":
            reasons[key] = f"failed: {record.reason}"
        elif not run.rows:
            reasons[key] = "no evaluation recorded"
        else:
            runs[key] = run
    missing = [
        {"stage": key[0], "cell": key[1], "run": key[2], "reason": reasons.get(key, "no result")}
        for key in expected
        if key not in runs
    ]
    return Evidence(
        settings=Settings.of(profile),
        runs=tuple(runs.values()),
        controls=tuple(controls),
        missing=tuple(missing),
        planned=tuple(work_of(profile)),
        notices=tuple(notices),
        authors=authors[0],
        files=authors[1],
        root=root,
    )


def read_runs(results: Path, root: Path) -> Iterator[FinishedRun]:
    """Published runs below `results` in path order; LedgerError for one that cannot be used."""
    for folder, record, rows in read_results(results):
        check_unique(rows)
        yield FinishedRun(
            folder.relative_to(root).as_posix(), record, tuple(rows), run_hash(folder)
        )


def run_hash(folder: Path) -> str:
    """SHA-256 over the hashes of a run's files, a missing one counted as empty."""
    total = hashlib.sha256()
    for name in ("run.json", "rows.jsonl", "bits.npz"):
        path = folder / name
        total.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    return total.hexdigest()


def _identity(spec: RunSpec) -> dict[str, Any]:
    """What a run's outcome depends on: the specification less what only the report reads."""
    return spec.model_copy(
        update={
            "evaluate": spec.evaluate.model_copy(update={"asr_cap": 0.0, "confidence": 0.9}),
            "switches": spec.switches.model_copy(update={"asr_denominator": "all"}),
        }
    ).model_dump()


def _point(
    run: FinishedRun, index: int, row: Row, denominator: Literal["all", "non_target"]
) -> Point:
    attacked, attackable = row.attack_success(denominator)
    return Point(
        source="ledger",
        dataset=row.dataset,
        objective=row.pretrain_objective,
        clean_size=row.clean_size,
        loss=row.loss,
        learning_rate=row.learning_rate,
        seed=row.seed,
        epoch=row.epoch,
        step=row.step,
        correct=row.num_correct,
        images=row.num_images,
        attacked=attacked,
        attackable=attackable,
        other_asr=row.asr("non_target" if denominator == "all" else "all"),
        run=run.folder,
        index=index,
    )
