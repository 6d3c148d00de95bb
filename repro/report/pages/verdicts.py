"""Verdicts of a report made ready for templates: counted, over seeds, with their controls; and
resistance in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.report.format import label
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

SIDES = {"between": "", "below": "at most ", "above": "above "}
"""What stands before a rate."""


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


@dataclass(frozen=True, slots=True)
class RateLine:
    """The lowest rates of a dataset and cleaning size, in words."""

    place: str
    """Dataset and cleaning pairs."""
    mmcl: str
    """By seed."""
    mmcl_ssl: str
    ratio: str
    """How many times as high the MMCL + SSL model's is; empty where the rates do not tell."""


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
    """Claims by verdict, all verdicts named; in a replay, those on the authors' points."""
    # Without runs and without points, claims are not run, and are counted as that.
    replayed = not document["runs"] and bool(document["authors_files"])
    field = "authors_verdict" if replayed else "verdict"
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


def rate_lines(document: Mapping[str, Any]) -> list[RateLine]:
    """A line for each cell with runs of both models."""
    lines = []
    for cell in document["resistance"]["cells"]:
        rates = cell["rates"]
        if rates is None:
            continue
        lines.append(
            RateLine(
                place=_place(cell),
                mmcl=_by_seed(rates["mmcl"]),
                mmcl_ssl=_by_seed(rates["mmcl_ssl"]),
                ratio=_ratio(rates),
            )
        )
    return lines


def _place(cell: Mapping[str, Any]) -> str:
    return f"{label(cell['dataset'])}, {label(cell['clean_size'])}"


def _by_seed(reached: Sequence[Mapping[str, Any]]) -> str:
    return " / ".join(f"{SIDES[of['side']]}{of['rate']:.2g}" for of in reached)


def _ratio(rates: Mapping[str, Any]) -> str:
    """The factor between the two models' rates, with its interval."""
    if rates["ratio"] is None:
        return ""
    bound = "at least " if rates["at_least"] else ""
    ends = rates["ratio_ci"]
    interval = "" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
    return f"{bound}{rates['ratio']:.2f}{interval}"
