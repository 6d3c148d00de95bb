"""`python -m repro check [PROFILE|ARCHIVE]`: is a run what the archive says?

On an archive's kind of processor, a run of archived settings, seed and data equals the archived
one, bit for bit. Another kind rounds differently, and training amplifies the difference to about
that between two seeds (docs/data.md). Where no run is equal, the measures are therefore compared
with those of the archived seeds.

`--keep NAME` makes the runs of a profile an archive of their own, with which others compare theirs.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from repro.intervals import student
from repro.ledger import CLEANED, IDENTITY, LedgerError, Row
from repro.markdown import table_lines
from repro.profile import chosen_profile, load_profile, runs_of
from repro.report.claims import load_claims
from repro.report.evidence import folder_of, unusable
from repro.report.measures import Context, Evaluations, measured
from repro.report.points import FinishedRun, archived_runs, evaluations, joined
from repro.report.statements import OwnValue, own_starts, own_values
from repro.report.studies import (
    REPLICATES,
    SUMS,
    StudyResults,
    archive_problems,
    list_replicate,
    read_study_results,
    replicated_runs,
)
from repro.runs.published import ROWS, read_run
from repro.spec import Profile, digest
from repro.study.archive import write_archive
from repro.study.spec import archive_of, lacking, load_study, study_names

LEVEL = 0.05
"""Share of runs like the archive that are taken for others, where none is equal."""
SHOWN = 10
"""Problems that are printed."""
UNCOMPARED = {"run", "fingerprint", "seconds", *IDENTITY}
"""Fields of a row that name its run or tell the time."""
UNUSABLE = 2
"""Exit status where nothing can be compared."""


@dataclass(frozen=True)
class Subject:
    """What is checked."""

    name: str
    profile: Profile
    runs: Sequence[FinishedRun]
    """Those that can be used."""
    problems: list[str]
    """A line for each run that lacks, or cannot be used."""
    archive: Path | None = None
    """The file of the runs; None for those of results/."""

    def holds(self, run: FinishedRun) -> bool:
        """Whether an archived run is one of the subject's own."""
        return self.archive is not None and Path(run.folder).is_relative_to(self.archive)


@dataclass(frozen=True)
class Finding:
    """What came of a check; the subject is like the archive if there are no `problems`."""

    subject: str
    seeds: list[int]
    runs: int
    counterparts: int
    """Runs of which the archive has one with the same settings, seed and data."""
    equal: int
    """Of these, those that are equal bit for bit."""
    machines: dict[str, list[str]]
    """Processor and torch of the subject's runs (`here`) and of those that they are compared with
    (`archive`).
    """
    measures: list[OwnValue] = field(default_factory=list)
    """Where runs differ: of the mean over the subject's seeds."""
    problems: list[str] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        if self.problems:
            first, *later = self.problems
            more = f" (and {len(later)} more)" if later else ""
            return f"{self.subject} is not what the archive says: {first}{more}."
        if not self.counterparts and not self.measures:
            return (
                f"{self.subject}: {self.runs} runs are whole; no archived run has their settings."
            )
        if self.equal == self.counterparts > 0:
            others = self.runs - self.counterparts
            rest = f"; {others} others have no archived counterpart" if others else ""
            return (
                f"{self.subject}: {self.equal} of {self.counterparts} runs equal the archived "
                f"ones, bit for bit{rest}."
            )
        inside, here, there = (
            sum(row.inside for row in self.measures),
            *(" and ".join(self.machines[of]) for of in ("here", "archive")),
        )
        return (
            f"{self.subject} is what the archive says, up to rounding: 0 of {self.counterparts} "
            f"runs are equal bit for bit (here {here}, archive {there}), and {inside} of "
            f"{len(self.measures)} measures lie inside the 95% prediction interval of the archived "
            "seeds, none outside the one that holds for all of them at once."
        )


def check_command(target: str | None, keep: str | None, as_json: bool) -> int:
    """Print what came of a check; 0 if the target is like the archive, 1 if it is not, 2 if nothing
    can be compared. Runs that are like the archive are kept as the archive `keep`.
    """
    try:
        found = check(target)
        if keep and not found.problems:
            _keep(target or chosen_profile(), keep)
    except LedgerError as error:
        print(f"check: {error}")
        return UNUSABLE
    if as_json:
        print(json.dumps(asdict(found) | {"sentence": found.sentence}, indent=1))
        return int(bool(found.problems))

    if found.measures:
        heads = ("measure", "setting", "of", "here", "archive", "95% prediction interval", "inside")
        print("\n".join(table_lines(heads, map(_cells, found.measures))), end="\n\n")
    for line in found.problems[:SHOWN]:
        print(f"- {line}")
    if len(found.problems) > SHOWN:
        print(f"- and {len(found.problems) - SHOWN} more")
    print(found.sentence)
    return int(bool(found.problems))


def sentence_of(profile: str) -> str:
    """The sentence on the published runs of a profile; empty where it has no archive."""
    if profile not in _archived_profiles():
        return ""
    try:
        return check(profile).sentence
    except LedgerError as error:
        return f"{profile} was not compared with the archive: {error}"


def check(target: str | None = None) -> Finding:
    """Compare the published runs of a profile, by default that of params.yaml, or those of an
    archive (`*.jsonl.gz`), with the archives of results/studies.

    LedgerError where nothing can be compared, SpecError for a name that there is not.
    """
    is_archive = bool(target) and str(target).endswith(".jsonl.gz")
    subject = _archive(Path(str(target))) if is_archive else _own(target or chosen_profile())
    studies = _archives(subject)
    archive = [run for study in studies for run in study.runs]
    archive += [run for run in replicated_runs(subject.profile.name) if not subject.holds(run)]

    paired = _paired(subject.runs, archive)
    compared = [of for _, known in paired for of in known]
    differing = [line for run, known in paired if (line := _difference(run, known))]
    equal = len(paired) - len(differing)
    measures = []
    if differing or not paired:
        measures = _measures(subject, studies)

    problems = [*subject.problems, *_structure(subject.runs)]
    if not paired and not measures and not is_archive:
        problems.append("no run has the settings of an archived one")
    # Another processor explains a difference only where no run is equal, and only measures can tell
    # whether it does.
    problems += differing if equal or not measures else _outliers(measures)
    return Finding(
        subject=subject.name,
        seeds=sorted({run.record.spec.seed for run in subject.runs}),
        runs=len(subject.runs),
        counterparts=len(paired),
        equal=equal,
        machines={"here": _machines(subject.runs), "archive": _machines(compared or archive)},
        measures=measures,
        problems=problems,
    )


def _own(name: str) -> Subject:
    profile = load_profile(name)
    if name not in (there := _archived_profiles()):
        listed = ", ".join(sorted(there)) or "none"
        raise LedgerError(f"profile {name}: has no archive (profiles with one: {listed})")
    runs, problems = [], []
    for spec in runs_of(profile):
        folder = folder_of(spec)
        try:
            run = FinishedRun(folder, *read_run(Path(folder)), sha256="")
        except LedgerError as error:
            problems.append(str(error))
            continue
        if reason := unusable(run, spec):
            problems.append(f"{folder}: {reason}")
        else:
            runs.append(run)
    made = {run.record.model_hash for run in runs}
    problems += [
        f"{run.folder}: cleaned a model that no run here has trained"
        for run in runs
        if run.record.inputs.get("model", run.record.model_hash) not in made
    ]
    if not runs:
        raise LedgerError(f"results/{name}: no runs; `make reproduce PROFILE={name}` makes them")
    return Subject(f"profile {name}", profile, runs, problems)


def _archive(path: Path) -> Subject:
    if path.parent == REPLICATES:
        kept = archived_runs(path)
        return Subject(path.as_posix(), load_profile(kept[0].record.spec.profile), kept, [], path)
    study = load_study(path.name.removesuffix(".jsonl.gz"))
    runs = [run for run in archived_runs(path) if run.record.status != "failed"]
    problems = [
        f"{path}: lacks the run {spec.stage} {spec.model_name} {spec.run_id}"
        for spec in lacking(study, (run.record for run in runs))
    ]
    return Subject(path.as_posix(), load_profile(study.profile), runs, problems, path)


def _archives(subject: Subject) -> list[StudyResults]:
    """What the subject is compared with; LedgerError if it is not as committed."""
    own, name = subject.archive, subject.profile.name
    altered = [line for line in archive_problems(name) if not line.startswith(f"{own}:")]
    if altered:
        raise LedgerError("\n".join(altered))
    return [
        study
        for study in read_study_results(name)
        if own is None or archive_of(study.name).resolve() != own.resolve()
    ]


def _archived_profiles() -> set[str]:
    return {load_study(name).profile for name in study_names() if archive_of(name).is_file()}


def _keep(profile: str, name: str) -> None:
    """Write the published runs of a profile into an archive of REPLICATES."""
    path = REPLICATES / f"{name}.jsonl.gz"
    if not name.isidentifier() or path.exists():
        raise LedgerError(f"--keep: {name}: allowed are letters, digits and _, of a new archive")
    write_archive(path, ((run.record, run.rows) for run in _own(profile).runs))
    list_replicate(path)
    print(f"{path}: written; it and {SUMS} belong into git")


def _paired(
    runs: Sequence[FinishedRun], archive: Iterable[FinishedRun]
) -> list[tuple[FinishedRun, list[FinishedRun]]]:
    """The runs that have archived ones with the same settings, seed and data, with these."""
    archive = list(archive)
    same = _settings([*runs, *archive])
    others = defaultdict(list)
    for run in archive:
        others[same[id(run)]].append(run)
    pairs = [(run, others[key]) for run in runs if (key := same[id(run)]) in others]

    # Where the kind of processor at hand has archived runs, no other is asked.
    here = {*_machines(runs)}
    alike = []
    for run, known in pairs:
        if of_here := [of for of in known if here.issuperset(_machines([of]))]:
            alike.append((run, of_here))
    return alike or pairs


def _settings(runs: Iterable[FinishedRun], *, of_any_seed: bool = False) -> dict[int, str]:
    """By id of a run, a digest that is equal in runs of equal settings, seed and data, whatever
    code and machine made them.
    """
    seed = {"seed": 0} if of_any_seed else {}
    starts: dict[str, str] = {}
    found = {}
    for run in sorted(runs, key=lambda run: run.record.spec.stage == "clean"):
        record = run.record
        # A start model is what its pre-training was, not its weights.
        inputs = {name: starts.get(content, content) for name, content in record.inputs.items()}
        spec = record.spec.model_copy(update=seed)
        found[id(run)] = digest([spec.computed(), inputs])
        if record.model_hash:
            starts[record.model_hash] = found[id(run)]
    return found


def _difference(run: FinishedRun, known: Iterable[FinishedRun]) -> str:
    """The first way in which a run differs from archived ones; empty if one of them is equal."""
    lines = [next(_differences(run, other), "") for other in known]
    return "" if "" in lines else f"{run.folder}: {lines[0]}"


def _differences(run: FinishedRun, other: FinishedRun) -> Iterator[str]:
    if len(run.rows) != len(other.rows):
        yield f"{len(run.rows)} evaluations (archive: {len(other.rows)})"
    for number, rows in enumerate(zip(run.rows, other.rows, strict=False)):
        here, there = map(_compared, rows)
        for name in here.keys() & there.keys():
            if here[name] != there[name]:
                yield f"row {number}: {name}: {here[name]} (archive: {there[name]})"

    # The other two hold times: a row's, and in the header of a cleaned model its row's.
    mine, theirs = run.record.files, other.record.files
    for name in sorted((mine.keys() & theirs.keys()) - {ROWS, CLEANED}):
        if mine[name] != theirs[name]:
            yield f"{name}: SHA-256 {mine[name][:16]} (archive: {theirs[name][:16]})"


def _compared(row: Row) -> Mapping[str, str]:
    """The fields of a row as text, in which NaN equals NaN; fields of newer code are left out."""
    content = row.model_dump(mode="json", exclude=UNCOMPARED, exclude_unset=True)
    return {name: json.dumps(value) for name, value in content.items()}


def _structure(runs: Collection[FinishedRun]) -> Iterator[str]:
    """A line for each way in which runs are not one sound set."""
    for folder, number in Counter(run.folder for run in runs).items():
        if number > 1:
            yield f"{folder}: {number} times"
    seeds: dict[str, set[int]] = defaultdict(set)
    for run in runs:
        if run.record.model_hash:
            seeds[run.record.model_hash].add(run.record.spec.seed)
    for weights, of in seeds.items():
        if len(of) > 1:
            yield f"seeds {', '.join(map(str, sorted(of)))}: the same weights ({weights})"


def _measures(subject: Subject, studies: Sequence[StudyResults]) -> list[OwnValue]:
    """The subject's measures beside those of the archived seeds on which the verdicts rest."""
    claims = load_claims()
    profile = subject.profile
    by_name = {study.name: study for study in studies}
    for arms_by_profile in (claims.comparisons.confirmed, claims.comparisons.exploratory):
        arms = arms_by_profile.get(profile.name)
        if arms and arms.study in by_name:
            break
    else:
        return []

    study = by_name[arms.study]
    compared = {arm.partition("/")[2] for arm in (arms.first_mmcl, arms.mmcl_ssl)}
    archived = [run for run in study.runs if run.record.spec.variant in compared]
    kinds = _settings([*subject.runs, *archived], of_any_seed=True)
    known = {kinds[id(run)] for run in archived}
    like_archived = [run for run in subject.runs if kinds[id(run)] in known]
    own = evaluations(like_archived, profile.switches.asr_denominator)
    by_arm = Evaluations(joined(own.assign(variant=""), study.frame), Context.of(claims, profile))
    starts = own_starts(measured(by_arm), arms)
    return [*starts, *own_values(by_arm, arms, claims.rules)]


def _outliers(measures: Sequence[OwnValue]) -> Iterator[str]:
    """A line for each measure outside the interval that holds for all of them at once."""
    for row in measures:
        confidence = 1 - LEVEL / len(measures)  # Bonferroni
        low, high = student(row.archived, confidence, further=len(row.seeds))
        if not low <= row.value <= high:
            name, setting, of, here, *_ = _cells(row)
            yield (
                f"{name} of {of}, {setting}: {here} (archived seeds: {low:.3f} to {high:.3f}, the "
                f"95% prediction interval of all {len(measures)} measures at once)"
            )


def _cells(row: OwnValue) -> tuple[str, ...]:
    """A measure as a row of the table."""
    low, high = row.interval
    mean = sum(row.archived) / len(row.archived)
    return (
        row.measure,
        "-".join(filter(None, (row.dataset, row.clean_size))),
        row.of,
        f"{row.value:.3f}",
        f"{mean:.3f}",
        f"{low:.3f} to {high:.3f}",
        "yes" if row.inside else "no",
    )


def _machines(runs: Iterable[FinishedRun]) -> list[str]:
    found = set()
    for run in runs:
        environment = run.record.environment
        device = environment.get("device", "unknown")
        found.add(f"{device}, torch {environment.get('torch', 'unknown')}")
    return sorted(found)
