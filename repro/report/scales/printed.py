"""Settings and scales in words, the same on the page, in the PDF and in README.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from repro.report.format import label, percent, rate, short, worded
from repro.report.judging.claims import Claims
from repro.report.scales.ladder import larger_scale

LISTED_RATES = 5
"""Learning rates that are listed; of more the ends and the number are told."""


LADDER_HEADS = (
    "scale",
    "pairs",
    "poisoned (%)",
    "patch, of the image (%)",
    "cleaning pairs (%)",
    "MMCL at the start, accuracy / ASR (%)",
    "MMCL + SSL at the start",
    "positive control",
    "the objective decides",
    "resistance",
)
"""Columns of the ladder of scales."""
PAIRS = "pairs"
"""The setting that says how many pairs were asked for."""
SLOT = "CC6M"
"""Whose pairs the ladder has."""
NONE = "-"
NO_RESULTS = "no results yet"


@dataclass(frozen=True, slots=True)
class SettingLine:
    """A row of the settings table."""

    setting: str
    paper: str
    here: str
    source: str


@dataclass(frozen=True, slots=True)
class LadderTable:
    """The ladder of scales, a row a scale; the first cell of a row names the scale."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def columns(self) -> list[tuple[str, ...]]:
        """The table turned over, a row for each head, for a narrow page."""
        return list(zip(self.heads, *self.rows, strict=True))


class LargerScale(NamedTuple):
    """What was done at the next larger scale, and what came out."""

    name: str
    study: str
    """The study that its results are of."""
    cells: list[tuple[str, str]]
    """Head and text of each cell of its row in the ladder of scales."""


def ladder_table(document: Mapping[str, Any]) -> LadderTable:
    """The ladder of scales in words; results are those of CC6M."""
    used = used_pairs(document)
    return LadderTable(
        LADDER_HEADS,
        [
            _scale_cells(row, used.get(SLOT) if row["scale"] == document["profile"] else None)
            for row in document["ladder"]
        ],
    )


def larger_in_words(name: str, claims: Claims, root: Path) -> LargerScale | None:
    """The scale `midi` as its archive tells it, for results of another profile; None without."""
    row = larger_scale(name, claims, root)
    if row is None:
        return None
    cells = list(zip(LADDER_HEADS, _scale_cells(row), strict=True))
    return LargerScale(cells[0][1], row["scale"], cells[1:])


def used_pairs(document: Mapping[str, Any]) -> dict[str, int]:
    """Pairs that there were of those asked for, by dataset as printed; none where the data's
    accounting is not here.
    """
    used = document["context"]["accounting"].get("data", {}).get("used")
    if not isinstance(used, dict):
        return {}
    return {label(name): count for name, count in used.items() if isinstance(count, int)}


def _scale_cells(row: Mapping[str, Any], used: int | None = None) -> list[str]:
    """A row of the ladder in words, a cell for each of LADDER_HEADS; `used` of the pairs that were
    asked for.
    """
    cells = [
        _scale_name(row),
        _value(row["pairs"]) + _used_words(row["pairs"], used),
        share_words(row["poisoned"]),
        NONE if row["patch"] is None else share_words(row["patch"]),
        "; ".join(
            f"{label(of['clean_size'])}: {share_words(of['share'])}" for of in row["cleaning"]
        ),
    ]
    if row["source"] is None:
        return [*cells, NO_RESULTS, *[NONE] * (len(LADDER_HEADS) - len(cells) - 1)]
    return [
        *cells,
        _start_words(row, "mmcl"),
        _start_words(row, "mmcl_ssl"),
        "; ".join(_control_words(of, row["asr_cap"]) for of in row["controls"]),
        _verdict_words(row),
        "; ".join(map(_resistance_words, row["resistance"])) or NONE,
    ]


def _scale_name(row: Mapping[str, Any]) -> str:
    """The scale, with whose results and seeds these are."""
    told = ["stand-in data"] if row["stand_in"] else []
    if row["source"] == "printed":
        told.append("its own numbers")
    if row["seeds"]:
        several = "s" if len(row["seeds"]) > 1 else ""
        told.append(f"seed{several} {', '.join(map(str, row['seeds']))}")
    return f"{row['scale']} ({'; '.join(told)})" if told else row["scale"]


def _start_words(row: Mapping[str, Any], objective: str) -> str:
    for start in row["starts"]:
        if start["pretrain_objective"] == objective:
            return f"{percent(start['accuracy'], 1)} / {percent(start['asr'], 1)}"
    return NONE


def _control_words(control: Mapping[str, Any], cap: float) -> str:
    """Whether CleanCLIP cleaned the MMCL model, with the share of the accuracy lost and the ASR."""
    size = label(control["clean_size"])
    if control["holds"] is None:
        return f"{size} not run"
    asr = f"at most {short(cap)}%" if control["asr"] is None else f"{100 * control['asr']:.1f}%"
    said = "holds" if control["holds"] else "fails"
    return f"{size} {said}: {100 * control['loss']:.1f}% lost, ASR {asr}"


def _verdict_words(row: Mapping[str, Any]) -> str:
    """The verdicts on the main claims, as one where they are the same."""
    if row["source"] == "printed":
        return "claimed"
    verdicts = [worded(claim["verdict"], row["stand_in"]) for claim in row["claims"]]
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "; ".join(
        f"{label(claim['dataset'])}, {label(claim['clean_size'])}: {verdict}"
        for claim, verdict in zip(row["claims"], verdicts, strict=True)
    )


def _resistance_words(found: Mapping[str, Any]) -> str:
    """Points of accuracy that the MMCL model keeps more, with the interval over seeds."""
    area = found["area"]
    ends = "" if area["ci"] is None else " [{:.1f}, {:.1f}]".format(*(100 * e for e in area["ci"]))
    return f"{label(found['clean_size'])}: {100 * area['value']:.1f}{ends}"


def setting_lines(document: Mapping[str, Any]) -> list[SettingLine]:
    """The settings table, a line a setting."""
    used = used_pairs(document)
    return [
        SettingLine(
            row["setting"],
            setting_words(row["paper"]),
            setting_words(row["here"], used if row["setting"] == PAIRS else None),
            row["source"],
        )
        for row in document["settings_table"]
    ]


def setting_words(
    values: Sequence[Mapping[str, Any]], used: Mapping[str, int] | None = None
) -> str:
    """The values of a setting, each after what has it; `used`: what there was of a value."""
    there = used or {}
    return "; ".join(
        f"{' and '.join(entry['of'])}: {_value(entry['value'])}"
        + _used_words(entry["value"], there.get(entry["of"][0]))
        if entry["of"]
        else _value(entry["value"])
        for entry in values
    )


def _used_words(asked: object, used: int | None) -> str:
    """What was used of a number, where that is another one."""
    return "" if used is None or used == asked else f" ({used:,} of them used)"


def share_words(fraction: float) -> str:
    """A fraction in percent with one decimal; with two digits where it is less than 1%."""
    # The paper's share of poisoned pairs, 0.05%, would be 0.1% with one decimal.
    return f"{100 * fraction:.2g}" if 0 < fraction < 0.01 else percent(fraction, digits=1)


def _value(value: str | float | Sequence[float]) -> str:
    match value:
        case str():
            return value
        case int():
            return f"{value:,}"
        case float():
            return share_words(value)
    if len(value) <= LISTED_RATES:
        return ", ".join(map(rate, value))
    return f"{len(value)} from {rate(value[0])} to {rate(value[-1])}"
