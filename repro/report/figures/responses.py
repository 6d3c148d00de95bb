"""What studies measured over a number that they vary, and the mechanism behind it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from repro.report.figures.style import (
    OBJECTIVE_COLOURS,
    Document,
    Drawing,
    Panel,
    Points,
    percent_axis,
    rate_axis,
    setting,
)
from repro.report.format import label, rate

TITLES = {
    "accuracy": "accuracy before cleaning (%)",
    "asr": "ASR before cleaning (%)",
    "asr_left": "ASR left (%)",
    "lost": "accuracy lost (% of start)",
}
LOG_SPAN = 20
"""Ratio of the largest to the smallest positive number from which on an axis is logarithmic."""

LOSS_TICKS = (0.1, 0.2, 0.5, 1, 2, 5)
LOWEST_LOSS = -0.3
"""Where the axis of accuracy lost is cut; a gain of accuracy is a negative loss."""


def response_panels(document: Document, _points: Points) -> list[Panel]:
    """ASR left and accuracy lost over the number that a study of cleaning varies."""
    return [
        partial(_response, entry, measure)
        for entry in document["responses"]
        if entry["clean_size"]
        for measure in ("asr_left", "lost")
    ]


def attack_panels(document: Document, _points: Points) -> list[Panel]:
    """ASR and accuracy before cleaning over the number that a study of pre-training varies."""
    return [
        partial(_response, entry, measure)
        for entry in document["responses"]
        if not entry["clean_size"]
        for measure in ("asr", "accuracy")
    ]


def _response(entry: Mapping[str, Any], measure: str, ax: Axes) -> None:
    numbers: list[float] = []
    for curve in entry["curves"]:
        objective = curve["pretrain_objective"]
        colour = OBJECTIVE_COLOURS[objective]
        points = [point for point in curve["points"] if point["measures"].get(measure)]
        found = [(point["number"], point["measures"][measure]) for point in points]
        if not found:
            continue
        numbers += [number for number, _ in found]
        for number, values in found:
            known = [value for value in values["values"] if value is not None]
            ax.scatter([number] * len(known), known, s=11, color=colour, alpha=0.45, linewidth=0)
            if values["ci"] is not None:
                ax.vlines(number, *values["ci"], color=colour, lw=1, alpha=0.6)
        means = [values["mean"] for _, values in found]
        ax.plot([number for number, _ in found], means, color=colour, lw=2, label=label(objective))
    positive = [number for number in numbers if number > 0]
    if positive and max(positive) >= LOG_SPAN * min(positive):
        # A study may include nought, which a logarithmic axis does not have.
        if min(numbers) > 0:
            rate_axis(ax, sorted(set(numbers)))
        else:
            ax.set_xscale("symlog", linthresh=min(positive))
            ticks = sorted(set(numbers))
            ax.set_xticks(ticks, [rate(number) for number in ticks])
    ax.set_title(setting(entry) if entry["clean_size"] else label(entry["dataset"]))
    ax.set_xlabel(entry["axis"][:1].lower() + entry["axis"][1:])
    ax.set_ylabel(TITLES[measure])
    if measure == "lost":
        # A model that has hardly learnt anything gains several times its accuracy by cleaning.
        low = ax.get_ylim()[0]
        ax.set_ylim(max(low, LOWEST_LOSS), 1.05)
    else:
        ax.set_ylim(-0.02, None)
    percent_axis(ax.yaxis)


def mechanism_panels(document: Document, _points: Points) -> list[Panel]:
    """ASR left over the SSL loss at the start of cleaning: a panel a setting, a dot a model."""
    settings: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for model in document["mechanism"]["models"]:
        settings.setdefault((model["dataset"], model["clean_size"]), []).append(model)
    return [partial(_mechanism, settings[key]) for key in sorted(settings)]


def _mechanism(models: list[Mapping[str, Any]], ax: Axes) -> None:
    for objective, colour in OBJECTIVE_COLOURS.items():
        dots = [model for model in models if model["pretrain_objective"] == objective]
        ax.scatter(
            [model["loss_ssl"] for model in dots],
            [model["asr_left"] for model in dots],
            s=16,
            color=colour,
            alpha=0.7,
            linewidth=0,
            label=f"pre-trained with {label(objective)}",
        )
    ax.set_title(setting(models[0]))
    losses = [model["loss_ssl"] for model in models]
    ax.set(xlabel="SSL loss when cleaning begins", ylabel="ASR left (%)", xscale="log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks([tick for tick in LOSS_TICKS if min(losses) / 2 <= tick <= 2 * max(losses)])
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_ylim(-0.02, 1.03)
    percent_axis(ax.yaxis)


RESPONSES = Drawing(
    "responses",
    "studies.html",
    "What CleanCLIP leaves over the number that a study varies: dots are seeds, lines means, bars "
    "95% intervals. ASR left is that at the end of runs of one learning rate; accuracy lost is "
    "that at the highest rate where no rate reached the threshold, and its axis is cut at gains of "
    "30%.",
    response_panels,
)
ATTACK = Drawing(
    "attack",
    "studies.html",
    "When the attack takes: ASR and accuracy before cleaning over the number that a study varies.",
    attack_panels,
)
MECHANISM = Drawing(
    "mechanism",
    "mechanism.html",
    "The SSL loss in the first epochs of CleanCLIP against the ASR that is left after it, at one "
    "learning rate; a dot a model of any study. Where the loss is low, cleaning has little to do.",
    mechanism_panels,
    columns=3,
)
