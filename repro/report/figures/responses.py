"""What studies measured over a number that they vary."""

from functools import partial

from matplotlib.axes import Axes

from repro.report.figures.style import (
    OBJECTIVE_COLOURS,
    Drawing,
    Panel,
    Points,
    log_axis,
    percent_axis,
    setting,
)
from repro.report.format import label, rate
from repro.report.reading import Document, Entry

TITLES = {
    "accuracy": "accuracy before cleaning (%)",
    "asr": "ASR before cleaning (%)",
    "asr_left": "ASR left (%)",
    "lost": "accuracy lost (% of start)",
}
LOG_SPAN = 20
"""Ratio of the largest to the smallest positive number from which on an axis is logarithmic."""
LOWEST_LOSS = -0.3
"""Where the axis of accuracy lost is cut; a gain of accuracy is a negative loss."""


def response_panels(measures: tuple[str, str], document: Document, _points: Points) -> list[Panel]:
    """Two measures over the number that a study varies: of cleaning, or of models before it."""
    return [
        partial(_response, entry, measure)
        for entry in document["responses"]
        if bool(entry["clean_size"]) == ("asr_left" in measures)
        for measure in measures
    ]


def _response(entry: Entry, measure: str, ax: Axes) -> None:
    numbers: set[float] = set()
    for objective, points in entry["curves"].items():
        colour = OBJECTIVE_COLOURS[objective]
        means = {}
        for point in points:
            number = point["number"]
            values = point["measures"].get(measure)
            if not values:
                continue
            means[number] = values["mean"]
            known = [value for value in values["values"] if value is not None]
            ax.scatter([number] * len(known), known, s=11, color=colour, alpha=0.8, lw=0)
            if values["ci"]:
                ax.vlines(number, *values["ci"], color=colour, lw=1, alpha=0.6)
        if means:
            ax.plot(list(means), list(means.values()), color=colour, lw=2, label=label(objective))
        numbers |= means.keys()

    _number_axis(ax, sorted(numbers))
    where = setting(entry) if entry["clean_size"] else label(entry["dataset"])
    ax.set_title(f"{entry['axis'].partition(' (')[0]}\n({where})")
    ax.set(xlabel=entry["axis"][:1].lower() + entry["axis"][1:], ylabel=TITLES[measure])
    if measure == "lost":
        # A model that has hardly learnt anything gains several times its accuracy by cleaning.
        lowest, _ = ax.get_ylim()
        ax.set(ylim=(max(lowest, LOWEST_LOSS), 1.05))
    else:
        ax.set(ylim=(-0.02, None))
    percent_axis(ax.yaxis)


def _number_axis(ax: Axes, ticks: list[float]) -> None:
    """A logarithmic axis where the numbers span so much."""
    smallest = next((number for number in ticks if number > 0), 0)
    if not smallest or ticks[-1] < LOG_SPAN * smallest:
        return
    if ticks[0] > 0:
        log_axis(ax, ticks, rotation=25)
    else:
        # A study may include nought, which a logarithmic axis does not have.
        ax.set_xscale("symlog", linthresh=smallest)
        ax.set_xticks(ticks, [rate(number) for number in ticks])


RESPONSES = Drawing(
    "responses",
    "studies.html",
    "The panels show what CleanCLIP leaves over the number that a study varies. Dots are seeds, "
    "lines means, bars 95% intervals. ASR left is that at the end of runs of one learning rate; "
    "accuracy lost is that at the highest rate where no rate reached the threshold, and its axis "
    "is cut at gains of 30%.",
    partial(response_panels, ("asr_left", "lost")),
)
ATTACK = Drawing(
    "attack",
    "studies.html",
    "The panels show ASR and accuracy before cleaning over the number that a study varies.",
    partial(response_panels, ("asr", "accuracy")),
)
