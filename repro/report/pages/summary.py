"""What the head of the report and its summary say: title, time, what was done at which scale, what
the answer hangs on, and the studies in a line each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.report.judging.claims import RATIOS
from repro.report.pages.prepared import is_of_profile, mean_of
from repro.report.scales.printed import SettingLine, setting_lines
from repro.report.studies.words import model_name

KEYWORDS = ("CLIP", "backdoor", "CleanCLIP", "replication")
"""What the PDF and a release are found by."""
FACTOR = 2
"""By which the cap is divided and multiplied to see what hangs on it."""

SHOWN_EFFECTS = 2
"""Effects of a study that its line names."""
MEASURE_WORDS = {
    "cleaned_accuracy": "best accuracy",
    "lowest_asr": "lowest ASR",
    "asr": "start ASR",
    "accuracy": "start accuracy",
}
"""Measures of a study, the ones that it is about first."""
DECIDED = ("reproduced", "not reproduced")
"""Verdicts that decide a claim."""
TOLD_SETTINGS = ("pairs", "poisoned pairs (%)", "cleaning pairs", "image size (px)", "model")
"""Settings that tell the scale at a glance."""


@dataclass(frozen=True, slots=True)
class TimesTaken:
    """Runs and their time, seconds: of the profile itself, and of archived studies."""

    runs: int
    seconds: float
    archived_runs: int
    archived_seconds: float


@dataclass(frozen=True, slots=True)
class OtherCaps:
    """What the best accuracies would be at half and at twice the cap; all are fractions."""

    low: float
    high: float
    change: float
    """Greatest change of a best accuracy that both caps compared have."""
    row: Mapping[str, Any]
    """The cell of Table 1 that it is in."""
    cleaned: int
    """Cells with a model at the cap."""
    lost: int
    """Of these, the ones without a model at half the cap."""


@dataclass(frozen=True, slots=True)
class DecidedClaim:
    """A claim of ours with a decided verdict."""

    claim: Mapping[str, Any]
    ratio: bool
    """Whether its values are factors rather than points."""
    values: Sequence[tuple[Mapping[str, Any], str]]
    """Its cells, each with the place of its value in report.json."""


@dataclass(frozen=True, slots=True)
class Brief:
    """What the report is about, for one who knows only the paper's title."""

    pretrained: int
    """Models pre-trained here, by this profile and its archived studies."""
    cleaned: int
    """Finetuning runs on them."""
    scale: Sequence[SettingLine]
    decided: Sequence[DecidedClaim]


@dataclass(frozen=True, slots=True)
class Origin:
    """By whom and when the runs were made, and how they are made again."""

    authors: str
    repository: str
    """Address; empty where none is known."""
    first: str
    """Day on which the first of the profile's own runs began; empty without runs."""
    last: str
    command: str


@dataclass(frozen=True, slots=True)
class EffectLine:
    """A decided effect of a study."""

    variant: str
    model: str
    measure: str
    path: str
    """Of the effect in report.json."""


@dataclass(frozen=True, slots=True)
class StudyLine:
    """A study in a line."""

    name: str
    question: str
    effects: Sequence[EffectLine]
    """The decided ones that are named."""
    more: int
    """Decided ones beside these."""
    decided: int
    compared: int
    """Effects, decided or not."""
    claims: int
    """Claims that are judged over its seeds."""


def report_title(document: Mapping[str, Any]) -> str:
    """The title, with the mark of a replication in ReScience C where there is a verdict.

    "[Re]" says that the paper's answer was found again, "[¬Re]" that it was not; neither fits an
    undecided one, nor a study on other data than the paper's.
    """
    title = document["paper"]["title"]
    if document["stand_in"]:
        return f"Small-scale replication of: {title}"

    # A replay shows the verdict on the authors' own points, which replicates nothing.
    own = any(is_of_profile(run, document) for run in document["runs"])
    match document["headline"]["verdict"] if own else "not run":
        case "reproduced":
            return f"[Re] {title}"
        case "not reproduced":
            return f"[¬Re] {title}"
    return f"Replication of: {title}"


def times_taken(document: Mapping[str, Any]) -> TimesTaken:
    """What the profile's own runs took, and beside them the archived studies'."""
    rows, archived = document["compute"], document["archived_compute"]
    return TimesTaken(
        runs=sum(row["runs"] for row in rows),
        seconds=sum(row["seconds"] for row in rows),
        archived_runs=archived["runs"],
        archived_seconds=archived["seconds"],
    )


def other_caps(document: Mapping[str, Any]) -> OtherCaps | None:
    """What hangs on the cap; None where there is nothing to compare."""
    cap = document["settings"]["asr_cap"]
    sweeps = [
        sweep
        for sweep in document["statistics"]["threshold_sweep"]
        if sweep["source"] == "ledger" and _best_at(sweep["steps"], cap) is not None
    ]

    changes, lost = [], 0
    for sweep in sweeps:
        low, at_cap, high = (
            _best_at(sweep["steps"], value) for value in (cap / FACTOR, cap, cap * FACTOR)
        )
        lost += low is None
        changes += [
            (abs(other - at_cap), sweep)
            for other in (low, high)
            if other is not None and at_cap is not None
        ]
    if not changes:
        return None

    change, row = max(changes, key=lambda item: item[0])
    return OtherCaps(cap / FACTOR, cap * FACTOR, change, row, len(sweeps), lost)


def brief(document: Mapping[str, Any]) -> Brief | None:
    """Numbers of the first screen; None where nothing of our own was run."""
    runs = document["runs"]
    if not runs:
        return None

    # A run's folder tells its stage, in results as in archives.
    pretrained = sum("/pretrain/" in folder for folder in runs)
    lines = {line.setting: line for line in setting_lines(document)}
    return Brief(
        pretrained=pretrained,
        cleaned=len(runs) - pretrained,
        scale=[lines[name] for name in TOLD_SETTINGS if name in lines],
        decided=decided_claims(document),
    )


def decided_claims(document: Mapping[str, Any]) -> list[DecidedClaim]:
    """What our own measures decide, for the paper's claims or against them."""
    found = []
    for index, claim in enumerate(document["own_claims"]):
        if claim["verdict"] not in DECIDED:
            continue
        values = [
            (entry, f"own_claims/{index}/evidence/{place}/{mean_of(entry)}")
            for place, entry in enumerate(claim["evidence"])
            if mean_of(entry)
        ]
        found.append(DecidedClaim(claim, claim["metric"] in RATIOS, values))
    return found


def origin(document: Mapping[str, Any]) -> Origin:
    """Who made the profile's own runs, when, and the call that makes them again."""
    project, profile = document["context"]["project"], document["profile"]
    days = sorted(
        run["started"][:10]
        for folder, run in document["runs"].items()
        if is_of_profile(folder, document)
    )
    return Origin(
        authors=", ".join(project["authors"]),
        repository=project["repository"],
        first=days[0] if days else "",
        last=days[-1] if days else "",
        command=f"PROFILE={profile} make reproduce",
    )


def study_lines(document: Mapping[str, Any]) -> list[StudyLine]:
    """A line for each study: its decided effects, those on what cleaning leaves first."""
    lines = []
    for index, study in enumerate(document["studies"]):
        found = list(_effects(study, f"studies/{index}"))
        decided = [line for line, effect in found if not effect["undecided"]]
        lines.append(
            StudyLine(
                name=study["name"],
                question=study["question"],
                effects=decided[:SHOWN_EFFECTS],
                more=max(0, len(decided) - SHOWN_EFFECTS),
                decided=len(decided),
                compared=len(found),
                claims=len(study["claims"]),
            )
        )
    return lines


def published_points(document: Mapping[str, Any]) -> int:
    """Points that the authors published, of those files that were read."""
    return sum(file["points"] for file in document["authors_files"])


def _best_at(steps: Sequence[tuple[float, float]], cap: float) -> float | None:
    """Best accuracy at a cap; None where no model comes down to it."""
    # Steps rise in cap and accuracy, so the last one that the cap allows is the best.
    allowed = [accuracy for asr, accuracy in steps if asr <= cap]
    return allowed[-1] if allowed else None


def _effects(
    study: Mapping[str, Any], place: str
) -> Iterator[tuple[EffectLine, Mapping[str, Any]]]:
    """Every effect of a study, measure by measure."""
    for measure, words in MEASURE_WORDS.items():
        for index, row in enumerate(study["rows"]):
            effect = row["effects"] and row["effects"][measure]
            if effect:
                path = f"{place}/rows/{index}/effects/{measure}"
                yield EffectLine(row["variant"], model_name(row), words, path), effect
