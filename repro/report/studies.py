"""Studies of specs/studies that have an archive: their runs, and what the report says of them."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from repro.files import replace_file
from repro.ledger import LedgerError
from repro.report.authors import AuthorsPoints
from repro.report.evidence import Evidence, folder_of, read_evidence
from repro.report.locked import LOCK, file_md5, locked_outputs
from repro.report.measures import Evaluations
from repro.report.points import FinishedRun, archived_runs, evaluations
from repro.report.study_tables import (
    Response,
    StudyEntry,
    StudyTable,
    responses,
)
from repro.runs.layout import RESULTS
from repro.spec import Profile
from repro.study.spec import Study, archive_of, lacking, load_study, study_names

LARGER = "midi"
"""The scale between the default one and the paper's: every report shows the study of its name."""
CONFIRMING = ("confirmation", "matched")
"""Beginnings of the names of studies that the rules of specs/claims.yaml judge."""
REPLICATES = Path("results/replicates")
SUMS = REPLICATES / "MD5SUMS"


@dataclass(frozen=True)
class StudyResults:
    """A study that has results."""

    name: str
    spec: Study
    runs: tuple[FinishedRun, ...]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Evaluations of the runs, by the profile's denominator of the ASR."""
        denominator = self.runs[0].record.spec.switches.asr_denominator
        return evaluations(self.runs, denominator, self.name)

    @property
    def confirms(self) -> bool:
        """Whether the rules alone judge it: it has no exploratory effects, and nothing of it is
        shown before all of its seeds are whole.
        """
        return self.name.startswith(CONFIRMING)

    @cached_property
    def seeds_due(self) -> set[int]:
        """Seeds that lack a run that the study asks for."""
        return {spec.seed for spec in lacking(self.spec, (run.record for run in self.runs))}


@dataclass(frozen=True)
class Studied:
    """What the report says of the studies of a profile."""

    studies: list[StudyEntry]
    responses: list[Response]


def read_study_results(profile: str) -> list[StudyResults]:
    """Studies of the profile that have results, those of most seeds first.

    Nothing is told of a study that tests hypotheses before all of its seeds are whole.
    SpecError or LedgerError for a file that cannot be used.
    """
    found = (_results(*of) for of in _with_archive({profile}))
    studies = [of for of in found if of.runs and not (of.spec.hypotheses and of.seeds_due)]
    # Of as many seeds, in the order of their names.
    return sorted(studies, key=lambda of: -len({run.record.spec.seed for run in of.runs}))


def _results(name: str, spec: Study, archive: Path) -> StudyResults:
    # An archive may hold a variant that its study no longer names.
    runs = tuple(
        run
        for run in archived_runs(archive)
        if run.record.status != "failed" and run.record.spec.variant in spec.variants
    )
    return StudyResults(name, spec, runs)


def rank_notices(own: Sequence[FinishedRun], studies: Iterable[StudyResults]) -> list[str]:
    """A line for each stage of the profile's own runs, or of a study, whose runs were divided among
    different numbers of ranks or threads: sums are then rounded in another order.
    """
    lines = []
    for name, runs in [("this profile", own), *((study.name, study.runs) for study in studies)]:
        for stage in ("pretrain", "clean"):
            shares = Counter(
                f"{run.record.ranks} ranks of {run.record.threads} threads"
                for run in runs
                if run.record.spec.stage == stage
            )
            if len(shares) > 1:
                counts = ", ".join(f"{share} ({count} runs)" for share, count in shares.items())
                lines.append(
                    f"Runs of {name}, stage {stage}, differ in ranks or threads, and so by about a "
                    f"change of seed from what they would be alike: {counts}."
                )
    return lines


def replicated_runs(profile: str) -> Iterator[FinishedRun]:
    """Runs of the profile in the archives of REPLICATES."""
    for archive in sorted(REPLICATES.glob("*.gz")):
        yield from (run for run in archived_runs(archive) if run.record.spec.profile == profile)


def list_replicate(archive: Path) -> None:
    """Add an archive of REPLICATES to SUMS."""
    lines = SUMS.read_text(encoding="utf-8").splitlines() if SUMS.is_file() else []
    lines.append(f"{file_md5(archive)}  {archive.name}")
    text = "".join(f"{line}\n" for line in sorted(lines, key=lambda line: line.split()[1]))
    replace_file(SUMS, text.encode())


def check_archives(profile: str) -> None:
    """Raise LedgerError for an archive of `archive_problems`."""
    if problems := archive_problems(profile):
        raise LedgerError("\n".join(problems))


def archive_problems(profile: str) -> list[str]:
    """A line for each archive behind the report of a profile that is not the committed one: those
    of its own studies and of the scale LARGER, by dvc.lock, and those of earlier code, by SUMS.

    None for an archive that these do not name.
    """
    try:
        locked = locked_outputs()
    except LedgerError:
        # `dvc status` names a damaged one.
        locked = {}
    problems = []
    for name, _, archive in _with_archive({profile, LARGER}):
        if changed := _changed(archive, locked.get(archive), LOCK):
            problems.append(
                f"{changed}; deleted, `dvc repro study@{name}` makes it again; results that you "
                f"made yourself are accepted with `dvc commit study@{name}`"
            )
    if SUMS.is_file():
        listed = re.findall(rb"^([0-9a-f]{32})  (\S+)$", SUMS.read_bytes(), re.MULTILINE)
        sums = {name.decode(errors="replace"): md5.decode() for md5, name in listed}
        there = sorted(path.name for path in REPLICATES.glob("*.gz"))
        if sorted(sums) != there:
            problems.append(f"{SUMS}: sums of {sorted(sums)} (allowed: of the archives, {there})")
        changes = (_changed(REPLICATES / name, md5, SUMS) for name, md5 in sums.items())
        problems += filter(None, changes)
    return problems


def _changed(archive: Path, known: str | None, place: Path) -> str:
    """A line where an archive is there and has another MD5 than `place` knows; else empty."""
    if not archive.is_file():
        return ""
    md5 = file_md5(archive)
    if known in (None, md5):
        return ""
    return (
        f"{archive}: not the file that is known to {place} (MD5 {known}, here {md5}). "
        f"`git checkout -- {archive}` takes the committed one"
    )


def _with_archive(profiles: Collection[str]) -> Iterator[tuple[str, Study, Path]]:
    for name in study_names():
        spec, archive = load_study(name), archive_of(name)
        if spec.profile in profiles and archive.is_file():
            yield name, spec, archive


def studied(
    studies: Sequence[StudyResults], evaluations: Evaluations, confidence: float
) -> Studied:
    """Tables and responses of studies of one profile.

    `evaluations` are those of the studies at least.
    """
    shown = [study for study in studies if not (study.confirms and study.seeds_due)]
    tables = {
        study.name: StudyTable(study.name, study.spec, evaluations, confidence) for study in shown
    }
    return Studied(
        studies=[
            tables[study.name].entry([run.record.spec for run in study.runs]) for study in shown
        ],
        responses=[entry for table in tables.values() for entry in responses(table)],
    )


def whole_seeds(studies: Sequence[StudyResults]) -> dict[str, set[int]]:
    """By study that confirms, the seeds of which every run is there."""
    return {
        of.name: {run.record.spec.seed for run in of.runs} - of.seeds_due
        for of in studies
        if of.confirms
    }


def evidence_of(profile: Profile, authors: AuthorsPoints = ((), ())) -> Evidence:
    """What a report of the profile is computed from: the runs that are published.

    Of a scale whose models take hours, git has a study of its name. Where nothing of it is
    published, as in a fresh checkout, the runs are those of the study's reference.
    """
    evidence = read_evidence(profile, authors)
    problems = archive_problems(profile.name)
    evidence = replace(evidence, notices=(*evidence.notices, *problems))
    if evidence.runs:
        return evidence
    runs = tuple(
        run
        for of in _with_archive({profile.name})
        if of[0] == profile.name
        for run in _results(*of).runs
        if run.record.spec.variant == of[1].reference
    )
    if not runs:
        return evidence

    # The study's runs have the reference's name as variant, the profile's own have none.
    specs = [run.record.spec.model_copy(update={"variant": ""}) for run in runs]
    made = {folder_of(spec) for spec in specs}
    notice = (
        f"nothing is published in {RESULTS / profile.name}: "
        f"the runs are those of {archive_of(profile.name)}"
    )
    seeds = sorted({spec.seed for spec in specs})
    pretrain = profile.pretrain.model_copy(update={"seeds": seeds})
    return replace(
        evidence,
        profile=profile.model_copy(update={"pretrain": pretrain}),
        runs=runs,
        missing={key: why for key, why in evidence.missing.items() if key not in made},
        notices=(*evidence.notices, notice),
        archived=True,
    )
