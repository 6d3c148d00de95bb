"""Studies of specs/studies that have results: their specification and their archived runs."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.profile import SPECS
from repro.report.numbers.evaluations import FinishedRun
from repro.report.numbers.evidence import (
    AuthorsPoints,
    Evidence,
    RunKey,
    Settings,
    read_evidence,
)
from repro.runs.layout import RESULTS
from repro.runs.published import check_unique
from repro.spec import Profile, RunSpec, digest
from repro.study.archive import read_archive
from repro.study.asked import asked_runs, study_profiles
from repro.study.spec import Study, archive_of, load_study, study_names
from repro.study.witness import archive_problem


@dataclass(frozen=True, slots=True)
class StudyResults:
    """A study that has results."""

    name: str
    spec: Study
    runs: tuple[FinishedRun, ...]

    @property
    def seeds(self) -> set[int]:
        """Those of any variant."""
        return {run.record.spec.seed for run in self.runs}

    def by_variant(self, settings: Settings) -> dict[str, Evidence]:
        """The runs of each variant, as `<study>/<variant>`, with the seeds that they have."""
        found: dict[str, list[FinishedRun]] = defaultdict(list)
        for run in self.runs:
            found[f"{self.name}/{run.record.spec.variant}"].append(run)

        parts = {}
        for name, runs in found.items():
            # A study has seeds of its own, not the profile's: a verdict takes those that were run.
            seeds = tuple(sorted({run.record.spec.seed for run in runs}))
            parts[name] = Evidence(replace(settings, seeds=seeds), tuple(runs), archived=True)
        return parts


def evidence_of(
    profile: Profile, root: Path = Path(), authors: AuthorsPoints = ((), ())
) -> Evidence:
    """What a report of the profile is computed from: the runs that are published below `root`.

    A scale whose models take hours is kept in git as a study of its own name. Where nothing of it
    is published, as in a fresh checkout, the runs are those of that study's reference, which is the
    profile as it is.
    """
    evidence = read_evidence(profile, root, authors)
    if evidence.runs:
        return evidence

    name = profile.name
    studies = {study.name: study for study in read_study_results(name, root)}
    if name not in studies:
        return evidence
    study = studies[name]
    whole = study.by_variant(evidence.settings).get(f"{name}/{study.spec.reference}")
    if whole is None:
        return evidence

    # The study's runs bear the reference's name, the profile's own have none.
    specs = [run.record.spec.model_copy(update={"variant": ""}) for run in whole.runs]
    made = {RunKey.of(spec) for spec in specs}
    told = f"nothing is published in {RESULTS / name}: the runs are those of {archive_of(name)}"
    return replace(
        evidence,
        settings=whole.settings,
        runs=whole.runs,
        missing=tuple(
            run
            for run in evidence.missing
            if RunKey(run["stage"], run["cell"], run["run"]) not in made
        ),
        notices=(*evidence.notices, told),
        archived=True,
    )


def archive_problems(profile: str, root: Path) -> list[str]:
    """A line for each archive of the profile's studies that dvc.lock or git knows otherwise, and
    for each that holds what its study does not ask for as specifications now are.
    """
    problems = []
    for name, study in _of_profile(profile, root, archived=True):
        problems += [archive_problem(name, root), _outdated(name, study, root)]
    return [problem for problem in problems if problem is not None]


def _outdated(name: str, study: Study, root: Path) -> str | None:
    """What in an archive was made with another specification, in a line; None if nothing."""
    profiles = study_profiles(study, root / SPECS)
    asked = {
        _unseeded(spec)
        for label, stage in profiles
        for spec in asked_runs(study, profiles, label, stage)
    }

    for record, _ in read_archive(root / archive_of(name)):
        if _unseeded(record.spec) not in asked:
            return (
                f"{archive_of(name)}: {'/'.join(RunKey.of(record.spec))} was made with another "
                f"specification than the study asks for; `dvc repro --force study@{name}` makes "
                f"it anew"
            )
    return None


def _unseeded(spec: RunSpec) -> tuple[str, str]:
    """Variant and all that determines the results but the seed, of which an archive may hold more
    than are asked for.
    """
    return spec.variant, digest({**spec.computed(), "seed": None})


def read_study_results(profile: str, root: Path) -> tuple[StudyResults, ...]:
    """Studies of the profile below `root` that have results, the most repeated ones first.

    SpecError or LedgerError for a file that cannot be used.
    """
    # A run without rows, such as one that failed at once, says nothing of the variant.
    found = []
    for name, spec in _of_profile(profile, root, archived=True):
        runs = tuple(run for run in _runs(root / archive_of(name), root) if run.rows)
        if runs:
            found.append(StudyResults(name, spec, runs))
    # Those of few seeds are tries, which a reader may leave out.
    return tuple(sorted(found, key=lambda study: (-len(study.seeds), study.name)))


def variants_of(studies: Sequence[StudyResults], settings: Settings) -> dict[str, Evidence]:
    """The runs of every variant of every study, as `<study>/<variant>`."""
    variants: dict[str, Evidence] = {}
    for study in studies:
        variants |= study.by_variant(settings)
    return variants


def studies_to_run(profile: str, root: Path = Path()) -> list[str]:
    """Studies of the profile that have no archive yet."""
    return [name for name, _ in _of_profile(profile, root, archived=False)]


def _of_profile(profile: str, root: Path, *, archived: bool) -> Iterator[tuple[str, Study]]:
    """Studies of the profile: those that have an archive, or those that have none."""
    for name in study_names(root / SPECS):
        # Without an archive a study has no results, which is no error.
        if (root / archive_of(name)).is_file() == archived:
            spec = load_study(name, root / SPECS)
            if spec.profile == profile:
                yield name, spec


def _runs(archive: Path, root: Path) -> Iterator[FinishedRun]:
    """The archive's runs, each named as a path below it, and hashed by its content there."""
    for record, rows in read_archive(archive):
        # A path below the archive, as if it were a folder: unique, and the same on every machine.
        check_unique(rows)
        spec = record.spec
        name = "/".join((archive.relative_to(root).as_posix(), spec.stage, spec.cell, spec.run_id))

        # An archive has no files of its own for a run to hash, so its content is hashed.
        content = json.dumps(
            [record.model_dump(mode="json"), [row.model_dump(mode="json") for row in rows]]
        )
        yield FinishedRun(name, record, tuple(rows), hashlib.sha256(content.encode()).hexdigest())
