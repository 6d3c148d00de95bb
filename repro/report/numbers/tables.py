"""Tables 1 and 2, and the losses compared: the paper's value, the authors' points and ours.

Each number of ours names its run; the interval beside it is Wilson's at 95% over the images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from repro.intervals import Interval, wilson
from repro.report.keyed import Keyed
from repro.report.numbers import intervals
from repro.report.numbers.cells import CLEANCLIP, LOSSES, Cell, Model, cells, models
from repro.report.numbers.evaluations import Point
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.intervals import Spread, Standing
from repro.report.numbers.paper import Paper
from repro.spec import CleanSize, Dataset, Loss, Objective

PRINTED = "Table 2 of the paper"
"""Run of a start model that is known by its printed numbers only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A cell of a table: the paper's value, the authors' points and ours."""

    paper: float | None
    authors_points: float | None
    reproduced: float | None
    delta: float | None
    """Reproduced less the paper's."""
    ci95: Interval | None
    """Wilson's, over the evaluation images."""
    n: int | None
    """Evaluation images."""
    run: str | None
    """Folder of the run that the reproduced number is of."""
    diverged: bool
    """Whether that run's loss was no finite number at some step."""


@dataclass(frozen=True, slots=True)
class PairedChange:
    """Images that changed sides between two evaluations of the same images."""

    gained: int
    lost: int
    change: float
    """Difference of the accuracies."""
    ci: Interval
    p_value: float
    """McNemar's, exact."""


@dataclass(frozen=True, slots=True)
class AccuracyDrop(Keyed):
    """Share of the start accuracy that cleaning costs."""

    value: float
    ci: Interval
    paired: PairedChange | None
    """None where there are no bits: of the authors' points and of archived runs."""


@dataclass(frozen=True, slots=True)
class SeedNumber:
    """The best evaluation at the ASR threshold of one seed; None where none reached it."""

    seed: int
    accuracy: float | None
    asr: float | None
    run: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanedNumber(Number):
    """The best evaluation at the ASR threshold, and what it was chosen from."""

    asr: float | None
    asr_other_denominator: float | None
    learning_rate: float | None
    epoch: float | None
    row: int | None
    """Evaluation within the run, from 0."""
    asr_ci95: Interval | None
    asr_standing: Standing | None
    authors_asr: float | None
    authors_drop: AccuracyDrop | None
    """From their start model, or from that of the paper's Table 2 where their files have none."""
    authors_asr_standing: Standing | None
    relative_drop: AccuracyDrop | None
    strict_accuracy: float | None
    """Best accuracy among evaluations whose whole ASR interval lies at or below the threshold."""
    evaluations: int
    successes: int
    """Evaluations at or below the threshold."""
    runs: int
    """Runs of the first seed."""
    diverged_runs: int
    lowest_asr: float | None
    missing: int
    """Runs that the profile asks for and the ledger lacks."""
    by_seed: list[SeedNumber]
    spread: Spread | None


@dataclass(frozen=True, slots=True)
class Table1Row:
    """Accuracy before, and the best after CleanCLIP at the ASR threshold."""

    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective
    original_accuracy: Number
    clean_accuracy: CleanedNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class StartNumber(Number):
    """A number of the models that are cleaned."""

    spread: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAsr(StartNumber):
    """ASR of the models that are cleaned."""

    other_denominator: float | None


@dataclass(frozen=True, slots=True)
class Table2Row:
    """Accuracy and ASR before cleaning."""

    dataset: Dataset
    pretrain_objective: Objective
    accuracy: StartNumber
    asr: StartAsr


@dataclass(frozen=True, slots=True, kw_only=True)
class LossNumber(Number):
    """The best evaluation at the ASR threshold with one finetuning loss."""

    asr: float | None
    authors_asr: float | None
    evaluations: int
    authors_evaluations: int
    diverged_runs: int


@dataclass(frozen=True, slots=True)
class LossRow:
    """One finetuning loss in one cell."""

    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective
    loss: Loss
    clean_accuracy: LossNumber


def table1(evidence: Evidence, paper: Paper) -> list[Table1Row]:
    """Best accuracy after CleanCLIP at the ASR threshold, first seed: one row a cell."""
    rows = []
    for cell in cells():
        start = evidence.start(cell.dataset, cell.objective, evidence.settings.seeds[0])
        authors_start = evidence.authors_start(cell.dataset, cell.objective, cell.clean_size)
        printed = paper.cleaned(*cell)
        original = printed.original_accuracy if printed else None
        number = Number(**_number(evidence, original, start, authors_start))
        rows.append(Table1Row(*cell, number, _cleaned(evidence, paper, cell, start)))
    return rows


def _cleaned(evidence: Evidence, paper: Paper, cell: Cell, start: Point | None) -> CleanedNumber:
    """The best evaluation at the threshold of a cell (first seed), and what it was chosen from."""
    cap, confidence = evidence.settings.cap, evidence.settings.confidence
    points, authors = _ours(evidence, cell, CLEANCLIP), _authors(evidence, cell, CLEANCLIP)
    best, authors_best = best_under_cap(points, cap), best_under_cap(authors, cap)
    printed = paper.cleaned(*cell)

    def standing(point: Point) -> Standing:
        return intervals.standing(point.attacked, point.attackable, cap, confidence)

    by_seed = []
    for seed in evidence.settings.seeds:
        of_seed = evidence.cleaning(*_key(cell), CLEANCLIP, seed)
        if of_seed:
            chosen = best_under_cap(of_seed, cap)
            found = (chosen.accuracy, chosen.asr, chosen.run) if chosen else (None, None, None)
            by_seed.append(SeedNumber(seed, *found))
    reached = [of.accuracy for of in by_seed if of.accuracy is not None]

    # A run's name tells its cleaning size and loss (`RunSpec.run_id`).
    of_cell = (f"{cell.dataset}-{cell.objective}", f"{cell.clean_size}-{CLEANCLIP}-lr")
    return CleanedNumber(
        **_number(evidence, printed and printed.clean_accuracy, best, authors_best),
        asr=best and best.asr,
        asr_other_denominator=best and best.other_asr,
        learning_rate=best and best.learning_rate,
        epoch=best and best.epoch,
        row=best and best.index,
        asr_ci95=best and wilson(best.attacked, best.attackable),
        asr_standing=best and standing(best),
        authors_asr=authors_best and authors_best.asr,
        authors_drop=drop(evidence, authors_or_printed_start(evidence, paper, cell), authors_best),
        authors_asr_standing=authors_best and standing(authors_best),
        relative_drop=drop(evidence, start, best),
        strict_accuracy=max(
            (point.accuracy for point in points if standing(point) == "below"), default=None
        ),
        evaluations=len(points),
        successes=sum(point.asr <= cap for point in points),
        runs=len({point.run for point in points}),
        diverged_runs=_diverged(evidence, points),
        lowest_asr=min((point.asr for point in points), default=None),
        missing=sum(
            run.stage == "clean" and run.cell == of_cell[0] and run.run.startswith(of_cell[1])
            for run in evidence.missing
        ),
        by_seed=by_seed,
        spread=intervals.spread(reached) if reached else None,
    )


def table2(evidence: Evidence, paper: Paper) -> list[Table2Row]:
    """Accuracy and ASR of the models before cleaning: one row a model."""
    return [_table2_row(evidence, paper, model) for model in models()]


def _table2_row(evidence: Evidence, paper: Paper, model: Model) -> Table2Row:
    printed = paper.start(*model)
    by_seed = [evidence.start(*model, seed) for seed in evidence.settings.seeds]
    first, known = by_seed[0], [point for point in by_seed if point is not None]

    # A start model does not depend on the cleaning size; every model was cleaned with 100K pairs.
    authors = evidence.authors_start(model.dataset, model.objective, "100k")
    accuracies, rates = [point.accuracy for point in known], [point.asr for point in known]
    return Table2Row(
        *model,
        accuracy=StartNumber(
            **_number(evidence, printed.accuracy if printed else None, first, authors),
            spread=intervals.spread(accuracies) if known else None,
        ),
        asr=StartAsr(
            **_number(evidence, printed.asr if printed else None, first, authors, attack=True),
            spread=intervals.spread(rates) if known else None,
            other_denominator=first and first.other_asr,
        ),
    )


def loss_rows(evidence: Evidence) -> list[LossRow]:
    """Best accuracy at the threshold for each finetuning loss; the paper prints no such table."""
    cap, rows = evidence.settings.cap, []
    for cell in cells():
        for loss in LOSSES:
            ours, authors = _ours(evidence, cell, loss), _authors(evidence, cell, loss)
            best, authors_best = best_under_cap(ours, cap), best_under_cap(authors, cap)
            number = LossNumber(
                **_number(evidence, None, best, authors_best),
                asr=best and best.asr,
                authors_asr=authors_best and authors_best.asr,
                evaluations=len(ours),
                authors_evaluations=len(authors),
                diverged_runs=_diverged(evidence, ours),
            )
            rows.append(LossRow(*cell, loss, number))
    return rows


def best_under_cap(points: Iterable[Point], cap: float) -> Point | None:
    """The most accurate evaluation at the threshold; ties go to the lower ASR, then the earlier."""
    return min(
        (point for point in points if point.asr <= cap),
        key=lambda point: (-point.accuracy, point.asr, point.epoch or 0, point.run, point.index),
        default=None,
    )


def authors_or_printed_start(evidence: Evidence, paper: Paper, cell: Cell) -> Point | None:
    """The start model of the authors' points of a cell, None where there are no points of it.

    Their CC6M files hold no evaluation of it: then it is what the paper prints in Table 2, as
    counts of the authors' images.
    """
    points = _authors(evidence, cell, CLEANCLIP)
    measured = evidence.authors_start(cell.dataset, cell.objective, cell.clean_size)
    printed = paper.start(cell.dataset, cell.objective)
    if measured or not points or not printed:
        return measured
    like = points[0]
    return replace(
        like,
        step=0,
        correct=round(printed.accuracy * like.images),
        attacked=round(printed.asr * like.attackable),
        run=PRINTED,
        index=0,
    )


def drop(evidence: Evidence, start: Point | None, best: Point | None) -> AccuracyDrop | None:
    """Relative loss of accuracy from the start model to `best`; from paired images with bits."""
    if start is None or best is None or start.correct == 0:
        return None
    settings, both, paired = evidence.settings, None, None
    before, after = evidence.correct(start), evidence.correct(best)
    if before is not None and after is not None:
        both = int((before & after).sum())
        gained, lost = best.correct - both, start.correct - both
        change, interval = intervals.paired_difference(
            gained, lost, best.images, settings.confidence
        )
        paired = PairedChange(gained, lost, change, interval, intervals.mcnemar(gained, lost))
    value, interval = intervals.relative_drop(
        start.correct, best.correct, best.images, both, settings.confidence
    )
    return AccuracyDrop(value, interval, paired)


def _number(
    evidence: Evidence,
    paper: float | None,
    ours: Point | None,
    authors: Point | None,
    attack: bool = False,
) -> dict[str, Any]:
    """The fields of a `Number`; `attack`: of the ASR."""

    def share(point: Point | None) -> float | None:
        return point and (point.asr if attack else point.accuracy)

    value = share(ours)
    counts = ours and ((ours.attacked, ours.attackable) if attack else (ours.correct, ours.images))
    return {
        "paper": paper,
        "authors_points": share(authors),
        "reproduced": value,
        "delta": value - paper if value is not None and paper is not None else None,
        "ci95": counts and wilson(*counts),
        "n": counts and counts[1],
        "run": ours and ours.run,
        "diverged": ours is not None and ours.run in evidence.diverged,
    }


def _key(cell: Cell) -> tuple[Dataset, Objective, CleanSize]:
    return cell.dataset, cell.objective, cell.clean_size


def _ours(evidence: Evidence, cell: Cell, loss: Loss) -> list[Point]:
    """Evaluations of a cell and loss, of the first seed."""
    return evidence.cleaning(*_key(cell), loss, evidence.settings.seeds[0])


def _authors(evidence: Evidence, cell: Cell, loss: Loss) -> list[Point]:
    return evidence.cleaning(*_key(cell), loss, source="authors")


def _diverged(evidence: Evidence, points: list[Point]) -> int:
    """Runs among those of the points whose loss was no finite number at some step."""
    return len({point.run for point in points} & evidence.diverged)
