"""Everything that a report is computed from: runs of the profile, and the authors' points.

A run counts only if it is whole, of this profile and specification, and, if it is a cleaning run,
of the model that its pre-training run handed on. Others are named and left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from repro.profile import clean_runs, pretrain_runs
from repro.report.format import label
from repro.report.numbers.authors import AuthorsFile, AuthorsPoints
from repro.report.points import COLUMNS, Denominator, FinishedRun, evaluations, read_runs
from repro.runs.layout import RESULTS, results_dir
from repro.runs.version import unaccepted_runs
from repro.spec import Profile, RunSpec


@dataclass(frozen=True, slots=True)
class Settings:
    """What the report needs to know of a profile."""

    name: str
    protocol: str
    stand_in: str
    """What the datasets hold instead of the paper's data; empty if they hold the real data."""
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


class RunKey(NamedTuple):
    """What names a run within a profile."""

    stage: Literal["pretrain", "clean"]
    cell: str
    run: str

    @classmethod
    def of(cls, spec: RunSpec) -> RunKey:
        """The name of a specification's run."""
        return cls(spec.stage, spec.cell, spec.run_id)


@dataclass(frozen=True)
class Evidence:
    """Everything a report is computed from."""

    settings: Settings
    runs: tuple[FinishedRun, ...] = ()
    """Completed or diverged runs that the profile asks for."""
    controls: tuple[FinishedRun, ...] = ()
    """Runs on unpoisoned pairs and runs of variants: never in tables 1 and 2."""
    missing: Mapping[RunKey, str] = field(default_factory=dict)
    """Runs asked for without a result that counts, with the reason."""
    notices: tuple[str, ...] = ()
    """What a reader should know about the ledger: runs that are left out, runs that differ."""
    authors: AuthorsPoints = ((), ())
    archived: bool = False
    """The runs come from an archive of results/studies."""
    root: Path = field(default=Path(), compare=False)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Evaluations of the runs."""
        return evaluations(self.runs, self.settings.denominator)

    @cached_property
    def authors_frame(self) -> pd.DataFrame:
        """The authors' points."""
        return pd.DataFrame.from_records(list(self.authors[0]), columns=list(COLUMNS))

    @property
    def files(self) -> Sequence[AuthorsFile]:
        """The authors' files that were read."""
        return self.authors[1]


def read_evidence(
    profile: Profile, root: Path = Path(), authors: AuthorsPoints = ((), ())
) -> Evidence:
    """Read `results/<profile>` below `root` and compare it with what the profile asks for.

    Raises LedgerError for a result file that cannot be used. Failed runs count as missing, with
    their reason; runs that the profile does not ask for, or that were made with another
    specification, are named and left out.
    """
    expected = {RunKey.of(spec): spec for spec in [*pretrain_runs(profile), *clean_runs(profile)]}
    missing = dict.fromkeys(expected, "no result")
    runs: dict[RunKey, FinishedRun] = {}
    controls: list[FinishedRun] = []
    notices: list[str] = []
    for run in read_runs(root / RESULTS / profile.name, root):
        spec = run.record.spec
        key = RunKey.of(spec)
        # A folder that was copied or renamed by hand would count under another run's name.
        if run.folder != (results_dir(spec, RESULTS) / spec.run_id).as_posix():
            notices.append(f"{run.folder} holds the record of {'/'.join(key)} and is left out")
        # A run on clean pairs or with another setting is evidence, but not for Tables 1 and 2.
        elif spec.variant or not spec.poisoned:
            controls.append(run)
        # Left over from an earlier profile, such as a learning rate that has left the grid.
        elif key not in expected:
            notices.append(f"{run.folder} is not a run of this profile and is left out")
        elif reason := _unusable(run, expected[key]):
            missing[key] = reason
        else:
            runs[key] = run

    # A model may have been trained again after it was cleaned: the old cleaning is of no use then.
    specs = [(run.record.spec, run) for run in runs.values()]
    made = {(spec.cell, spec.seed): run for spec, run in specs if spec.stage == "pretrain"}
    for key, run in list(runs.items()):
        if reason := _foreign_model(run, made):
            notices.append(f"{run.folder} is left out: {reason}")
            missing[key] = reason
            del runs[key]
    counted = tuple(runs.values())
    return Evidence(
        settings=Settings.of(profile),
        runs=counted,
        controls=tuple(controls),
        missing={key: reason for key, reason in missing.items() if key not in runs},
        notices=(*notices, *_differing_runs(counted)),
        authors=authors,
        root=root,
    )


def _unusable(run: FinishedRun, expected: RunSpec) -> str:
    """Why a run that is asked for does not count; empty if it does."""
    # `computed` leaves out what changes no result, such as names and the ASR's cap.
    if run.record.spec.computed() != expected.computed():
        return "made with another specification; run the study again"
    # A diverged run counts with the rows that it has; a failed one does not count at all.
    if run.record.status == "failed":
        return f"failed: {run.record.reason}"
    return "" if run.rows else "no evaluation recorded"


def _foreign_model(run: FinishedRun, made: Mapping[tuple[str, int], FinishedRun]) -> str:
    """Why a cleaning run is of another model than its pre-training run handed on; else empty.

    Nothing can be said where the pre-training run is not there or its record has no model hash.
    """
    source = made.get((run.record.spec.cell, run.record.spec.seed))
    if run.record.spec.stage == "pretrain" or source is None or not source.record.model_hash:
        return ""
    cleaned = run.record.inputs.get("model", "none")
    if cleaned == source.record.model_hash:
        return ""
    return (
        f"cleaned model {cleaned}, but {source.folder} handed on {source.record.model_hash}; "
        "run the study again"
    )


def _differing_runs(runs: Sequence[FinishedRun]) -> list[str]:
    """A line for each way in which runs of one table differ that should not, or are not whole."""
    lines = []
    if codes := unaccepted_runs(run.record for run in runs):
        lines.append(f"Runs of code that is not accepted: {_counted(Counter(codes).elements())}.")

    # Each input is compared among the runs that should have the same.
    hashes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run in runs:
        for name, content in run.record.inputs.items():
            hashes[_sharing(run.record.spec, name), name].append(content)
    for (whose, name), contents in sorted(hashes.items()):
        if len(set(contents)) > 1:
            lines.append(f"{whose} differ in their input `{name}`: {_counted(contents)}.")

    if diverged := sum(run.diverged for run in runs):
        lines.append(
            f"{diverged} of {len(runs)} runs diverged: their loss was no finite number at some "
            "step. They count with the evaluations that they have."
        )
    return lines


def _sharing(spec: RunSpec, name: str) -> str:
    """The runs that should have the same input of this name."""
    dataset, objective = label(spec.dataset), label(spec.pretrain_objective)
    model = f"Cleaning runs of {dataset}, {objective}, seed {spec.seed}"
    return {"model": model, "pairs": f"Runs of {dataset}"}.get(name, "The runs")


def _counted(values: Iterable[str]) -> str:
    """Values with their numbers of runs, the most frequent first, equally frequent ones by name."""
    counts = Counter(sorted(values)).most_common()
    return ", ".join(f"{value} ({number} runs)" for value, number in counts)
