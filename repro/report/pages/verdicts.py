"""Verdicts of a report made ready for templates: counted, over seeds, and with their controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.report.judging.control import control_words

VERDICTS = (
    "reproduced",
    "direction only",
    "not reproduced",
    "undecided",
    "not tested",
    "not run",
)
"""What claims are counted by; why one was not tested stands at the claim."""


@dataclass(frozen=True, slots=True)
class SeedVerdict:
    """What a study over seeds says of the paper's main claims."""

    study: str
    seeds: Sequence[int]
    verdicts: list[tuple[dict[str, Any], str]]
    """Of each claim the entry of evidence and the verdict."""


@dataclass(frozen=True, slots=True)
class ControlLine:
    """What came of CleanCLIP on the poisoned MMCL model."""

    dataset: str
    clean_size: str
    said: str
    """Whether it holds, with loss and ASR."""


def control_lines(document: Mapping[str, Any]) -> list[ControlLine]:
    """The controls of Table 1; without own runs, by the authors' points."""
    # A replay has no runs: then the authors' points are judged, and so is their control.
    replayed = not document["runs"] and bool(document["authors_files"])
    field = "authors_control" if replayed else "control"

    # The two objectives of a dataset and size have one control, which each of their rows bears.
    said = {
        (row["dataset"], row["clean_size"]): control_words(row[field])
        for row in document["tables"]["table1"]["rows"]
    }
    return [ControlLine(dataset, size, words) for (dataset, size), words in said.items()]


def verdict_counts(document: dict[str, Any]) -> dict[str, int]:
    """Claims by verdict, all verdicts named; without own runs, those on the authors' points."""
    field = "verdict" if document["runs"] else "authors_verdict"
    found = [claim[field].partition(":")[0] for claim in document["claims"] if claim[field]]
    return {verdict: found.count(verdict) for verdict in VERDICTS}


def seed_verdicts(document: dict[str, Any]) -> list[SeedVerdict]:
    """What each study that repeats the whole graph says of the main claims."""
    # The main claims, as the headline lists them; a study has verdicts on all claims.
    main = {claim["id"] for claim in document["headline"]["claims"]}
    return [
        SeedVerdict(
            study=study["name"],
            seeds=study["rows"][0]["seeds"],
            verdicts=[
                (entry, claim["verdict"])
                for claim in study["claims"]
                if claim["id"] in main
                for entry in claim["evidence"]
            ],
        )
        for study in document["studies"]
        if study["claims"]
    ]
