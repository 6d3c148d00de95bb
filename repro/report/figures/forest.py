"""The verdicts over seeds as a forest plot: a panel a measure, a row a setting and comparator."""

from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from repro.report.figures.style import (
    BLACK,
    OBJECTIVE_COLOURS,
    PAPER_COLOUR,
    Drawing,
    Panel,
    Points,
    finding_title,
    percent_axis,
)
from repro.report.format import bounds, factor, label
from repro.report.measures import MAIN
from repro.report.reading import (
    Document,
    Entry,
    Judged,
    judged,
    secondary,
    setting_words,
    verdicts_of,
)


def forest_panels(document: Document, _points: Points) -> list[Panel]:
    """One panel a measure of those that the conditions are told by."""
    verdicts = verdicts_of(document)
    return [
        partial(_panel, measure, secondary(document))
        for measure in (verdicts.measures if verdicts else ())
        if measure["measure"] in MAIN
    ]


def _panel(measure: Entry, beside: list[Judged], ax: Axes) -> None:
    own = judged([measure])
    rows = [of for of in own if of.cell["dataset"]]
    rows.sort(key=lambda of: setting_words(of.cell))
    for of in beside:
        if of.measure["measure"] == measure["measure"] and of.cell["dataset"]:
            rows.append(of)
    rows += [of for of in own if not of.cell["dataset"]]
    doublings = measure["unit"] == "doublings"
    ax.axvline(0, color=BLACK, lw=0.8)
    for place, row in enumerate(rows):
        _row(row, -place, doublings, ax)
    names = [
        f"{setting_words(of.cell)}, {label(of.comparison)}" if of.comparison else of.setting
        for of in rows
    ]
    ax.set_yticks([-place for place in range(len(rows))], names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(0.6 - len(rows), 0.6)
    ax.spines["left"].set_visible(False)
    finding_title(ax, f"{measure['title']}\n{measure['verdict']}")
    if doublings:
        ax.set_xlabel("MMCL + SSL over MMCL (times)")
        low, high = (round(end) for end in ax.get_xlim())
        whole = range(min(0, low), high + 1)
        ax.set_xticks([*whole], [f"{2.0**tick:g}" for tick in whole])
    else:
        ax.set_xlabel("MMCL + SSL less MMCL (points)")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        percent_axis(ax.xaxis)


def _row(row: Judged, place: int, doublings: bool, ax: Axes) -> None:
    """A mean with its interval, the paper's value beside it and the digits behind it."""
    found = row.cell["difference"]
    pooled = row.cell["dataset"] is None
    colour = BLACK if pooled else OBJECTIVE_COLOURS["mmcl_ssl"]
    main = not row.comparison and row.cell["comparator"] == row.first
    if found["interval"]:
        ax.hlines(place, *found["interval"], color=colour, lw=1.6)
    paper = (row.measure["paper"] or {}).get(row.cell["dataset"])
    if paper is not None and not row.comparison:
        ax.plot(paper, place, "|", color=PAPER_COLOUR, ms=11, mew=2, label="the paper")
    ax.plot(
        found["mean"],
        place,
        "D" if pooled else "o",
        color=colour,
        ms=6 if pooled else 5,
        mfc=colour if main else "none",
    )
    value = factor(found["mean"]) if doublings else f"{100 * found['mean']:+.1f}"
    ax.annotate(
        bounds(found) + value.replace("-", "−"),
        (1.02, place),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8,
        color=colour,
    )


FOREST = Drawing(
    "forest",
    "index.html",
    "Differences of MMCL + SSL less MMCL: means over seeds with 95% intervals. Filled dots are "
    "against the profile's MMCL models, open ones against other comparators, diamonds the mean of "
    "the settings. Grey ticks are the paper's values; those of the learning rate are inferred from "
    "the order of its authors' points.",
    forest_panels,
    columns=2,
    height=3.1,
    width=4.2,
)
