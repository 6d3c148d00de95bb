"""What the article tells besides the tables of report.json: results by seed and by claim.

Documents in, lines out; every number is one of report.json, or a mean of some.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.report.format import label
from repro.report.judging.claims import RATIOS
from repro.report.pages.prepared import seed_note
from repro.report.pages.verdicts import VERDICTS, RateLine, most_seeds, own_seeds, rate_lines
from repro.report.schema.judged import Verdict

PRINTED = {
    "mmcl": "MMCL",
    "ssl": "SSL",
    "asr": "ASR",
    "cc3m": "CC3M",
    "cc6m": "CC6M",
    "200k": "200K",
}
"""How words of a claim's id are printed."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds; without a standard deviation where there is one seed."""

    mean: float
    sd: float | None


@dataclass(frozen=True, slots=True)
class SeedRow:
    """A cell of Table 1 over seeds."""

    dataset: str
    clean_size: str
    pretrain_objective: str
    start: Mean | None
    """Accuracy before cleaning."""
    by_seed: list[float | None]
    """Best accuracy at the cap; None where no model came down to it."""
    cleaned: Mean | None
    """Over the seeds that have one."""


@dataclass(frozen=True, slots=True)
class SeedTable:
    """Table 1 over several seeds."""

    study: str | None
    """Whose seeds they are; None for those of this report."""
    seeds: Sequence[int]
    rows: list[SeedRow]


@dataclass(frozen=True, slots=True)
class ClaimValues:
    """What was measured for a claim in one cell."""

    place: str
    """Empty where the claim is about this cell alone."""
    values: list[float]
    notes: list[str]
    """Of this cell, where the claim's other cells have others."""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim of the paper with its number in the article."""

    number: int
    name: str
    claim: Mapping[str, Any]
    cells: list[ClaimValues]
    notes: list[str]
    """What is to be said of every cell."""
    verdict: Verdict
    """Over the seeds of the table by seed."""
    is_ratio: bool
    """Whether its values are factors and no shares."""
    other: Verdict | None
    """By this report's own seeds, where the table has those of a study."""
    own_only: bool
    """Whether the study has no runs for it, so that this report's own are told."""


@dataclass(frozen=True, slots=True)
class EqualRow:
    """Both models after runs of one learning rate, over seeds."""

    learning_rate: float
    mmcl: Mean | None
    """ASR that is left."""
    mmcl_ssl: Mean | None
    asr: Mapping[str, Any]
    """What the MMCL + SSL model has more of, as an effect."""
    kept: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ResistanceRow:
    """How far the models of one cell resist."""

    dataset: str
    clean_size: str
    equal: list[EqualRow]
    rates: RateLine | None
    areas: list[Mapping[str, Any]]
    """Ours, then the authors': source, and what the MMCL model keeps more, as an effect."""


def seed_table(document: Mapping[str, Any]) -> SeedTable | None:
    """Table 1 over the most seeds that there are; None where that is one."""
    study = most_seeds(document)
    if study is not None:
        rows = [row for row in study["rows"] if row["variant"] == study["reference"]]
        return SeedTable(
            study["name"],
            rows[0]["seeds"],
            [_study_row(row) for row in rows if row["clean_size"]],
        )

    seeds = own_seeds(document)
    if len(seeds) < 2:
        return None
    starts = {
        (row["dataset"], row["pretrain_objective"]): row["accuracy"]["spread"]
        for row in document["tables"]["table2"]["rows"]
    }
    return SeedTable(
        None, seeds, [_own_row(row, starts) for row in document["tables"]["table1"]["rows"]]
    )


def _study_row(row: Mapping[str, Any]) -> SeedRow:
    values = row["values"]
    return SeedRow(
        dataset=row["dataset"],
        clean_size=row["clean_size"],
        pretrain_objective=row["pretrain_objective"],
        start=_mean(values["accuracy"]),
        by_seed=values["cleaned_accuracy"],
        cleaned=_mean(values["cleaned_accuracy"]),
    )


def _own_row(row: Mapping[str, Any], starts: Mapping[tuple[str, str], Any]) -> SeedRow:
    start = starts[row["dataset"], row["pretrain_objective"]]
    by_seed = [of["accuracy"] for of in row["clean_accuracy"]["by_seed"]]
    return SeedRow(
        dataset=row["dataset"],
        clean_size=row["clean_size"],
        pretrain_objective=row["pretrain_objective"],
        start=start and Mean(start["mean"], start["sd"]),
        by_seed=by_seed,
        cleaned=_mean(by_seed),
    )


def _mean(values: Sequence[float | None]) -> Mean | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Mean(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None)


def claim_rows(document: Mapping[str, Any]) -> list[ClaimRow]:
    """The paper's claims, numbered, each over the most seeds that there are."""
    study = most_seeds(document)
    over_seeds = {claim["id"]: claim for claim in study["claims"]} if study else {}
    return [
        _claim_row(
            number,
            claim,
            over_seeds.get(claim["id"], claim),
            claim["verdict"] if claim["id"] in over_seeds else None,
            own_only=bool(study) and claim["id"] not in over_seeds,
        )
        for number, claim in enumerate(document["claims"], start=1)
    ]


def own_claim_rows(document: Mapping[str, Any]) -> list[ClaimRow]:
    """Our own claims, which are over the seeds of `resistance`."""
    return [
        _claim_row(number, claim, claim, None)
        for number, claim in enumerate(document["own_claims"], start=1)
    ]


def claim_counts(rows: Sequence[ClaimRow]) -> dict[str, int]:
    """Claims by verdict, those that some have."""
    found = [row.verdict.partition(":")[0] for row in rows]
    return {verdict: found.count(verdict) for verdict in VERDICTS if verdict in found}


def _claim_row(
    number: int,
    claim: Mapping[str, Any],
    judged: Mapping[str, Any],
    other: Verdict | None,
    *,
    own_only: bool = False,
) -> ClaimRow:
    cells = judged["evidence"]
    notes = [{seed_note(item["note"]) for item in cell["by_seed"]} - {""} for cell in cells]

    # A note that all cells have is said once.
    common = set.intersection(*notes) if notes else set()
    return ClaimRow(
        number,
        _claim_name(claim["id"]),
        claim,
        [
            ClaimValues(
                _claim_place(claim, cell),
                [item["value"] for item in cell["by_seed"]],
                sorted(of_cell - common),
            )
            for cell, of_cell in zip(cells, notes, strict=True)
        ],
        sorted(common),
        judged["verdict"],
        claim["metric"] in RATIOS,
        other,
        own_only,
    )


def _claim_name(name: str) -> str:
    """The id of a claim as words."""
    words = [PRINTED.get(word, word) for word in name.split("-")]
    text = " ".join(words).replace("MMCL SSL", "MMCL + SSL")
    return text[0].upper() + text[1:]


def _claim_place(claim: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    # What all cells of a claim share goes without saying.
    parts = [cell["dataset"]] if len(claim["datasets"]) > 1 else []
    if len(claim["objectives"]) > 1 and cell["pretrain_objective"]:
        parts.append(cell["pretrain_objective"])
    return ", ".join(map(label, parts))


def resistance_rows(document: Mapping[str, Any]) -> list[ResistanceRow]:
    """A row for each dataset and cleaning size."""
    cells = document["resistance"]["cells"]
    rates = {line.place: line for line in rate_lines(document)}
    return [
        ResistanceRow(
            cell["dataset"],
            cell["clean_size"],
            [_equal_row(row) for row in cell["equal"]],
            rates.get(f"{label(cell['dataset'])}, {label(cell['clean_size'])}"),
            [{"source": of["source"], "kept": of["area"]} for of in cell["trade_offs"]],
        )
        for cell in cells
    ]


def _equal_row(row: Mapping[str, Any]) -> EqualRow:
    return EqualRow(
        row["learning_rate"],
        mmcl=_mean([end["asr"] for end in row["mmcl"]]),
        mmcl_ssl=_mean([end["asr"] for end in row["mmcl_ssl"]]),
        asr=row["asr"],
        kept=row["kept"],
    )
