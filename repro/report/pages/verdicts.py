"""Verdicts of a report made ready for templates: counted, over seeds, with their controls and with
what would settle them; and resistance in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.report.format import label, short
from repro.report.judging.claims import combine
from repro.report.judging.control import control_words
from repro.report.pages.prepared import AnswerLine, answer_lines, is_of_profile
from repro.report.schema.judged import Metric, Verdict
from repro.report.schema.results import PositiveControl
from repro.report.studies.prices import Price, prices

VERDICTS = (
    "reproduced",
    "direction only",
    "not reproduced",
    "undecided",
    "not tested",
    "not run",
)
"""What claims are counted by; why one was not tested stands at the claim."""

METRICS: dict[Metric, str] = {
    "start_accuracy": "accuracy before cleaning",
    "start_asr": "ASR before cleaning",
    "accuracy_gain": "accuracy of the MMCL + SSL model less that of the MMCL model",
    "cleaned_accuracy": "best accuracy at the cap",
    "relative_drop": "share of the accuracy lost",
    "drop_difference": "share of its accuracy that the MMCL + SSL model loses, less the MMCL one's",
    "kept_asr": "lowest ASR of a model that keeps its accuracy",
    "lowest_asr": "lowest ASR",
    "late_drop": "share of the accuracy lost after the best evaluation",
    "late_asr": "ASR at the end of the best run",
    "asr_left_difference": "ASR left in the MMCL + SSL model, less the MMCL model's",
    "lowest_rate_ratio": "lowest rate that cleans the MMCL + SSL model, over the MMCL model's",
    "kept_difference": "accuracy that the MMCL model keeps, less the MMCL + SSL model's",
    "none": "not measured here",
}
"""What a claim is about, in words."""

SIDES = {"between": "", "below": "at most ", "above": "above "}
"""What stands before a rate."""


@dataclass(frozen=True, slots=True)
class CellVerdict:
    """A main claim in one cell, over some seeds."""

    verdict: Verdict
    control: PositiveControl | None
    """None where it was not run."""


@dataclass(frozen=True, slots=True)
class MainRow:
    """A main claim in its cell."""

    dataset: str
    clean_size: str
    lost: list[AnswerLine]
    """By the MMCL model and by the MMCL + SSL model, in this report."""
    own: CellVerdict
    """Over this report's own seeds."""
    over_seeds: CellVerdict | None
    """Over those of a study, where one has more."""

    @property
    def counts(self) -> CellVerdict:
        """What is said over the most seeds."""
        return self.over_seeds or self.own

    @property
    def said(self) -> str:
        """What came of the positive control, over the most seeds."""
        return control_words(self.counts.control)


@dataclass(frozen=True, slots=True)
class Discussion:
    """What the discussion rests on, all of it over the most seeds."""

    study: str | None
    seeds: Sequence[int]
    verdict: Verdict
    """Of the main claims together."""
    main: list[MainRow]
    held: list[MainRow]
    """Those whose control holds."""
    failed: list[MainRow]
    not_run: list[MainRow]
    prices: list[Price]
    """What the finetuning costs models without a backdoor."""


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
    """What each study that cleans every cell says of the main claims."""
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


def most_seeds(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The study that cleans every cell over more seeds than this report has."""
    name = document["resistance"]["study"]
    return next((study for study in document["studies"] if study["name"] == name), None)


def own_seeds(document: Mapping[str, Any]) -> Sequence[int]:
    """Seeds of this report's runs; none where it has no runs."""
    has_runs = any(is_of_profile(run, document) for run in document["runs"])
    return document["settings"]["seeds"] if has_runs else []


def discussion(document: Mapping[str, Any]) -> Discussion:
    """What came of the main claims, their controls, and models without a backdoor."""
    study = most_seeds(document)
    main = _main_rows(document, study)
    run = [row for row in main if row.counts.control]
    return Discussion(
        study=study["name"] if study else None,
        seeds=study["rows"][0]["seeds"] if study else own_seeds(document),
        verdict=combine([row.counts.verdict for row in main]),
        main=main,
        held=[row for row in run if _holds(row)],
        failed=[row for row in run if not _holds(row)],
        not_run=[row for row in main if row not in run],
        prices=[price for entry in document["studies"] for price in prices(entry)],
    )


def _holds(row: MainRow) -> bool:
    control = row.counts.control
    return control is not None and control["holds"]


def _main_rows(document: Mapping[str, Any], study: Mapping[str, Any] | None) -> list[MainRow]:
    """The main claims, by this report and, if there is one, by the study."""
    lost: dict[tuple[str, str], list[AnswerLine]] = {}
    for line in answer_lines(dict(document)):
        lost.setdefault((line.dataset, line.clean_size), []).append(line)

    # The two objectives of a dataset and size have one control, which each of their rows bears.
    controls = {
        (row["dataset"], row["clean_size"]): row["control"]
        for row in document["tables"]["table1"]["rows"]
    }
    over_seeds = {claim["id"]: claim for claim in study["claims"]} if study else {}

    rows = []
    for head in document["headline"]["claims"]:
        cell = (head["dataset"], head["clean_size"])
        judged = over_seeds.get(head["id"])
        rows.append(
            MainRow(
                *cell,
                lost=lost.get(cell, []),
                own=CellVerdict(head["verdict"] or "not run", controls.get(cell)),
                over_seeds=judged
                and CellVerdict(
                    judged["verdict"],
                    # A main claim is about one cell, if that was run.
                    next((entry["control"] for entry in judged["evidence"]), None),
                ),
            )
        )
    return rows


def settling(document: Mapping[str, Any], found: Discussion) -> list[str]:
    """What would settle the main claims, a sentence or two each."""
    settings, needed = document["settings"], []
    if found.failed:
        lost = short(round(1 - settings["kept_share"], 6))
        needed.append(
            "A finetuning under which the control holds: one that takes the MMCL model to the cap "
            f"at a loss of at most {lost}%. Until then the main claims cannot be tested at this "
            f"scale for {_places(found.failed)}."
        )
    if found.not_run:
        needed.append(f"The runs that are missing: {_places(found.not_run)}.")
    if len(found.seeds) == 1:
        needed.append("More seeds. With one, the spread between trainings is unknown.")
    if found.verdict in ("undecided", "direction only"):
        needed.append(
            "More seeds or more evaluation images: the intervals are wider than the margin, or the "
            "seeds disagree."
        )
    if document["stand_in"]:
        needed.append(
            "The paper's data. The same graph and code run on CC3M, CC6M and ImageNet at profile "
            "paper; nothing that is measured on stand-ins can refute or bear out what is said of "
            "these."
        )
    else:
        needed.append("A repetition by others, from the files that come with this report.")
    return needed


def _places(rows: Sequence[MainRow]) -> str:
    return "; ".join(f"{label(row.dataset)}, {label(row.clean_size)}" for row in rows)


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
