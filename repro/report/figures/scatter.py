"""Figures 1-3, and what each figure shows; documents in, figures out, no file access and no
statistics.

Figures 1-3 are the paper's scatter plots: x = ASR, y = zero-shot top-1, a panel per pre-trained
model, colour and shape per finetuning loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.report.figures.drawing import (
    BLACK,
    COLOURS,
    MARKERS,
    START,
    SUCCESS,
    WIDTH,
    Key,
    cap_line,
    faced,
    legend_above,
    panel_of,
    percent_axes,
)
from repro.report.format import label, short
from repro.report.numbers.cells import LOSSES

CAPTIONS = {
    "figure1": "Figure 1. Accuracy and ASR during finetuning of the CC3M models.",
    "figure2": "Figure 2. The same for the CC6M models.",
    "figure3": "Figure 3. 100K against 200K cleaning pairs for the CC6M model of MMCL + SSL "
    "(above), and our control for MMCL (below).",
    "sweep": "How the result depends on the cap: best accuracy after CleanCLIP, as a share of the "
    "start, among evaluations with at most the ASR on the x axis.",
    "budgets": "What the search buys: median best accuracy at the cap after trying n learning "
    "rates, with a simultaneous band. There is no line where the median try cleans nothing, and no "
    "band where it would span all values. The grid's rates count as random draws.",
    "resistance": "How far models resist CleanCLIP (ours, not the paper's). Left: ASR at the end "
    "of runs of equal rate and steps, a dot a seed, lines through the means, diamonds where a seed "
    "crosses the cap. Right: best accuracy for an ASR that one allows, mean over seeds.",
    "trajectories": "Accuracy and ASR over epochs: pre-training, and CleanCLIP with 100K pairs by "
    "learning rate (blue: smallest, orange: largest).",
    "responses": "What cleaning leaves over a number that a study varies: a dot a seed, a line "
    "through the means, and their intervals. ASR left is that at the end of runs with the lowest "
    "learning rate that cleans the MMCL models on average; accuracy lost is 100% where no rate "
    "reached the cap.",
    "attack": "When the attack does not take: ASR and accuracy before cleaning over what a study "
    "of pre-training varies; a dot a seed, a line through the means, and their intervals.",
    "matched": "Is it the objective, or only that its models are better? ASR left and "
    "accuracy lost against the accuracy before cleaning, a dot a model of the studies that vary a "
    "number; of each seed a line joins the MMCL + SSL model to the MMCL model that was nearest in "
    "accuracy.",
}
"""What each figure shows; the paper's own come first."""
SIGNIFICANT = 0.10
"""Share of accuracy lost that the claims file calls significant."""
FEWEST_RATES = 5
"""Learning rates from which on a curve over their number says something."""
FAINTEST = 0.15
"""How far the mark of the last of several seeds is filled."""


def captions(document: Mapping[str, Any]) -> dict[str, str]:
    """The figures that a document has, and what each shows."""
    # A figure without anything to draw is left out.
    empty = {
        "budgets": not searched(document),
        "responses": not cleaned_responses(document),
        "attack": not attack_responses(document),
        "matched": not document["equal_starts"],
        "resistance": not document["resistance"]["cells"],
    }
    return {name: text for name, text in CAPTIONS.items() if not empty.get(name)}


def cleaned_responses(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What studies that clean measured over a number."""
    return [entry for entry in document["responses"] if entry["clean_size"]]


def attack_responses(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What studies that only pre-train measured over a number."""
    return [entry for entry in document["responses"] if not entry["clean_size"]]


def searched(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Cells in which enough learning rates were tried to ask what trying more of them buys."""
    curves = document["statistics"]["best_of_n"]
    return [row for row in curves if len(row["scores"]) >= FEWEST_RATES]


def height(document: Mapping[str, Any], entry: Mapping[str, Any]) -> float | None:
    """Where a point lies in Figures 1-3: its accuracy, on stand-in data as a share of the start's.

    None where no start is known.
    """
    # Shares can be compared with the paper's, accuracies on other data cannot.
    value: float | None = entry["kept"] if document["stand_in"] else entry["accuracy"]
    return value


def scatter(document: Mapping[str, Any], name: str) -> Figure:
    """Figure 1, 2 or 3."""
    shown = document["figures"][name]
    panels = shown["panels"]

    # Two panels a row; Figure 3 has two rows, which are made lower to fit one page.
    rows = -(-len(panels) // 2)
    tall = (3.0 if rows == 1 else 2.35) * rows + 0.65
    figure = Figure(figsize=(2 * WIDTH, tall), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)

    for index, (panel, ax) in enumerate(zip(panels, axes.flat, strict=True)):
        # The id of a panel is the figure's name and a number, by which the page finds its marks.
        points = [point for point in shown["points"] if _is_of(panel, point)]
        _panel(ax, f"{name}-{index}", panel, points, document)

    # One scale for all panels; ASR from 0 to 1, with room for marks on the frame.
    top = _highest(document, shown)
    axes[0, 0].set(xlim=(-0.04, 1.04), ylim=(-0.05 * top, 1.12 * top))
    percent_axes(axes)

    # The paper's data and stand-ins must not be taken for one another where a figure is cut out.
    stand_in = ", reproduced on stand-in data" if document["stand_in"] else ""
    figure.supxlabel(f"Attack success rate (%){stand_in}", fontsize=9)
    accuracy = "Accuracy (% of start)" if document["stand_in"] else "Zero-shot top-1 accuracy (%)"
    figure.supylabel(accuracy, fontsize=9)
    legend_above(figure, scatter_keys(document, name))
    return figure


def hardly_any(document: Mapping[str, Any]) -> float:
    """Share of the start accuracy whose loss counts as hardly any: what may go where
    `kept_share` of specs/claims.yaml is to stay.
    """
    lost: float = 1 - document["settings"]["kept_share"]
    return lost


def _panel(
    ax: Axes,
    gid: str,
    panel: Mapping[str, Any],
    points: Sequence[Mapping[str, Any]],
    document: Mapping[str, Any],
) -> None:
    """One pre-trained model: region of success, marks of its evaluations, start and paper."""
    settings = document["settings"]
    _success_region(ax, gid, _anchor(document, panel, points), settings)
    cap_line(ax, settings["asr_cap"], f"{gid}-cap")

    # Groups in a fixed order; the authors' marks are hollow and lie behind ours.
    filled = seed_fills(settings["seeds"])
    for (source, loss, seed), group in _groups(points).items():
        hollow = source == "authors"
        marks = [(point["asr"], height(document, point)) for point in group]
        known = [(asr, high) for asr, high in marks if high is not None]
        ax.scatter(
            [asr for asr, _ in known],
            [high for _, high in known],
            s=11 if hollow else 13,
            marker=MARKERS[loss],
            facecolor="none" if hollow else faced(COLOURS[loss], filled.get(seed, 1)),
            edgecolor=COLOURS[loss],
            linewidth=0.5,
            # By this id the page hides a loss or a seed.
            gid=f"{gid}-{source}-{loss}-{'x' if seed is None else seed}",
            zorder=2 if hollow else 3,
        )

    _stars(ax, gid, panel, document)
    title = f"{label(panel['dataset'])}, pre-trained with {label(panel['pretrain_objective'])}"
    ax.set_title(f"{title}, {label(panel['clean_size'])} pairs", fontsize=7.5)
    ax.set(xlabel="", ylabel="")
    if not points:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", va="center")


def seed_fills(seeds: Sequence[int]) -> dict[int | None, float]:
    """How far the marks of each seed are filled: wholly for one, ever less for several."""
    step = (0.85 - FAINTEST) / max(1, len(seeds) - 1)
    return {seed: 0.85 - index * step for index, seed in enumerate(seeds)}


def _success_region(ax: Axes, gid: str, start: float | None, settings: Mapping[str, Any]) -> None:
    """ASR at the cap and accuracy nearly that of the start."""
    if not start:
        return

    # Up to above the start, for finetuning may gain accuracy.
    cap = settings["asr_cap"]
    low, high = settings["kept_share"] * start, 1.3 * start
    ax.fill_between([0, cap], low, high, color=SUCCESS, alpha=0.13, lw=0, gid=f"{gid}-region")
    corners = ([0, cap, cap], [low, low, high])
    ax.plot(*corners, color=SUCCESS, lw=0.8, ls=":", gid=f"{gid}-edge")


def _stars(ax: Axes, gid: str, panel: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """The start model, that of the paper, and the paper's best cleaned model."""
    start, paper = panel["start"], panel["paper"]
    star: dict[str, Any] = {"marker": "*", "zorder": 5, "clip_on": False}

    # On stand-in data each is a share of its own start, which is then 1.
    shares = bool(document["stand_in"])
    printed = paper["start_accuracy"]

    # Filled is ours, hollow the paper's.
    if start:
        filled = star | {"s": 130, "color": START, "gid": f"{gid}-start"}
        ax.scatter([start["asr"]], [1 if shares else start["accuracy"]], **filled)
    if printed:
        hollow = star | {"s": 90, "facecolors": "none", "edgecolors": BLACK, "linewidths": 0.8}
        place = ([paper["start_asr"]], [1 if shares else printed])
        ax.scatter(*place, gid=f"{gid}-paper-start", **hollow)

    # The paper prints the accuracy but no ASR: a line over all ASRs that it allows.
    best = paper["clean_accuracy"]
    if best is not None and (printed or not shares):
        level = [best / printed if shares else best] * 2
        allowed = [0, document["settings"]["asr_cap"]]
        ax.plot(allowed, level, color=BLACK, lw=2, gid=f"{gid}-paper-best", zorder=4)


def _anchor(
    document: Mapping[str, Any], panel: Mapping[str, Any], points: Sequence[Mapping[str, Any]]
) -> float | None:
    """Where the start of a panel lies: ours, or the paper's where its points are the authors'."""
    if panel["start"]:
        return 1.0 if document["stand_in"] else float(panel["start"]["accuracy"])
    if points and points[0]["source"] == "authors":
        start: float | None = panel["paper"]["start_accuracy"]
        return 1.0 if start and document["stand_in"] else start
    return None


def _highest(document: Mapping[str, Any], shown: Mapping[str, Any]) -> float:
    """The highest mark of a figure, at least 5%."""
    # Of shares the start is one, and most lie below it.
    heights = [height(document, point) or 0.0 for point in shown["points"]]
    if document["stand_in"]:
        return max([1.0, *heights])

    # Figures without any run still get a scale, from the paper or from the 5%.
    panels = shown["panels"]
    heights += [panel["start"]["accuracy"] for panel in panels if panel["start"]]
    heights += [panel["paper"]["start_accuracy"] or 0 for panel in panels]
    return max([0.05, *heights])


Group = tuple[str, str, int | None]
"""Source, loss and seed of points."""


def _groups(points: Sequence[Mapping[str, Any]]) -> dict[Group, list[Mapping[str, Any]]]:
    """Points by source, loss and seed, in an order of their own."""
    groups: dict[Group, list[Mapping[str, Any]]] = {}
    for point in points:
        groups.setdefault((point["source"], point["loss"], point["seed"]), []).append(point)

    # Losses in the order of `LOSSES`, which is not that of the alphabet.
    ranks: dict[str, int] = {loss: rank for rank, loss in enumerate(LOSSES)}

    def order(key: Group) -> tuple[str, int, int]:
        source, loss, seed = key
        # The authors' points have no seed; None cannot be compared with a number.
        return source, ranks[loss], -1 if seed is None else seed

    return {key: groups[key] for key in sorted(groups, key=order)}


def _is_of(panel: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    return panel_of(panel) == panel_of(point)


def scatter_keys(document: Mapping[str, Any], name: str) -> list[Key]:
    """What marks, lines and regions of Figure 1, 2 or 3 mean."""
    settings = document["settings"]
    keys = [Key(f"finetuned with {label(loss)}", MARKERS[loss], COLOURS[loss]) for loss in LOSSES]

    # Seeds differ in how far their marks are filled, whatever the loss.
    if len(settings["seeds"]) > 1:
        fills = seed_fills(settings["seeds"])
        keys += [Key(f"seed {seed}", "o", BLACK, filled) for seed, filled in fills.items()]

    keys += [
        Key("start model", "*", START),
        Key(f"success: ASR at the cap, {short(settings['kept_share'])}% kept", "band", SUCCESS),
        Key("the ASR cap", "dashes", BLACK),
        Key("paper: start", "*", BLACK, 0),
        Key("paper: best at the cap", "line", BLACK),
    ]

    # Named only where such marks are there.
    if any(point["source"] == "authors" for point in document["figures"][name]["points"]):
        keys.append(Key("hollow: authors", "o", BLACK, 0))
    return keys
