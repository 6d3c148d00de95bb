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
from repro.report.comparisons import SHOWN, UnderCondition, first
from repro.report.format import (
    BOUNDS,
    amount,
    factor,
    interval,
    label,
    level,
    percent,
    rate,
)
from repro.report.measures import BY_NAME, Measure, Models
from repro.report.results import Results
from repro.report.seeds import Estimate, Term, contrast, estimate, seeds_of
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


def listed(items: Iterable[str]) -> str:
    """The items with commas, and "and" before the last."""
    *before, last = items
    return f"{', '.join(before)} and {last}" if before else last


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


def share_cell(found: Estimate | None) -> str:
    """The mean of a share, whose interval ends at 0 and 1."""
    if found is None:
        return NONE
    if found.interval is None:
        return percent(found.mean)
    low, high = found.interval
    return f"{percent(found.mean)} {interval((max(low, 0), min(high, 1)), 'fraction')}"


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
        for measure in SHOWN:
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
        "MMCL + SSL less MMCL, mean with 95% interval; for the learning rate the factor. "
        "≥ is a lower bound: the learning rates tried end too early; ≈ has bounds of both kinds.",
    )


def condition_words(of: UnderCondition) -> str:
    """A condition, with what a reader has to know of it."""
    weak = ", with a weak backdoor" if of.weak else ""
    at = f", ASR left at {rate(of.condition.rate)}" if of.condition.rate is not None else ""
    exploratory = " (exploratory)" if of.condition.exploratory else ""
    return f"{of.condition.says}{weak}{at}{exploratory}"


def level_words(found: Estimate, unit: str) -> str:
    """The value of the models of one objective."""
    return BOUNDS[found.at_least, found.at_most][0] + level(found.mean, unit)


def by_measure_and_setting(results: Results) -> Table:
    """The verdicts by three measures against the first comparator, as README.md has them."""
    measures = ("asr_left_at_rate", "lost_at_cap", "accuracy_at_cap")
    several = len(results.verdicts.seeds)
    rows = []
    for of in first(results.verdicts.leading):
        if of.measure.name not in measures:
            continue
        unit, count = of.measure.unit, of.difference.seeds
        fewer = f"; {count} seeds" if count < several else ""
        said = f"{cell(of.difference, unit)}, {'; '.join([of.verdict, *of.marks])}"
        rows.append(
            {
                "measure and setting": f"{of.measure.title}; {of.words}{fewer}",
                "MMCL": level_words(of.mmcl, unit),
                "MMCL + SSL": level_words(of.mmcl_ssl, unit),
                "difference, verdict": said,
            }
        )
    return Table("readme", "Verdicts", pd.DataFrame(rows, dtype=str))


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


def defences(results: Results) -> Table:
    """The differences by measure, a column a defence."""
    listed_ones = [of.condition for of in results.conditions.values() if of.condition.defence]
    rules = results.claims.rules
    rows: dict[str, dict[str, str]] = {}
    for condition in listed_ones:
        [place] = condition.settings
        terms = {
            "mmcl": Term(Models((condition.mmcl,), "mmcl", *place), -1.0),
            "mmcl_ssl": Term(Models((condition.mmcl_ssl,), "mmcl_ssl", *place), 1.0),
        }
        found = contrast(results.values, terms)
        by_seed = {name: seeds_of(found, name) for name in rules.measures}
        seeds = max(map(len, by_seed.values()))
        for name, of in by_seed.items():
            measure = BY_NAME[name]
            row = rows.setdefault(name, {"measure": in_points(measure)})
            if len(of):
                known = estimate(of, rules.level)
                row[condition.says] = digits(known, measure.unit) + fewer_seeds(known, seeds)
    return Table("defences", "Defences", frame(rows.values()))


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


def hypotheses(name: str, rows: Sequence[JudgedHypothesis]) -> Table:
    """The hypotheses of a study and what its seeds say of them."""
    words = [
        {
            "Hypothesis": of.hypothesis.says,
            "Expected": {"above": "higher", "below": "lower"}[of.hypothesis.expect],
            "Contrast": contrast_words(of),
            "p": NONE if of.p is None else f"{of.p:.2g}",
            "Verdict": of.verdict
            + (f" {of.seeds_needed} seeds would tell" if of.seeds_needed else ""),
        }
        for of in rows
    ]
    return Table(
        f"hypotheses-{name}",
        f"Hypotheses of study {name}",
        frame(words),
        "Hypotheses, written down before the first run of the study. Contrasts in points, or as a "
        "factor of the learning rate, with 95% intervals; a bound counts as a value. p is after "
        "Holm's correction. With as many seeds as stand beside an undecided one, of an equal "
        "spread, four in five studies would find the smallest difference that counts.",
    )


def contrast_words(of: JudgedHypothesis) -> str:
    """The sum, and of which two means it is the difference."""
    if of.sum is None:
        return NONE
    unit = BY_NAME[of.hypothesis.measure].unit
    words = cell(of.sum, unit)
    if unit == "fraction" and [*of.hypothesis.contrast.values()] == [1, -1]:
        words += ", " + " less ".join(map(percent, of.means.values()))
    return words


def axes(results: Results) -> Table:
    """The ASR left over the numbers in which variants of a study differ."""
    rows = []
    for study in results.studies:
        spec = study.spec
        for axis in spec.axes if "clean" in spec.stages else ():
            [dataset], [size] = spec.datasets, spec.clean_sizes
            numbers = sorted(axis.numbers.items(), key=lambda item: item[1])
            for place, (variant, number) in enumerate(numbers):
                row = {"what varies": "" if place else axis.name, "number": rate(number)}
                for objective in ("mmcl", "mmcl_ssl"):
                    models = Models((f"{study.name}/{variant}",), objective, dataset, size)
                    of = contrast(results.values, {objective: Term(models, 1.0)})
                    by_seed = seeds_of(of, "asr_left_at_rate")
                    row[label(objective)] = share_cell(estimate(by_seed)) if len(by_seed) else NONE
                rows.append(row)
    return Table("axes", "What varies", frame(rows))


EXPLAINING = ("whose_view", "par", "confirm", "reversal")
"""Studies of whose hypotheses the means are told that they compare."""
ELSEWHERE = ("scenes", "vit")
"""Studies with hypotheses about several measures."""


def written(results: Results) -> dict[str, Table]:
    """The tables that a text may place, by name."""
    judged = results.hypotheses
    made = [
        conditions(results),
        conditions(results, short=True),
        by_measure_and_setting(results),
        by_measure(results),
        defences(results),
        twins(results),
        axes(results),
        hypothesis_means("mechanism", judged.get("mechanism", []), means=False),
        *(hypothesis_means(name, judged.get(name, []), means=True) for name in EXPLAINING),
    ]
    made.append(hypotheses("draws", judged.get("draws", [])))
    for name in ELSEWHERE:
        of = hypotheses(name, judged.get(name, []))
        if len(of.words):
            made.append(Table(name, of.title, of.words[["Hypothesis", "Contrast", "Verdict"]]))
    return {table.name: table for table in made if len(table.words)}
