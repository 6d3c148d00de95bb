"""Tables 1 and 2, and the losses compared: the paper's value, the authors' points and ours in every
cell.

Each reproduced number names its run; the interval beside it is Wilson's at 95% over the evaluation
images.
"""

from __future__ import annotations

from repro.intervals import Interval, wilson
from repro.report.numbers import intervals
from repro.report.numbers.cells import CLEANCLIP, LOSSES, Cell, Model, cells, models
from repro.report.numbers.cleaned import (
    ControlRule,
    authors_or_printed_start,
    best_under_cap,
    drop,
    positive_control,
)
from repro.report.numbers.evaluations import Point
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.paper import Paper
from repro.report.schema.results import (
    CleanedNumber,
    LossRow,
    NumberCell,
    SeedNumber,
    Standing,
    Table1Row,
    Table2Row,
)
from repro.spec import Loss


def table1(evidence: Evidence, paper: Paper, rule: ControlRule) -> list[Table1Row]:
    """Best accuracy after CleanCLIP at ASR <= cap: one row a cell."""
    return [table1_row(evidence, paper, cell, rule) for cell in cells()]


def table1_row(evidence: Evidence, paper: Paper, cell: Cell, rule: ControlRule) -> Table1Row:
    """One row of Table 1."""
    # The model before cleaning: by us, by the authors, and as the paper prints it.
    start = evidence.start(cell.dataset, cell.objective, evidence.settings.seeds[0])
    authors_start = evidence.authors_start(cell.dataset, cell.objective, cell.clean_size)
    printed = paper.cleaned(*cell)
    original = number_cell(
        evidence, printed.original_accuracy if printed else None, start, authors_start
    )
    return {
        **cell.keys,
        "original_accuracy": original,
        "clean_accuracy": _cleaned(evidence, paper, cell, start),
        # Of the MMCL model with the same data and pairs, whichever objective the row is of.
        "control": positive_control(evidence, paper, cell.dataset, cell.clean_size, rule),
        "authors_control": positive_control(
            evidence, paper, cell.dataset, cell.clean_size, rule, "authors"
        ),
    }


def _cleaned(evidence: Evidence, paper: Paper, cell: Cell, start: Point | None) -> CleanedNumber:
    """The best evaluation at the cap of a cell (first seed), and what it was chosen from."""
    # Table 1's rule: of all learning rates and evaluations, the most accurate one whose ASR is at
    # most the cap.
    cap = evidence.settings.cap
    points, authors = _ours(evidence, cell, CLEANCLIP), _authors(evidence, cell, CLEANCLIP)
    best, authors_best = best_under_cap(points, cap), best_under_cap(authors, cap)

    # The tables show the first seed; the others tell how far the choice depends on it.
    printed = paper.cleaned(*cell)
    by_seed = _by_seed(evidence, cell)
    reached = [of["accuracy"] for of in by_seed if of["accuracy"] is not None]

    return {
        **number_cell(evidence, printed and printed.clean_accuracy, best, authors_best),
        # Which evaluation it is, so that a reader can find its row in the ledger.
        "asr": best and best.asr,
        "asr_other_denominator": best and best.other_asr,
        "learning_rate": best and best.learning_rate,
        "epoch": best and best.epoch,
        "row": best and best.index,
        "asr_ci95": _asr_ci95(best),
        "asr_standing": _standing(evidence, best),
        # The same for the authors' points.
        "authors_asr": authors_best and authors_best.asr,
        "authors_drop": drop(
            evidence, authors_or_printed_start(evidence, paper, cell), authors_best
        ),
        "authors_asr_standing": _standing(evidence, authors_best),
        # What the choice cost, and what it was chosen from.
        "relative_drop": drop(evidence, start, best),
        "strict_accuracy": _strict(evidence, points),
        "evaluations": len(points),
        "successes": sum(point.asr <= cap for point in points),
        "runs": len({point.run for point in points}),
        "diverged_runs": _diverged(evidence, points),
        # Where nothing came down to the cap, this says how near it was.
        "lowest_asr": min((point.asr for point in points), default=None),
        "missing": _missing(evidence, cell),
        "by_seed": by_seed,
        "spread": intervals.spread(reached) if reached else None,
    }


def _by_seed(evidence: Evidence, cell: Cell) -> list[SeedNumber]:
    """The best evaluation at the cap of every seed that has any."""
    rows: list[SeedNumber] = []
    for seed in evidence.settings.seeds:
        points = evidence.cleaning(cell.dataset, cell.objective, cell.clean_size, CLEANCLIP, seed)
        if not points:
            continue

        # A seed that was cleaned but never met the cap has a row without values.
        best = best_under_cap(points, evidence.settings.cap)
        rows.append(
            {
                "seed": seed,
                "accuracy": best and best.accuracy,
                "asr": best and best.asr,
                "run": best and best.run,
            }
        )
    return rows


def table2(evidence: Evidence, paper: Paper) -> list[Table2Row]:
    """Accuracy and ASR of the models before cleaning."""
    return [_table2_row(evidence, paper, model) for model in models()]


def _table2_row(evidence: Evidence, paper: Paper, model: Model) -> Table2Row:
    printed = paper.start(*model)

    # A seed without a start model leaves a hole in the list, which the spread passes over.
    by_seed = [evidence.start(*model, seed) for seed in evidence.settings.seeds]
    first = by_seed[0]
    known = [point for point in by_seed if point is not None]

    # A start model does not depend on the cleaning size; every model was cleaned with 100K pairs.
    authors_start = evidence.authors_start(model.dataset, model.objective, "100k")

    accuracy = number_cell(evidence, printed.accuracy if printed else None, first, authors_start)
    asr = number_cell(evidence, printed.asr if printed else None, first, authors_start, attack=True)
    accuracies = [point.accuracy for point in known]
    rates = [point.asr for point in known]
    return {
        **model.keys,
        "accuracy": {**accuracy, "spread": intervals.spread(accuracies) if known else None},
        "asr": {
            **asr,
            "spread": intervals.spread(rates) if known else None,
            "other_denominator": first and first.other_asr,
        },
    }


def loss_rows(evidence: Evidence) -> list[LossRow]:
    """Best accuracy at the cap for each finetuning loss alone: what CleanCLIP is compared with."""
    return [_loss_row(evidence, cell, loss) for cell in cells() for loss in LOSSES]


def _loss_row(evidence: Evidence, cell: Cell, loss: Loss) -> LossRow:
    # The same rule as in Table 1, for one finetuning loss.
    cap = evidence.settings.cap
    ours, authors = _ours(evidence, cell, loss), _authors(evidence, cell, loss)
    best, authors_best = best_under_cap(ours, cap), best_under_cap(authors, cap)

    # The paper prints no table by loss, so its own number is None.
    return {
        **cell.keys,
        "loss": loss,
        "clean_accuracy": {
            **number_cell(evidence, None, best, authors_best),
            "asr": best and best.asr,
            "authors_asr": authors_best and authors_best.asr,
            "evaluations": len(ours),
            "authors_evaluations": len(authors),
            "diverged_runs": _diverged(evidence, ours),
        },
    }


def number_cell(
    evidence: Evidence,
    paper: float | None,
    ours: Point | None,
    authors: Point | None,
    attack: bool = False,
) -> NumberCell:
    """What the paper prints, what the authors' points say, and what we measured; `attack`: of the
    ASR.
    """
    # A difference needs both; an empty cell is none, not zero.
    value = _share(ours, attack)
    delta = value - paper if value is not None and paper is not None else None
    return {
        "paper": paper,
        "authors_points": _share(authors, attack),
        "reproduced": value,
        "delta": delta,
        "ci95": _asr_ci95(ours) if attack else _accuracy_ci95(ours),
        "n": ours and (ours.attackable if attack else ours.images),
        "run": ours and ours.run,
        "diverged": ours is not None and ours.run in evidence.diverged,
    }


def _ours(evidence: Evidence, cell: Cell, loss: Loss) -> list[Point]:
    """Evaluations of a cell and loss, of the first seed."""
    seed = evidence.settings.seeds[0]
    return evidence.cleaning(cell.dataset, cell.objective, cell.clean_size, loss, seed)


def _authors(evidence: Evidence, cell: Cell, loss: Loss) -> list[Point]:
    """The authors' points of a cell and loss."""
    return evidence.cleaning(cell.dataset, cell.objective, cell.clean_size, loss, source="authors")


def _share(point: Point | None, attack: bool) -> float | None:
    if point is None:
        return None
    return point.asr if attack else point.accuracy


def _accuracy_ci95(point: Point | None) -> Interval | None:
    return None if point is None else wilson(point.correct, point.images)


def _asr_ci95(point: Point | None) -> Interval | None:
    return None if point is None else wilson(point.attacked, point.attackable)


def _standing(evidence: Evidence, point: Point | None) -> Standing | None:
    if point is None:
        return None
    settings = evidence.settings
    return intervals.standing(point.attacked, point.attackable, settings.cap, settings.confidence)


def _strict(evidence: Evidence, points: list[Point]) -> float | None:
    """Best accuracy among evaluations whose whole ASR interval lies at or below the cap."""
    sure = [point for point in points if _standing(evidence, point) == "below"]
    return max((point.accuracy for point in sure), default=None)


def _diverged(evidence: Evidence, points: list[Point]) -> int:
    """Runs among those of the points whose loss was no finite number at some step."""
    return len({point.run for point in points} & evidence.diverged)


def _missing(evidence: Evidence, cell: Cell) -> int:
    """CleanCLIP runs of a cell that the profile asks for and the ledger lacks."""
    # A run's name tells its cleaning size and loss (`RunSpec.run_id`).
    prefix = f"{cell.clean_size}-{CLEANCLIP}-lr"
    return sum(
        run["stage"] == "clean"
        and run["cell"] == f"{cell.dataset}-{cell.objective}"
        and run["run"].startswith(prefix)
        for run in evidence.missing
    )
