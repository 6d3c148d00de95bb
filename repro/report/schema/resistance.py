"""How far models resist cleaning in report.json: a measure of ours, not of the paper."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from repro.intervals import Interval
from repro.report.schema.base import Effect, Source, closed
from repro.spec import CleanSize, Dataset

Side = Literal["between", "below", "above"]
"""Where a rate lies among those that were tried: between two, at or below the lowest, or above all.
"""


@closed
class EndState(TypedDict):
    """A model at the end of a cleaning run."""

    seed: int
    asr: float
    accuracy: float
    kept: float
    """Accuracy as a share of the start model's."""
    run: str


@closed
class EqualFinetuning(TypedDict):
    """Both models after as many steps at one learning rate; lists have the same seeds in order."""

    learning_rate: float
    step: int
    mmcl: list[EndState]
    mmcl_ssl: list[EndState]
    asr: Effect
    """ASR left in the MMCL + SSL model less that in the MMCL model, over seeds."""
    kept: Effect
    """The same for the share of the start accuracy that is kept."""


@closed
class ReachedRate(TypedDict):
    """The lowest learning rate whose run ends at the cap."""

    seed: int
    rate: float
    """Interpolated; of the lowest or highest that was tried where it lies beyond them."""
    side: Side


@closed
class LowestRates(TypedDict):
    """Lowest rates of both models; lists have the same seeds in order."""

    mmcl: list[ReachedRate]
    mmcl_ssl: list[ReachedRate]
    ratio: float | None
    """Geometric mean over seeds of the MMCL + SSL model's rate over that of the MMCL model; null
    where on some seed no rate takes the MMCL model to the cap, or every rate the other one.
    """
    ratio_ci: Interval | None
    """Student's, of the logarithms; null for one seed."""
    at_least: bool
    """Whether some seed's ratio is a lower bound only."""


@closed
class TradeOff(TypedDict):
    """Share of the start accuracy kept against the ASR allowed, means over seeds."""

    source: Source
    seeds: int
    mmcl: list[float]
    """At the caps of `Resistance`; a seed without a model at the cap counts as 0."""
    mmcl_ssl: list[float]
    area: Effect
    """Mean over the caps of what the MMCL model keeps, less what the MMCL + SSL model keeps."""


@closed
class ResistanceCell(TypedDict):
    """The two models of a dataset, cleaned with as many pairs."""

    dataset: Dataset
    clean_size: CleanSize
    equal: list[EqualFinetuning]
    """By learning rate, rising."""
    rates: LowestRates | None
    """Null where no seed has runs of both models."""
    trade_offs: list[TradeOff]
    """Ours, then the authors', as far as there are any."""


@closed
class Resistance(TypedDict):
    """How far MMCL + SSL models resist CleanCLIP more than MMCL models do."""

    study: str | None
    """The study whose seeds it is over; null for the runs of this report."""
    seeds: list[int]
    caps: list[float]
    """ASRs allowed, at which the trade-offs are given."""
    cells: list[ResistanceCell]
