"""Tables, figures and statistics in report.json. All shares are fractions in [0, 1]."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from repro.intervals import Interval
from repro.report.schema.base import CellKeys, ModelKeys, Source, Spread, closed
from repro.spec import Dataset, Loss, Objective

Standing = Literal["below", "undecided", "above"]
"""Where an ASR lies by its whole interval: at or below the cap, across it, or above it."""


@closed
class NumberCell(TypedDict):
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


@closed
class PairedChange(TypedDict):
    """Images that changed sides between two evaluations of the same images."""

    gained: int
    lost: int
    change: float
    """Difference of the accuracies."""
    ci: Interval
    p_value: float
    """McNemar's, exact."""


@closed
class AccuracyDrop(TypedDict):
    """Share of the start accuracy that cleaning costs."""

    value: float
    ci: Interval
    paired: PairedChange | None
    """Null where the images are not known one by one: of the authors' points."""


@closed
class SeedNumber(TypedDict):
    """The best evaluation at the cap of one seed; null where none reached it."""

    seed: int
    accuracy: float | None
    asr: float | None
    run: str | None


@closed
class CleanedNumber(NumberCell):
    """The best evaluation at the cap, and what it was chosen from."""

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
    """Best accuracy among evaluations whose whole ASR interval lies at or below the cap."""
    evaluations: int
    successes: int
    """Evaluations at or below the cap."""
    runs: int
    """Runs of the first seed that were looked at."""
    diverged_runs: int
    """Of these, the ones whose loss was no finite number at some step."""
    lowest_asr: float | None
    missing: int
    """Runs that the profile asks for and the ledger lacks."""
    by_seed: list[SeedNumber]
    spread: Spread | None


@closed
class PositiveControl(TypedDict):
    """Whether CleanCLIP cleans the poisoned MMCL model: only then its failure on another one tells
    anything. Means over seeds.
    """

    holds: bool
    loss: float
    """Share of the start accuracy lost at the cap; a seed that no rate cleaned counts as 1."""
    asr: float
    """Of the best evaluation at the cap; the lowest of a seed that no rate cleaned."""
    start_asr: float
    seeds: int
    cleaned: int
    """Seeds on which some evaluation met the cap."""


@closed
class Table1Row(CellKeys):
    """Accuracy before, and the best after CleanCLIP at ASR <= cap."""

    original_accuracy: NumberCell
    clean_accuracy: CleanedNumber
    control: PositiveControl | None
    """Of the row's dataset and cleaning size; null where the MMCL model was not cleaned."""
    authors_control: PositiveControl | None
    """The same by the authors' points."""


@closed
class StartAccuracy(NumberCell):
    """Accuracy of the models that are cleaned."""

    spread: Spread | None


@closed
class StartAsr(StartAccuracy):
    """ASR of the models that are cleaned."""

    other_denominator: float | None


@closed
class Table2Row(ModelKeys):
    """Accuracy and ASR before cleaning."""

    accuracy: StartAccuracy
    asr: StartAsr


@closed
class LossNumber(NumberCell):
    """The best evaluation at the cap with one finetuning loss."""

    asr: float | None
    authors_asr: float | None
    evaluations: int
    authors_evaluations: int
    diverged_runs: int
    """Runs of the first seed whose loss was no finite number at some step."""


@closed
class LossRow(CellKeys):
    """One finetuning loss in one cell."""

    loss: Loss
    clean_accuracy: LossNumber


@closed
class Table1(TypedDict):
    """Table 1."""

    rows: list[Table1Row]


@closed
class Table2(TypedDict):
    """Table 2."""

    rows: list[Table2Row]


@closed
class LossTable(TypedDict):
    """Finetuning losses compared."""

    rows: list[LossRow]


@closed
class Tables(TypedDict):
    """All tables."""

    table1: Table1
    table2: Table2
    by_loss: LossTable


@closed
class PanelStart(TypedDict):
    """The model that is cleaned, as a mark in a panel."""

    accuracy: float
    asr: float
    run: str


@closed
class PanelPaper(TypedDict):
    """What the paper prints about a panel."""

    start_accuracy: float | None
    start_asr: float | None
    clean_accuracy: float | None


@closed
class FigurePanel(CellKeys):
    """One panel of a scatter plot."""

    start: PanelStart | None
    paper: PanelPaper


@closed
class FigureDot(CellKeys):
    """One evaluation in a scatter plot."""

    source: Source
    loss: Loss
    learning_rate: float | None
    seed: int | None
    epoch: float | None
    step: int | None
    accuracy: float
    kept: float | None
    """Accuracy as a share of the start model's; null where no start is known."""
    asr: float
    images: int
    attackable: int
    """Images in the denominator of the ASR."""
    run: str


@closed
class ScatterFigure(TypedDict):
    """Figure 1, 2 or 3."""

    panels: list[FigurePanel]
    points: list[FigureDot]


@closed
class Selection(TypedDict):
    """Best accuracy at the cap, chosen on one half of the images and measured on the other."""

    splits: int
    chosen: int
    """Splits in which some evaluation met the cap on the choosing half."""
    naive: float | None
    """Chosen and measured on all images, as the paper does."""
    accuracy: float | None
    """Mean on the other half."""
    accuracy_range: Interval | None
    """2.5% and 97.5% quantiles over splits."""
    asr: float | None
    """Mean on the other half."""
    held: float | None
    """Share of the choices that meet the cap on the other half as well."""


@closed
class HonestSelection(CellKeys, Selection):
    """Best accuracy at the cap in a cell, chosen on one half of the images and measured on the
    other, over `splits` random halvings.
    """


@closed
class BestOfN(CellKeys):
    """What trying n learning rates buys."""

    scores: list[float | None]
    """Best accuracy at the cap of each run; null where none met it."""
    curve: list[tuple[int, float | None, float | None, float | None]]
    """Number of rates, lower band, median, upper band; null is a best try that cleans nothing."""


@closed
class CapSweep(CellKeys):
    """Best accuracy as a function of the cap."""

    source: Source
    start: float | None
    steps: list[tuple[float, float]]
    """Cap and accuracy, in rising order of both."""


@closed
class Statistics(TypedDict):
    """How far the choice of the best evaluation carries."""

    honest_selection: list[HonestSelection]
    best_of_n: list[BestOfN]
    threshold_sweep: list[CapSweep]


@closed
class Trajectory(TypedDict):
    """Accuracy and ASR over the epochs of a run."""

    run: str
    stage: Literal["pretrain", "clean"]
    dataset: Dataset
    pretrain_objective: Objective
    clean_size: Literal["100k", "200k"] | None
    loss: Loss
    learning_rate: float
    epochs: list[float]
    accuracy: list[float]
    asr: list[float]


@closed
class ControlRow(ModelKeys):
    """A pre-training run beside the tables: on unpoisoned pairs, or a variant."""

    run: str
    variant: str
    poisoned: bool
    seed: int
    accuracy: float
    asr: float
    accuracy_ci95: Interval
    asr_ci95: Interval


@closed
class PredictedModel(ModelKeys):
    """What a model makes of a few evaluation images."""

    state: Literal["poisoned", "cleaned"]
    run: str
    row: int
    correct: list[bool]
    attacked: list[bool]
    classes: list[str]
    classes_triggered: list[str]


@closed
class ShownPredictions(TypedDict):
    """Outcomes of a few evaluation images, clean and triggered."""

    images: list[int]
    """Numbers of the images in the evaluation set."""
    models: list[PredictedModel]
