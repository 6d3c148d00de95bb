"""What the head of the report and its summary say: title, time, and what the answer hangs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.report.pages.prepared import is_of_profile

KEYWORDS = ("CLIP", "backdoor", "CleanCLIP", "replication")
"""What the PDF and a release are found by."""
FACTOR = 2
"""By which the cap is divided and multiplied to see what hangs on it."""


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


def published_points(document: Mapping[str, Any]) -> int:
    """Points that the authors published, of those files that were read."""
    return sum(file["points"] for file in document["authors_files"])


def _best_at(steps: Sequence[tuple[float, float]], cap: float) -> float | None:
    """Best accuracy at a cap; None where no model comes down to it."""
    # Steps rise in cap and accuracy, so the last one that the cap allows is the best.
    allowed = [accuracy for asr, accuracy in steps if asr <= cap]
    return allowed[-1] if allowed else None
