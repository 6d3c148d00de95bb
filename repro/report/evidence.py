"""Everything that a report is computed from: runs of the profile, and the authors' points.

A run counts only if it is whole, of this profile and specification, and, if it is a cleaning run,
of the model that its pre-training run handed on. Others are named and left out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from repro.profile import departures, runs_of
from repro.report.authors import AuthorsFile, AuthorsPoints
from repro.report.format import label
from repro.report.points import COLUMNS, FinishedRun, evaluations, read_runs
from repro.runs.layout import RESULTS, results_dir
from repro.spec import Profile, RunSpec


@dataclass(frozen=True)
class Evidence:
    """Everything a report is computed from."""

    profile: Profile
    """Its first seed fills the tables; the others show the spread between seeds."""
    runs: tuple[FinishedRun, ...] = ()
    """Completed or diverged runs that the profile asks for."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Folder of each run asked for without a result that counts, and the reason."""
    notices: tuple[str, ...] = ()
    """What a reader should know about the ledger: runs that are left out, runs that differ."""
    authors: AuthorsPoints = ((), ())
    archived: bool = False
    """The runs come from an archive of results/studies."""
    departures: tuple[str, ...] = ()
    """Fields in which the profile differs from that of its name: its runs feed no verdict."""

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Evaluations of the runs."""
        return evaluations(self.runs, self.profile.switches.asr_denominator)

    @cached_property
    def authors_frame(self) -> pd.DataFrame:
        """The authors' points."""
        return pd.DataFrame.from_records(list(self.authors[0]), columns=list(COLUMNS))

    @property
    def files(self) -> Sequence[AuthorsFile]:
        """The authors' files that were read."""
        return self.authors[1]


def folder_of(spec: RunSpec) -> str:
    """Folder of a published run below the repository."""
    return (results_dir(spec, RESULTS) / spec.run_id).as_posix()


def read_evidence(profile: Profile, authors: AuthorsPoints = ((), ())) -> Evidence:
    """Read `results/<profile>` and compare it with what the profile asks for.

    Raises LedgerError for a result file that cannot be used. Failed runs count as missing, with
    their reason; runs that the profile does not ask for, or that were made with another
    specification, are named and left out.
    """
    expected = {folder_of(spec): spec for spec in runs_of(profile)}
    missing = dict.fromkeys(expected, "no result")
    runs: list[FinishedRun] = []
    notices: list[str] = []
    made: dict[tuple[str, int], FinishedRun] = {}
    found = read_runs(RESULTS / profile.name)
    for run in sorted(found, key=lambda run: run.record.spec.stage == "clean"):
        spec = run.record.spec
        # Left over from an earlier profile, such as a learning rate that has left the grid.
        if run.folder not in expected:
            notices.append(f"{run.folder} is not a run of this profile and is left out")
        elif reason := unusable(run, expected[run.folder]):
            missing[run.folder] = reason
        # A model that was trained again after it was cleaned: the old cleaning is of no use.
        elif reason := _foreign_model(run, made.get((spec.model_name, spec.seed))):
            notices.append(f"{run.folder} is left out: {reason}")
            missing[run.folder] = reason
        else:
            runs.append(run)
            del missing[run.folder]
            if spec.stage == "pretrain":
                made[spec.model_name, spec.seed] = run
    counted = tuple(sorted(runs, key=lambda run: Path(run.folder)))
    others = tuple(departures(profile))
    notices += [
        f"Not the profile {profile.name}: {line}. No verdict rests on it." for line in others
    ]
    return Evidence(
        profile=profile,
        runs=counted,
        missing=missing,
        notices=(*notices, *_differing_runs(counted)),
        authors=authors,
        departures=others,
    )


def unusable(run: FinishedRun, expected: RunSpec) -> str:
    """Why a run that is asked for does not count; empty if it does."""
    # `computed` leaves out what changes no result, such as names and the ASR's cap.
    if run.record.spec.computed() != expected.computed():
        return "made with another specification; run the study again"
    # A diverged run counts with the rows that it has; a failed one does not count at all.
    if run.record.status == "failed":
        return f"failed: {run.record.reason}"
    return "" if run.rows else "no evaluation recorded"


def _foreign_model(run: FinishedRun, source: FinishedRun | None) -> str:
    """Why a cleaning run is of another model than its pre-training run handed on; else empty.

    Nothing can be said where the pre-training run is not there or its record has no model hash.
    """
    cleaned = run.record.inputs.get("model", "none")
    if source is None or source.record.model_hash in ("", cleaned):
        return ""
    return (
        f"cleaned model {cleaned}, but {source.folder} handed on {source.record.model_hash}; "
        "run the study again"
    )


def _differing_runs(runs: Sequence[FinishedRun]) -> list[str]:
    """A line for each way in which runs of one table differ that should not, or are not whole."""
    lines = []

    # Each input is compared among the runs that should have the same.
    hashes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run in runs:
        for name, content in run.record.inputs.items():
            hashes[_sharing(run.record.spec, name), name].append(content)
    for (whose, name), contents in sorted(hashes.items()):
        if len(set(contents)) > 1:
            lines.append(f"{whose} differ in their input {name}: {_counted(contents)}.")

    if diverged := sum(run.diverged for run in runs):
        lines.append(
            f"{diverged} of {len(runs)} runs diverged: their loss was no finite number at some "
            "step. They count with the evaluations that they have."
        )
    return lines


def _sharing(spec: RunSpec, name: str) -> str:
    """The runs that should have the same input of this name."""
    dataset = label(spec.dataset)
    model = f"Cleaning runs of {dataset}, {label(spec.pretrain_objective)}, seed {spec.seed}"
    # A hash of pairs is one of the rows that a run reads.
    pairs = f"Runs of {dataset}, {label(spec.clean_size or spec.stage)}"
    return {"model": model, "pairs": pairs}.get(name, "The runs")


def _counted(values: Iterable[str]) -> str:
    """Values with their numbers of runs, the most frequent first, equally frequent ones by name."""
    counts = Counter(sorted(values)).most_common()
    return ", ".join(f"{value} ({number} runs)" for value, number in counts)
