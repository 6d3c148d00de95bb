"""Curves: what the result depends on (cap, number of learning rates tried, epochs, what a study varies); documents in, drawings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repro.report.format import LABELS
from repro.report.pages.figures import (
    COLOURS,
    WIDTH,
    Drawn,
    answer,
    captions,
    draw,
    percent_axes,
    percent_tick,
    scatter,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sweep(document: dict[str, Any]) -> Figure:
    """Best accuracy kept against the ASR that one is ready to accept."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(2 * WIDTH, 3.2), layout="constrained")
    axes = drawing.subplots(1, 2, sharex=True, sharey=True, squeeze=False)
    for objective, ax in zip(("mmcl", "mmcl_ssl"), axes.flat, strict=True):
        for row in document["statistics"]["threshold_sweep"]:
            if row["pretrain_objective"] != objective or not row["start"]:
                continue
            caps = [cap for cap, _ in row["steps"]] + [1.0]
            kept = [accuracy / row["start"] for _, accuracy in row["steps"]]
            label = f"{LABELS[row['dataset']]}, {LABELS[row['clean_size']]}" + (
                " (authors)" if row["source"] == "authors" else ""
            )
            colour = {("cc3m", "100k"): COLOURS["mmcl"], ("cc6m", "100k"): COLOURS["ssl"]}.get(
                (row["dataset"], row["clean_size"]), COLOURS["mmcl_ssl"]
            )
            ax.step(
                caps,
                [*kept, kept[-1]],
                where="post",
                lw=1.3,
                color=colour,
                ls="--" if row["source"] == "authors" else "-",
                label=label,
            )
        ax.axvline(document["settings"]["asr_cap"], color="#000000", lw=0.7, ls=(0, (4, 3)))
        ax.set_title(f"Pre-trained with {LABELS[objective]}", fontsize=8)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=7)
    axes[0, 0].set(xlim=(0, 0.5), ylim=(0, 1.1))
    percent_axes(axes)
    drawing.supxlabel("Accepted attack success rate (%)", fontsize=9)
    drawing.supylabel("Best accuracy kept (% of start)", fontsize=9)
    return drawing


def budgets(document: dict[str, Any]) -> Figure:
    """Median best score after n learning rates, with its simultaneous band."""
    from matplotlib.figure import Figure

    rows = document["statistics"]["best_of_n"]
    drawing = Figure(figsize=(2 * WIDTH, 2.9), layout="constrained")
    axes = drawing.subplots(1, 2, sharey=True, squeeze=False)
    names = {"mmcl": axes[0, 0], "mmcl_ssl": axes[0, 1]}
    for objective, ax in names.items():
        for row, colour, dash in zip(
            (r for r in rows if r["pretrain_objective"] == objective),
            COLOURS.values(),
            ("-", "--", ":"),
            strict=False,
        ):
            sizes, low, middle, high = zip(*row["curve"], strict=True)
            tells = [b > 0 or t < 1 for b, t in zip(low, high, strict=True)]
            ax.fill_between(sizes, low, high, where=tells, color=colour, alpha=0.12, lw=0)
            ax.plot(
                sizes,
                middle,
                color=colour,
                ls=dash,
                label=f"{LABELS[row['dataset']]}, {LABELS[row['clean_size']]}",
            )
        ax.set_title(f"Pre-trained with {LABELS[objective]}", fontsize=8)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=7)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].yaxis.set_major_formatter(percent_tick)
    drawing.supxlabel("Learning rates tried", fontsize=9)
    drawing.supylabel("Best accuracy at the cap (%)", fontsize=9)
    return drawing


def trajectories(document: dict[str, Any], loss: str = "mmcl_ssl") -> Figure:
    """Accuracy and ASR over the epochs of pre-training and of CleanCLIP; a row a model, one line a learning rate."""
    import matplotlib
    from matplotlib.figure import Figure

    models = [
        (dataset, objective) for dataset in ("cc3m", "cc6m") for objective in ("mmcl", "mmcl_ssl")
    ]
    columns = (
        ("pretrain", "accuracy"),
        ("pretrain", "asr"),
        ("clean", "accuracy"),
        ("clean", "asr"),
    )
    names = {"pretrain": "Pre-training", "clean": "CleanCLIP", "accuracy": "accuracy", "asr": "ASR"}
    drawing = Figure(figsize=(2 * WIDTH, 6.2), layout="constrained")
    axes = drawing.subplots(len(models), len(columns), squeeze=False, sharex="col", sharey="col")
    for (dataset, objective), row in zip(models, axes, strict=True):
        for (stage, metric), ax in zip(columns, row, strict=True):
            runs = [
                t
                for t in document["trajectories"]
                if (t["stage"], t["dataset"], t["pretrain_objective"])
                == (stage, dataset, objective)
                and (stage == "pretrain" or (t["loss"] == loss and t["clean_size"] == "100k"))
            ]
            for shade, run in enumerate(sorted(runs, key=lambda t: t["learning_rate"])):
                spectrum = matplotlib.colormaps["viridis"](
                    0.1 + 0.75 * shade / max(1, len(runs) - 1)
                )
                ax.plot(
                    run["epochs"],
                    run[metric],
                    lw=1,
                    color=COLOURS["mmcl"] if stage == "pretrain" else spectrum,
                )
            ax.tick_params(labelsize=7)
        row[0].set_ylabel(f"{LABELS[dataset]}\n{LABELS[objective]}", fontsize=8)
    for (stage, metric), ax in zip(columns, axes[0], strict=True):
        ax.set_title(f"{names[stage]}: {names[metric]} (%)", fontsize=8)
        ax.set_ylim(bottom=0, top=1.04 if metric == "asr" else None)
        ax.yaxis.set_major_formatter(percent_tick)
    drawing.supxlabel("Epochs", fontsize=9)
    return drawing


def responses(document: dict[str, Any]) -> Figure:
    """What a study measured over the number that it varies; a panel a study, a dot a seed, a line through the means."""
    from matplotlib.figure import Figure

    columns = 2
    rows = -(-len(document["doses"]) // columns)
    drawing = Figure(figsize=(2 * WIDTH, 2.5 * rows + 0.4), layout="constrained")
    axes = drawing.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(document["doses"]) :]:
        ax.set_axis_off()
    for dose, ax in zip(document["doses"], axes.flat, strict=False):
        for curve in dose["curves"]:
            numbers, colour = (
                [p["number"] for p in curve["points"]],
                COLOURS[curve["pretrain_objective"]],
            )
            seeds = [
                (p["number"], value)
                for p in curve["points"]
                for value in p["values"]
                if value is not None
            ]
            ax.plot(*zip(*seeds, strict=True), ls="", marker="o", ms=3, color=colour, alpha=0.5)
            ax.plot(
                numbers,
                [p["mean"] for p in curve["points"]],
                lw=1.3,
                color=colour,
                ls="--" if curve["clean_size"] == "200k" else "-",
                label=", ".join(
                    LABELS[curve[k]]
                    for k in ("dataset", "clean_size", "pretrain_objective")
                    if curve[k]
                ),
            )
        ticks = sorted({p["number"] for curve in dose["curves"] for p in curve["points"]})
        ax.set_xscale("symlog", linthresh=min([tick for tick in ticks if tick > 0], default=1))
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(percent_tick)
        ax.set_title(
            {"asr": "ASR before cleaning (%)", "cleaned_accuracy": "Best accuracy at the cap (%)"}[
                dose["measure"]
            ],
            fontsize=8,
        )
        ax.set_xlabel(dose["path"], fontsize=8)
        ax.legend(frameon=False, fontsize=7)
    return drawing


def all_figures(document: dict[str, Any]) -> dict[str, Figure]:
    """Every figure of the report by name; `responses` only where a study varies a number."""
    papers = {name: scatter(document, name) for name in document["figures"]}
    curves = {
        "sweep": sweep(document),
        "budgets": budgets(document),
        "trajectories": trajectories(document),
    }
    studied = {"responses": responses(document)} if document["doses"] else {}
    return {"answer": answer(document), **papers, **curves, **studied}


def figure_names(document: dict[str, Any]) -> list[str]:
    """The figures that a document has."""
    return ["answer", *captions(document)]


def draw_all(document: dict[str, Any]) -> dict[str, Drawn]:
    """Every figure of the report, drawn."""
    with style():
        return {name: draw(figure, name) for name, figure in all_figures(document).items()}
