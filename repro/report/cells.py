"""Places of the paper's tables and figures: datasets, cleaning sizes, objectives, losses."""

from typing import NamedTuple, get_args

from repro.spec import CleanSize, Dataset, Loss, Objective

DATASETS: tuple[Dataset, ...] = get_args(Dataset)
OBJECTIVES: tuple[Objective, Objective] = ("mmcl", "mmcl_ssl")
LOSSES: tuple[Loss, ...] = ("mmcl", "ssl", "mmcl_ssl")
"""Those of the paper; further ones have places in the tables of studies alone."""
CLEANCLIP: Loss = "mmcl_ssl"
"""CleanCLIP is finetuning with L_MMCL + L_SSL (paper Sec. 3)."""


class Cell(NamedTuple):
    """A place in Table 1."""

    dataset: Dataset
    clean_size: CleanSize
    pretrain_objective: Objective


TABLE1_ROWS: tuple[tuple[Dataset, CleanSize], ...] = (
    ("cc3m", "100k"),
    ("cc6m", "100k"),
    ("cc6m", "200k"),
)
"""Rows of Table 1 as corrected (specs/claims.yaml, errata): no CC3M model has 200K pairs."""
CELLS = tuple(Cell(*row, objective) for row in TABLE1_ROWS for objective in OBJECTIVES)

PANELS: dict[str, tuple[Cell, ...]] = {
    "figure1": CELLS[:2],
    "figure2": CELLS[2:4],
    "figure3": (CELLS[3], CELLS[5], CELLS[2], CELLS[4]),
}
"""Panels of the paper's scatter plots; the paper lacks the control, the last two of Figure 3."""
