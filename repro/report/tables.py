"""Every table of report and texts: a frame of words, from which HTML, LaTeX and Markdown are
written, and of some the frame of numbers behind it, which is their CSV.

Shares are fractions in numbers and percent in words. "–" stands where a row has no value.
"""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import pandas as pd

from repro.markdown import table_lines
from repro.report.comparisons import UnderCondition, first
from repro.report.format import (
    BOUNDS,
    amount,
    factor,
    interval,
    label,
    percent,
    rate,
)
from repro.report.measures import BY_NAME, MAIN, Measure
from repro.report.results import Results
from repro.report.seeds import Estimate
from repro.report.statements import JudgedHypothesis

NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table; one without rows is not shown."""

    name: str
    title: str
    """Read out by screen readers."""
    words: pd.DataFrame
    caption: str = ""
    numbers: pd.DataFrame | None = None

    @property
    def content(self) -> dict[str, Any]:
        """As it stands in report.json."""
        heads, rows = [*self.words.columns], self.words.to_numpy(str).tolist()
        parts = {"name": self.name, "title": self.title, "caption": self.caption}
        return {**parts, "heads": heads, "rows": rows}

    def markdown(self) -> str:
        """In Markdown with its caption below, in ASCII, which is read in terminals too."""
        lines = table_lines([*self.words.columns], self.words.to_numpy(str).tolist())
        if self.caption:
            lines += ["", textwrap.fill(self.caption, 110, break_on_hyphens=False)]
        return ascii_signs("\n".join(lines))


def ascii_signs(text: str) -> str:
    """The text with plain hyphens."""
    return text.translate(str.maketrans("–−", "--"))


def cell(found: Estimate | None, unit: str = "fraction", signed: bool = True) -> str:
    """A mean over seeds with its interval, in the unit of its measure; doublings as a factor."""
    if found is None:
        return NONE
    sign = BOUNDS[found.at_least, found.at_most][0]
    if unit == "doublings":
        ends = f" [{', '.join(map(factor, found.interval))}]" if found.interval else ""
        return f"{sign}{factor(found.mean)} times{ends}"
    ends = f" {interval(found.interval, unit)}" if found.interval else ""
    return f"{sign}{amount(found.mean, unit, signed)}{ends}"


def fewer_seeds(found: Estimate, seeds: int) -> str:
    """Over how many seeds an estimate is, where not over all of its row."""
    return f", {found.seeds} seeds" if found.seeds < seeds else ""


def deviation(found: Estimate) -> float:
    """The standard deviation over seeds."""
    return stdev(found.by_seed.values())


HEADS = {
    "asr_left_at_rate": "ASR left at one rate (points)",
    "rate_doublings": "Learning rate that cleans",
    "lost_at_cap": "Share of accuracy lost (points)",
    "accuracy_at_cap": "Accuracy when cleaned (points)",
}
"""Columns of the conditions."""


def conditions(results: Results, short: bool = False) -> Table:
    """The difference under every condition, or under those that README.md shows."""
    rows = []
    for of in results.conditions.values():
        if short and not of.condition.short:
            continue
        row = {"Comparison": condition_words(of)}
        if not short:
            row["Setting"] = of.settings
        row["Seeds"] = str(of.seeds)
        for measure in MAIN:
            found = of.differences.get(measure)
            more = fewer_seeds(found, of.seeds) if found else ""
            row[HEADS[measure]] = cell(found, BY_NAME[measure].unit) + more
        if not short:
            row["Best model at the lowest or highest rate tried (seeds)"] = "; ".join(of.edges)
        rows.append(row)
    return Table(
        "short" if short else "conditions",
        "The difference under each condition",
        pd.DataFrame(rows, dtype=str),
        "MMCL + SSL less MMCL, mean with 95% interval. For the learning rate it is the factor. "
        "≥ is a lower bound: the lowest rate tried cleans some models already, or the highest does "
        "not. ≈ has bounds of both kinds.",
    )


def condition_words(of: UnderCondition) -> str:
    """A condition, with what a reader has to know of it."""
    weak = ", with a weak backdoor" if of.weak else ""
    at = f", ASR left at {rate(of.condition.rate)}" if of.condition.rate is not None else ""
    exploratory = " (exploratory)" if of.condition.exploratory else ""
    return f"{of.condition.says}{weak}{at}{exploratory}"


def digits(found: Estimate | None, unit: str = "fraction") -> str:
    """A difference with one decimal and its interval; of shares in points."""
    if found is None:
        return NONE
    scale = 100 if unit == "fraction" else 1
    told = ""
    if found.interval:
        low, high = found.interval
        told = f" [{scale * low:.1f}, {scale * high:.1f}]"
    return f"{BOUNDS[found.at_least, found.at_most][1]}{scale * found.mean:+.1f}{told}"


def in_points(measure: Measure) -> str:
    """A measure with the unit of its differences."""
    return f"{measure.title} ({'points' if measure.unit == 'fraction' else measure.unit})"


def by_measure(results: Results) -> Table:
    """The differences by measure, a column a setting, against the first comparator."""
    leading = results.verdicts.leading
    main = leading[0].of.comparator if leading else ""
    own = [of for of in leading if of.of.comparator == main]
    seeds = max((of.difference.seeds for of in own), default=0)
    weak = {of.words for of in own if of.of.setting and of.of.weak}
    rows: dict[str, dict[str, str]] = {}
    for of in own:
        row = rows.setdefault(of.measure.name, {"measure": in_points(of.measure)})
        mark = " (weak backdoor)" if of.words in weak else ""
        head = f"{of.words}{mark}" if of.of.setting else "mean of the settings"
        more = fewer_seeds(of.difference, seeds)
        row[head] = f"{digits(of.difference, of.measure.unit)}{more}: {of.verdict}"
    return Table("verdicts", "Verdicts", frame(rows.values()))


def frame(rows: Iterable[dict[str, str]]) -> pd.DataFrame:
    """Rows of words; what a row has no words for is NONE."""
    return pd.DataFrame([*rows]).fillna(NONE)


def twins(results: Results) -> Table:
    """What cleaning costs beyond what it costs never-poisoned models."""
    rows = []
    for of in first(results.verdicts.leading, "lost_at_cap"):
        for objective, control in of.of.controls.items():
            if control.loss and control.twin:
                lost = control.loss
                ends = f" [{', '.join(map(percent, lost.interval))}]" if lost.interval else ""
                rows.append(
                    {
                        "model": f"{of.words}, {label(objective)}",
                        "share lost": percent(lost.mean) + ends,
                        "more than its twin": digits(control.twin),
                    }
                )
    return Table("twins", "Twins", frame(rows))


def hypothesis_means(name: str, rows: Sequence[JudgedHypothesis], means: bool) -> Table:
    """Hypotheses on the ASR left, with the means that they compare."""
    words = []
    for of in rows:
        row = {"hypothesis": of.hypothesis.says}
        if means:
            row["ASR left"] = " and ".join(map(percent, of.means.values())) or NONE
        row["difference in ASR left (points)"] = digits(of.sum)
        row["verdict"] = of.verdict
        words.append(row)
    return Table(name, f"Hypotheses of study {name}", frame(words))


EXPLAINING = ("whose_view", "par", "confirm")
"""Studies of whose hypotheses the means are told that they compare."""


def written(results: Results) -> dict[str, Table]:
    """The tables that a text may place, by name."""
    judged = results.hypotheses
    made = [
        conditions(results),
        conditions(results, short=True),
        by_measure(results),
        twins(results),
        hypothesis_means("mechanism", judged.get("mechanism", []), means=False),
        *(hypothesis_means(name, judged.get(name, []), means=True) for name in EXPLAINING),
    ]
    return {table.name: table for table in made if len(table.words)}
