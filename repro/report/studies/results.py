"""Studies of specs/studies that have an archive: their runs, and what the report says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from repro.profile import SPECS
from repro.report.numbers.authors import AuthorsPoints
from repro.report.numbers.evidence import Evidence, RunKey, Settings, read_evidence
from repro.report.points import FinishedRun, archived_runs, evaluations
from repro.report.studies.axes import equal_starts, responses
from repro.report.studies.estimates import Family, set_q_values
from repro.report.studies.outcomes import outcomes
from repro.report.studies.replicates import EARLIER, REPLICATES, replicates
from repro.report.studies.tables import StudyEntry, StudyTable
from repro.runs.layout import RESULTS
from repro.spec import Profile
from repro.study.archive import archive_problem
from repro.study.spec import Study, archive_of, load_study, study_names

CONFIRMATORY = "confirmation"
"""Studies whose name begins so are judged by the rules alone. Like those with hypotheses of their
own, they have no exploratory effects."""


@dataclass(frozen=True)
class StudyResults:
    """A study that has results."""

    name: str
    spec: Study
    runs: tuple[FinishedRun, ...]

    @property
    def seeds(self) -> set[int]:
        """Seeds of any variant."""
        return {run.record.spec.seed for run in self.runs}

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Evaluations of the runs, by the profile's denominator of the ASR."""
        denominator = self.runs[0].record.spec.switches.asr_denominator
        return evaluations(self.runs, denominator, self.name)


@dataclass(frozen=True, slots=True)
class Studied:
    """What the report says of the studies of a profile."""

    studies: list[StudyEntry]
    responses: list[dict[str, Any]]
    equal_starts: list[dict[str, Any]]
    effects_family: Family | None
    """The effects of the three above together; None without studies."""
    replicates: list[dict[str, Any]]


def read_study_results(profile: str, root: Path) -> tuple[StudyResults, ...]:
    """Studies of the profile below `root` that have results, those of most seeds first.

    SpecError or LedgerError for a file that cannot be used.
    """
    studies = [
        # A run without rows, such as one that failed at once, says nothing of its variant.
        StudyResults(name, spec, tuple(run for run in archived_runs(archive, root) if run.rows))
        for name, spec in _with_archive(profile, root)
        for archive in [archive_of(name)]
    ]
    made = [study for study in studies if study.runs]
    return tuple(sorted(made, key=lambda study: (-len(study.seeds), study.name)))


def archive_problems(profile: str, root: Path = Path()) -> list[str]:
    """A line for each archive of the profile's studies that is not the one of dvc.lock or git."""
    problems = [archive_problem(name, root) for name, _ in _with_archive(profile, root)]
    return [problem for problem in problems if problem is not None]


def _with_archive(profile: str, root: Path) -> Iterator[tuple[str, Study]]:
    for name in study_names(root / SPECS):
        spec = load_study(name, root / SPECS)
        if spec.profile == profile and (root / archive_of(name)).is_file():
            yield name, spec


def studied(
    studies: Sequence[StudyResults], settings: Settings, rate: float | None, root: Path
) -> Studied:
    """Tables, responses and replicates of studies of one profile.

    `rate`: the learning rate at which the ASR left is compared (`rules.rate` of specs/claims.yaml);
    None for a profile that has none.
    """
    tables = {
        study.name: StudyTable(
            study.spec,
            outcomes(study.frame, settings.cap, rate),
            settings.confidence,
            effects=not (study.spec.hypotheses or study.name.startswith(CONFIRMATORY)),
        )
        for study in studies
    }
    return Studied(
        studies=[
            tables[study.name].entry(study.name, (run.record.spec for run in study.runs))
            for study in studies
        ],
        responses=[e for name, table in tables.items() for e in responses(name, table, rate)],
        equal_starts=[e for name, table in tables.items() for e in equal_starts(name, table, rate)],
        replicates=replicates(_unchanged(studies, root), settings.cap, rate),
        # Last, since the tables know by now what was asked of them.
        effects_family=set_q_values(
            [effect for table in tables.values() for effect in table.effects], settings.confidence
        )
        if studies
        else None,
    )


def _unchanged(studies: Sequence[StudyResults], root: Path) -> dict[str, pd.DataFrame]:
    """Evaluations of the unchanged profile by archive."""
    archives = {}
    for study in studies:
        variants = study.spec.variants.items()
        same = [label for label, variant in variants if not variant.overrides and variant.poisoned]
        archives[study.name] = study.frame[study.frame.variant.isin(same)]
    earlier = REPLICATES / f"{EARLIER}.jsonl.gz"
    if studies and (root / earlier).is_file():
        runs = archived_runs(earlier, root)
        own = [run for run in runs if run.record.spec.profile == studies[0].spec.profile]
        if own:
            archives[EARLIER] = StudyResults(EARLIER, studies[0].spec, tuple(own)).frame
    return archives


def evidence_of(
    profile: Profile, root: Path = Path(), authors: AuthorsPoints = ((), ())
) -> Evidence:
    """What a report of the profile is computed from: the runs that are published below `root`.

    Of a scale whose models take hours, git has a study of its name. Where nothing of it is
    published, as in a fresh checkout, the runs are those of the study's reference.
    """
    evidence = read_evidence(profile, root, authors)
    problems = archive_problems(profile.name, root)
    evidence = replace(evidence, notices=(*evidence.notices, *problems))
    runs = [
        run
        for study in read_study_results(profile.name, root)
        if study.name == profile.name and not evidence.runs
        for run in study.runs
        if run.record.spec.variant == study.spec.reference
    ]
    if not runs:
        return evidence

    # The study's runs have the reference's name as variant, the profile's own have none.
    specs = [run.record.spec.model_copy(update={"variant": ""}) for run in runs]
    made = {RunKey.of(spec) for spec in specs}
    notice = (
        f"nothing is published in {RESULTS / profile.name}: "
        f"the runs are those of {archive_of(profile.name)}"
    )
    return replace(
        evidence,
        settings=replace(evidence.settings, seeds=tuple(sorted({spec.seed for spec in specs}))),
        runs=tuple(runs),
        missing={key: reason for key, reason in evidence.missing.items() if key not in made},
        notices=(*evidence.notices, notice),
        archived=True,
    )
