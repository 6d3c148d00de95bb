"""Places of the paper's tables and figures: datasets, cleaning sizes, objectives, losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

from repro.spec import CleanSize, Dataset, Loss, Objective

DATASETS: tuple[Dataset, ...] = get_args(Dataset)
SIZES: tuple[CleanSize, ...] = get_args(CleanSize)
OBJECTIVES: tuple[Objective, ...] = ("mmcl", "mmcl_ssl")
LOSSES: tuple[Loss, ...] = ("mmcl", "ssl", "mmcl_ssl")
"""Those of the paper; further ones have places in the tables of studies alone."""
CLEANCLIP: Loss = "mmcl_ssl"
"""CleanCLIP is finetuning with L_MMCL + L_SSL (paper Sec. 3)."""


class Model(NamedTuple):
    """A pre-trained model, whatever its seed."""

    dataset: Dataset
    objective: Objective


class Cell(NamedTuple):
    """A place in Table 1."""

    dataset: Dataset
    clean_size: CleanSize
    objective: Objective


TABLE1_ROWS: tuple[tuple[Dataset, CleanSize], ...] = (
    ("cc3m", "100k"),
    ("cc6m", "100k"),
    ("cc6m", "200k"),
)
"""Rows of Table 1 as corrected (specs/claims.yaml, errata): no CC3M model has 200K pairs."""

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
    for dataset, size in rows:
        for objective in objectives:
            yield Cell(dataset, size, objective)


def models() -> Iterator[Model]:
    """Pre-trained models in the order of Table 2."""
    for dataset in DATASETS:
        for objective in OBJECTIVES:
            yield Model(dataset, objective)
