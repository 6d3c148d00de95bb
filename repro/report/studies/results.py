"""Studies of specs/studies that have an archive: their runs, and what the report says of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.names import DEFENCES, TRIGGERS
from repro.profile import SPECS
from repro.report.numbers.evaluations import FinishedRun
from repro.report.numbers.evidence import AuthorsPoints, Evidence, RunKey, Settings, read_evidence
from repro.report.points import archived_runs
from repro.report.studies.axes import EqualStarts, Response, equal_starts, responses
from repro.report.studies.estimates import Family, with_q_values
from repro.report.studies.frames import archive_frame, outcomes
from repro.report.studies.replicates import Replicates, replicates
from repro.report.studies.tables import StudyEntry, StudyTable
from repro.runs.layout import RESULTS
from repro.spec import Profile
from repro.study.archive import archive_problem
from repro.study.spec import Study, archive_of, load_study, study_names

CONFIRMATORY = "confirmation"
"""Studies whose name begins so are judged by the rules alone, and have no exploratory effects."""


@dataclass(frozen=True, slots=True)
class StudyResults:
    """A study that has results."""

    name: str
    spec: Study
    runs: tuple[FinishedRun, ...]

    @property
    def seeds(self) -> set[int]:
        """Seeds of any variant."""
        return {run.record.spec.seed for run in self.runs}

    def by_variant(self, settings: Settings) -> dict[str, Evidence]:
        """The runs of each variant, as `<study>/<variant>`, with the seeds that they have."""
        runs: dict[str, list[FinishedRun]] = defaultdict(list)
        for run in self.runs:
            runs[f"{self.name}/{run.record.spec.variant}"].append(run)
        return {
            name: Evidence(
                replace(settings, seeds=tuple(sorted({run.record.spec.seed for run in own}))),
                tuple(own),
                archived=True,
            )
            for name, own in runs.items()
        }


@dataclass(frozen=True, slots=True)
class Studied:
    """What the report says of the studies of a profile."""

    studies: list[StudyEntry]
    responses: list[Response]
    equal_starts: list[EqualStarts]
    effects_family: Family | None
    """The effects of the three above together; None without studies."""
    replicates: list[Replicates]


def read_study_results(profile: str, root: Path) -> tuple[StudyResults, ...]:
    """Studies of the profile below `root` that have results, those of most seeds first.

    SpecError or LedgerError for a file that cannot be used.
    """
    found = []
    for name in study_names(root / SPECS):
        spec = load_study(name, root / SPECS)
        if spec.profile != profile or not (root / archive_of(name)).is_file():
            continue
        # A run without rows, such as one that failed at once, says nothing of its variant.
        runs = tuple(run for run in archived_runs(name, root) if run.rows)
        if runs:
            found.append(StudyResults(name, spec, runs))
    return tuple(sorted(found, key=lambda study: (-len(study.seeds), study.name)))


def studied(
    studies: Sequence[StudyResults], settings: Settings, rate: float | None, root: Path
) -> Studied:
    """Tables, responses and replicates of studies of one profile.

    `rate`: the learning rate at which the ASR left is compared (`rules.rate` of specs/claims.yaml);
    None for a profile that has none.
    """
    frames = [(of.name, of.spec, archive_frame(root / archive_of(of.name))) for of in studies]
    tables = {
        name: StudyTable(
            spec,
            outcomes(frame, settings.cap, rate),
            settings.confidence,
            effects=not name.startswith(CONFIRMATORY),
        )
        for name, spec, frame in frames
    }
    listed = Studied(
        studies=[
            _labelled(table.entry(of.name), of.runs)
            for of, table in zip(studies, tables.values(), strict=True)
        ],
        responses=[
            entry for name, table in tables.items() for entry in responses(name, table, rate)
        ],
        equal_starts=[
            entry for name, table in tables.items() for entry in equal_starts(name, table, rate)
        ],
        effects_family=None,
        replicates=replicates(frames, settings.cap, rate, root),
    )
    if not studies:
        return listed
    found, family = with_q_values(listed, settings.confidence)
    return replace(found, effects_family=family)


def _labelled(entry: StudyEntry, runs: Sequence[FinishedRun]) -> StudyEntry:
    """The entry with the triggers and defences of its runs, in the order of their lists."""
    specs = [run.record.spec for run in runs]
    triggers = {spec.trigger.name for spec in specs}
    defences = {spec.loss_settings[0] for spec in specs if spec.stage == "clean"}
    return replace(
        entry,
        triggers={name: text for name, text in TRIGGERS.items() if name in triggers},
        defences={name: of.label for name, of in DEFENCES.items() if name in defences},
    )


def variants_of(studies: Sequence[StudyResults], settings: Settings) -> dict[str, Evidence]:
    """The runs of every variant of every study, as `<study>/<variant>`."""
    variants: dict[str, Evidence] = {}
    for study in studies:
        variants |= study.by_variant(settings)
    return variants


def archive_problems(profile: str, root: Path = Path()) -> list[str]:
    """A line for each archive of the profile's studies that is not the one of dvc.lock or git."""
    problems = [archive_problem(study.name, root) for study in read_study_results(profile, root)]
    return [problem for problem in problems if problem is not None]


def evidence_of(
    profile: Profile, root: Path = Path(), authors: AuthorsPoints = ((), ())
) -> Evidence:
    """What a report of the profile is computed from: the runs that are published below `root`.

    Of a scale whose models take hours, git has a study of its name. Where nothing of it is
    published, as in a fresh checkout, the runs are those of the study's reference.
    """
    evidence = read_evidence(profile, root, authors)
    studies = {study.name: study for study in read_study_results(profile.name, root)}
    problems = [problem for name in studies if (problem := archive_problem(name, root))]
    evidence = replace(evidence, notices=(*evidence.notices, *problems))
    study = studies.get(profile.name)
    if evidence.runs or study is None:
        return evidence
    whole = study.by_variant(evidence.settings).get(f"{study.name}/{study.spec.reference}")
    if whole is None:
        return evidence

    # The study's runs have the reference's name as variant, the profile's own have none.
    specs = [run.record.spec.model_copy(update={"variant": ""}) for run in whole.runs]
    made = {RunKey.of(spec) for spec in specs}
    return replace(
        evidence,
        settings=whole.settings,
        runs=whole.runs,
        missing=tuple(
            run for run in evidence.missing if RunKey(run.stage, run.cell, run.run) not in made
        ),
        notices=(
            *evidence.notices,
            f"nothing is published in {RESULTS / profile.name}: "
            f"the runs are those of {archive_of(study.name)}",
        ),
        archived=True,
    )
