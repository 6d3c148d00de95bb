"""Tables 1 and 2: the paper's value, the authors' points and ours in every cell.

Each reproduced number names its run; the interval beside it is Wilson's at 95% over the evaluation images.
"""

from __future__ import annotations

from typing import Any

from repro.intervals import wilson
from repro.ledger import LedgerError, read_bits, sample_images
from repro.report.numbers import intervals
from repro.report.numbers.claims import Paper
from repro.report.numbers.evaluations import (
    CLEANCLIP,
    DATASETS,
    LOSSES,
    OBJECTIVES,
    SIZES,
    TABLE1_ROWS,
    Cell,
    Evidence,
    Point,
)

SPLITS = 200
"""Random halvings of the evaluation images for the honest choice."""


def table1(study: Evidence, paper: Paper) -> list[dict[str, Any]]:
    """Best accuracy after CleanCLIP at ASR <= cap: one row a dataset, cleaning size and pre-training objective."""
    return [
        table1_row(study, paper, (dataset, size, objective))
        for dataset, size in TABLE1_ROWS
        for objective in OBJECTIVES
    ]


def table1_row(study: Evidence, paper: Paper, cell: Cell) -> dict[str, Any]:
    """One row of Table 1 in the shape of report.json."""
    dataset, size, objective = cell
    seed, cap = study.settings.seeds[0], study.settings.cap
    printed = paper.cleaned(dataset, size, objective)
    start = study.start(dataset, objective, seed)
    points = study.cleaning(dataset, objective, size, CLEANCLIP, seed)
    best = best_under_cap(points, cap)
    authors = study.cleaning(dataset, objective, size, CLEANCLIP, source="authors")
    authors_best = best_under_cap(authors, cap)
    original = number(
        printed.original_accuracy if printed else None, start, authors[0] if authors else None
    )
    clean = number(printed.clean_accuracy if printed else None, best, authors_best)
    tried = {point.run for point in points}
    clean |= {
        "asr": best and best.asr,
        "asr_other_denominator": best and best.other_asr,
        "learning_rate": best and best.learning_rate,
        "epoch": best and best.epoch,
        "row": best and best.index,
        "asr_ci95": best and wilson(best.attacked, best.attackable),
        "asr_standing": best
        and intervals.standing(best.attacked, best.attackable, cap, study.settings.confidence),
        "authors_asr": authors_best and authors_best.asr,
        "authors_drop": drop(study, authors[0] if authors else None, authors_best),
        "authors_asr_standing": authors_best
        and intervals.standing(
            authors_best.attacked, authors_best.attackable, cap, study.settings.confidence
        ),
        "relative_drop": drop(study, start, best),
        "strict_accuracy": _strict(study, points),
        "evaluations": len(points),
        "successes": sum(point.asr <= cap for point in points),
        "runs": len(tried),
        "lowest_asr": min((point.asr for point in points), default=None),
        "missing": _missing(study, cell),
    }
    seeds = [
        s for s in study.settings.seeds if study.cleaning(dataset, objective, size, CLEANCLIP, s)
    ]
    bests = {
        s: best_under_cap(study.cleaning(dataset, objective, size, CLEANCLIP, s), cap)
        for s in seeds
    }
    reached = [point.accuracy for point in bests.values() if point]
    clean["by_seed"] = [
        {"seed": s, "accuracy": p and p.accuracy, "asr": p and p.asr, "run": p and p.run}
        for s, p in bests.items()
    ]
    clean["spread"] = intervals.spread(reached) if reached else None
    return {
        "dataset": dataset,
        "clean_size": size,
        "pretrain_objective": objective,
        "original_accuracy": original,
        "clean_accuracy": clean,
    }


def table2(study: Evidence, paper: Paper) -> list[dict[str, Any]]:
    """Accuracy and ASR of the models before cleaning."""
    rows = []
    for dataset in DATASETS:
        for objective in OBJECTIVES:
            printed = paper.start(dataset, objective)
            start = study.start(dataset, objective, study.settings.seeds[0])
            starts = [p for s in study.settings.seeds if (p := study.start(dataset, objective, s))]
            authors = next(
                iter(study.cleaning(dataset, objective, "100k", CLEANCLIP, source="authors")), None
            )
            accuracy = number(printed.accuracy if printed else None, start, authors)
            asr = number(printed.asr if printed else None, start, authors, attack=True)
            accuracy["spread"] = intervals.spread([p.accuracy for p in starts]) if starts else None
            asr["spread"] = intervals.spread([p.asr for p in starts]) if starts else None
            asr["other_denominator"] = start and start.other_asr
            rows.append(
                {
                    "dataset": dataset,
                    "pretrain_objective": objective,
                    "accuracy": accuracy,
                    "asr": asr,
                }
            )
    return rows


def by_loss(study: Evidence) -> list[dict[str, Any]]:
    """Best accuracy at the cap for each finetuning loss alone: what CleanCLIP is compared with."""
    rows = []
    for dataset, size in TABLE1_ROWS:
        for objective in OBJECTIVES:
            for loss in LOSSES:
                ours = study.cleaning(dataset, objective, size, loss, study.settings.seeds[0])
                authors = study.cleaning(dataset, objective, size, loss, source="authors")
                best, authors_best = (
                    best_under_cap(ours, study.settings.cap),
                    best_under_cap(authors, study.settings.cap),
                )
                cell = number(None, best, authors_best)
                cell |= {
                    "asr": best and best.asr,
                    "authors_asr": authors_best and authors_best.asr,
                    "evaluations": len(ours),
                    "authors_evaluations": len(authors),
                }
                rows.append(
                    {
                        "dataset": dataset,
                        "clean_size": size,
                        "pretrain_objective": objective,
                        "loss": loss,
                        "clean_accuracy": cell,
                    }
                )
    return rows


def number(
    paper: float | None, ours: Point | None, authors: Point | None, attack: bool = False
) -> dict[str, Any]:
    """A cell: what the paper prints, what the authors' points say, what we measured, on how many images, in which run."""
    value, published = (
        None if point is None else point.asr if attack else point.accuracy
        for point in (ours, authors)
    )
    counts = ours and ((ours.attacked, ours.attackable) if attack else (ours.correct, ours.images))
    return {
        "paper": paper,
        "authors_points": published,
        "reproduced": value,
        "delta": None if paper is None or value is None else value - paper,
        "ci95": counts and wilson(*counts),
        "n": counts and counts[1],
        "run": ours and ours.run,
    }


def best_under_cap(points: list[Point], cap: float) -> Point | None:
    """The most accurate evaluation with ASR <= cap; ties go to the lower ASR, then to the earlier one."""
    return min(
        (point for point in points if point.asr <= cap),
        key=lambda p: (-p.accuracy, p.asr, p.epoch or 0, p.run, p.index),
        default=None,
    )


def drop(study: Evidence, start: Point | None, best: Point | None) -> dict[str, Any] | None:
    """Relative loss of accuracy from the start model to the best cleaned one, from paired images where bits are there."""
    if start is None or best is None or start.correct == 0:
        return None
    both, paired = None, None
    before, after = study.correct(start), study.correct(best)
    if before is not None and after is not None:
        both = int((before & after).sum())
        gained, lost = best.correct - both, start.correct - both
        change, interval = intervals.paired_difference(
            gained, lost, best.images, study.settings.confidence
        )
        paired = {
            "gained": gained,
            "lost": lost,
            "change": change,
            "ci": interval,
            "p_value": intervals.mcnemar(gained, lost),
        }
    value, interval = intervals.relative_drop(
        start.correct, best.correct, best.images, both, study.settings.confidence
    )
    return {"value": value, "ci": interval, "paired": paired}


def honest_selection(study: Evidence) -> list[dict[str, Any]]:
    """Choice on one half of the images and report on the other, for every cell of Table 1 (first seed)."""
    import numpy as np

    rows = []
    for dataset, size in TABLE1_ROWS:
        for objective in OBJECTIVES:
            points = study.cleaning(dataset, objective, size, CLEANCLIP, study.settings.seeds[0])
            if not points:
                continue
            bits = {
                run: read_bits(study.root / run, points[0].images)
                for run in dict.fromkeys(point.run for point in points)
            }
            target = bits[points[0].run]["is_target"]
            attackable = np.ones_like(target) if study.settings.denominator == "all" else ~target
            result = intervals.select_on_halves(
                np.stack([bits[p.run]["correct"][p.index] for p in points]),
                np.stack([bits[p.run]["attacked"][p.index] for p in points]),
                attackable,
                study.settings.cap,
                SPLITS,
                seed=0,
            )
            rows.append(
                {
                    "dataset": dataset,
                    "clean_size": size,
                    "pretrain_objective": objective,
                    **{
                        name: getattr(result, name)
                        for name in (
                            "splits",
                            "chosen",
                            "naive",
                            "accuracy",
                            "accuracy_range",
                            "asr",
                            "held",
                        )
                    },
                }
            )
    return rows


def budgets(study: Evidence) -> list[dict[str, Any]]:
    """Best-of-n curves: what the search over learning rates buys in every cell (first seed)."""
    rows = []
    for dataset, size in TABLE1_ROWS:
        for objective in OBJECTIVES:
            points = study.cleaning(dataset, objective, size, CLEANCLIP, study.settings.seeds[0])
            by_run: dict[str, list[Point]] = {}
            for point in points:
                by_run.setdefault(point.run, []).append(point)
            if not by_run:
                continue
            bests = [best_under_cap(group, study.settings.cap) for group in by_run.values()]
            scores = [best.accuracy if best else 0.0 for best in bests]
            rows.append(
                {
                    "dataset": dataset,
                    "clean_size": size,
                    "pretrain_objective": objective,
                    "scores": scores,
                    "curve": intervals.best_of_n(scores, study.settings.confidence),
                }
            )
    return rows


def predictions(study: Evidence) -> dict[str, Any]:
    """Outcomes of a few evaluation images, clean and triggered, for every model before and after CleanCLIP (first seed).

    `images` are those of the gallery (repro/data/samples.py), spread evenly over the evaluation set.
    """
    models: list[tuple[str, Point]] = []
    for dataset in DATASETS:
        for objective in OBJECTIVES:
            seed = study.settings.seeds[0]
            best = best_under_cap(
                study.cleaning(dataset, objective, SIZES[0], CLEANCLIP, seed), study.settings.cap
            )
            for state, point in (
                ("poisoned", study.start(dataset, objective, seed)),
                ("cleaned", best),
            ):
                if point is not None:
                    models.append((state, point))
    images = sample_images(models[0][1].images) if models else []
    rows = {run.folder: run.rows for run in study.runs}
    return {
        "images": images,
        "models": [
            {
                "dataset": point.dataset,
                "pretrain_objective": point.objective,
                "state": state,
                "run": point.run,
                "row": point.index,
                "correct": [bool(bits["correct"][point.index][image]) for image in images],
                "attacked": [bool(bits["attacked"][point.index][image]) for image in images],
                "classes": _named(study, rows[point.run][point.index].sample_classes),
                "classes_triggered": _named(
                    study, rows[point.run][point.index].sample_classes_triggered
                ),
            }
            for state, point in models
            for bits in [read_bits(study.root / point.run, models[0][1].images)]
        ],
    }


def _named(study: Evidence, classes: list[int]) -> list[str]:
    """Names of predicted classes, none where the row names none; LedgerError for a number that the profile has no class of."""
    names = study.settings.classnames
    if unknown := [number for number in classes if not 0 <= number < len(names)]:
        raise LedgerError(
            f"sample_classes: {unknown[0]} (allowed: 0 to {len(names) - 1}, the profile's classes)"
        )
    return [names[number] for number in classes]


def sweep(study: Evidence) -> list[dict[str, Any]]:
    """Best accuracy against the ASR cap, relative to the start, for every cell and source."""
    rows = []
    for dataset in DATASETS:
        for size in SIZES:
            for objective in OBJECTIVES:
                for source, seed in (("ledger", study.settings.seeds[0]), ("authors", None)):
                    points = study.cleaning(dataset, objective, size, CLEANCLIP, seed, source)  # type: ignore[arg-type]
                    if points:
                        steps = intervals.threshold_sweep(
                            [p.accuracy for p in points], [p.asr for p in points]
                        )
                        start = (
                            study.start(dataset, objective, study.settings.seeds[0])
                            if source == "ledger"
                            else points[0]
                        )
                        rows.append(
                            {
                                "dataset": dataset,
                                "clean_size": size,
                                "pretrain_objective": objective,
                                "source": source,
                                "start": start and start.accuracy,
                                "steps": steps,
                            }
                        )
    return rows


def _strict(study: Evidence, points: list[Point]) -> float | None:
    """Best accuracy among evaluations whose whole ASR interval lies at or below the cap."""
    settings = study.settings
    sure = [
        p
        for p in points
        if intervals.standing(p.attacked, p.attackable, settings.cap, settings.confidence)
        == "below"
    ]
    return max((p.accuracy for p in sure), default=None)


def _missing(study: Evidence, cell: Cell) -> int:
    """CleanCLIP runs of a cell that the profile asks for and the ledger lacks."""
    prefix = f"{cell[1]}-{CLEANCLIP}-lr"
    return sum(
        m["stage"] == "clean"
        and m["cell"] == f"{cell[0]}-{cell[2]}"
        and m["run"].startswith(prefix)
        for m in study.missing
    )
