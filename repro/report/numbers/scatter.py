"""Figures 1 to 3 as numbers."""

from __future__ import annotations

from dataclasses import dataclass

from repro.report.numbers.cells import PANELS, Cell
from repro.report.numbers.evaluations import Point, Source
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.paper import Paper
from repro.report.numbers.tables import authors_or_printed_start
from repro.spec import CleanSize, Dataset, Loss, Objective


@dataclass(frozen=True, slots=True)
class PanelStart:
    """The model that is cleaned, as a mark in a panel."""

    accuracy: float
    asr: float
    run: str


@dataclass(frozen=True, slots=True)
class PanelPaper:
    """What the paper prints about a panel."""

    start_accuracy: float | None
    start_asr: float | None
    clean_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of a scatter plot."""

    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective
    start: PanelStart | None
    paper: PanelPaper


@dataclass(frozen=True, slots=True)
class Dot:
    """One evaluation in a scatter plot."""

    source: Source
    dataset: Dataset
    clean_size: CleanSize | None
    pretrain_objective: Objective
    loss: Loss
    learning_rate: float | None
    seed: int | None
    epoch: float | None
    step: int | None
    accuracy: float
    kept: float | None
    """Accuracy as a share of the start model's; None where no start is known."""
    asr: float
    images: int
    attackable: int
    """Images in the denominator of the ASR."""
    run: str


@dataclass(frozen=True, slots=True)
class ScatterFigure:
    """Figure 1, 2 or 3."""

    panels: list[Panel]
    points: list[Dot]


def figures(evidence: Evidence, paper: Paper) -> dict[str, ScatterFigure]:
    """`figure1` to `figure3`: evaluations of all seeds and losses, ours and the authors'."""
    found = {}
    for name, cells in PANELS.items():
        points: list[Point] = []
        for cell in cells:
            for source in ("ledger", "authors"):
                points += evidence.cleaning(
                    cell.dataset, cell.objective, cell.clean_size, source=source
                )
        panels = [_panel(evidence, paper, cell) for cell in cells]
        dots = [_dot(point, _start_of(evidence, paper, point)) for point in points]
        found[name] = ScatterFigure(panels, dots)
    return found


def _start_of(evidence: Evidence, paper: Paper, point: Point) -> Point | None:
    """The model that was cleaned: of the same seed, or the authors', who tell none."""
    if point.seed is not None:
        return evidence.start(point.dataset, point.objective, point.seed)
    assert point.clean_size is not None
    cell = Cell(point.dataset, point.clean_size, point.objective)
    return authors_or_printed_start(evidence, paper, cell)


def _panel(evidence: Evidence, paper: Paper, cell: Cell) -> Panel:
    start = evidence.start(cell.dataset, cell.objective, evidence.settings.seeds[0])
    started, cleaned = paper.start(cell.dataset, cell.objective), paper.cleaned(*cell)
    return Panel(
        *cell,
        start=start and PanelStart(start.accuracy, start.asr, start.run),
        paper=PanelPaper(
            start_accuracy=started and started.accuracy,
            start_asr=started and started.asr,
            clean_accuracy=cleaned and cleaned.clean_accuracy,
        ),
    )


def _dot(point: Point, start: Point | None) -> Dot:
    return Dot(
        source=point.source,
        dataset=point.dataset,
        clean_size=point.clean_size,
        pretrain_objective=point.objective,
        loss=point.loss,
        learning_rate=point.learning_rate,
        seed=point.seed,
        epoch=point.epoch,
        step=point.step,
        accuracy=point.accuracy,
        kept=point.accuracy / start.accuracy if start and start.accuracy else None,
        asr=point.asr,
        images=point.images,
        attackable=point.attackable,
        run=point.run,
    )
