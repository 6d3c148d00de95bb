"""Places of the paper's tables and figures: dataset slots, cleaning sizes, objectives, losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

from repro.report.schema.base import CellKeys, ModelKeys
from repro.spec import CleanSize, Dataset, Loss, Objective

DATASETS: tuple[Dataset, ...] = get_args(Dataset)
SIZES: tuple[CleanSize, ...] = get_args(CleanSize)
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
LOSSES: tuple[Loss, ...] = get_args(Loss)
CLEANCLIP: Loss = "mmcl_ssl"
"""CleanCLIP is finetuning with L_MMCL + L_SSL (paper Sec. 3)."""


class Model(NamedTuple):
    """A pre-trained model, whatever its seed."""

    dataset: Dataset
    objective: Objective

    @property
    def keys(self) -> ModelKeys:
        """As report.json names it."""
        return {"dataset": self.dataset, "pretrain_objective": self.objective}


class Cell(NamedTuple):
    """A place in Table 1."""

    dataset: Dataset
    clean_size: CleanSize
    objective: Objective

    @property
    def keys(self) -> CellKeys:
        """As report.json names it."""
        return {
            "dataset": self.dataset,
            "clean_size": self.clean_size,
            "pretrain_objective": self.objective,
        }


TABLE1_ROWS: tuple[tuple[Dataset, CleanSize], ...] = (
    ("cc3m", "100k"),
    ("cc6m", "100k"),
    ("cc6m", "200k"),
)
"""Rows of Table 1 as corrected (specs/claims.yaml, errata).

No CC3M model was cleaned with 200K pairs.
"""

PANELS: dict[str, tuple[Cell, ...]] = {
    "figure1": (
        Cell("cc3m", "100k", "mmcl"),
        Cell("cc3m", "100k", "mmcl_ssl"),
    ),
    "figure2": (
        Cell("cc6m", "100k", "mmcl"),
        Cell("cc6m", "100k", "mmcl_ssl"),
    ),
    "figure3": (
        Cell("cc6m", "100k", "mmcl_ssl"),
        Cell("cc6m", "200k", "mmcl_ssl"),
        Cell("cc6m", "100k", "mmcl"),
        Cell("cc6m", "200k", "mmcl"),
    ),
}
"""Panels of the paper's scatter plots; the paper lacks the control, the last two of Figure 3."""


def cells(
    rows: Sequence[tuple[Dataset, CleanSize]] = TABLE1_ROWS,
    objectives: Sequence[Objective] = OBJECTIVES,
) -> Iterator[Cell]:
    """Cells in the order of Table 1: by dataset and cleaning size, then by objective."""
    # The two objectives are what is compared, so they come next to each other.
    for dataset, size in rows:
        for objective in objectives:
            yield Cell(dataset, size, objective)


def models() -> Iterator[Model]:
    """Pre-trained models in the order of Table 2."""
    for dataset in DATASETS:
        for objective in OBJECTIVES:
            yield Model(dataset, objective)
