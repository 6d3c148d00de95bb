"""Made-up evaluations of models and their cleaning, as `repro.report.points` has them."""

from collections.abc import Callable, Iterable, Iterator

import pandas as pd

from repro.report.measures import Context, Evaluations
from repro.report.points import COLUMNS
from repro.spec import CleanSize, Dataset, Objective

IMAGES = 10_000
GRID = (1e-4, 2e-4, 4e-4, 8e-4)
Cell = tuple[Dataset, CleanSize]
CELLS: tuple[Cell, ...] = (("cc3m", "100k"), ("cc6m", "100k"), ("cc6m", "200k"))
End = tuple[float, float]
"""Accuracy and ASR."""
Outcome = Callable[[Objective, int, float], End]
"""The end of a run by objective, seed and learning rate."""


CONTEXT = Context(cap=0.05, rate=4e-4, hull_cap=0.2, kept_share=0.95, weak_start=0.9)


def evaluated(frame: pd.DataFrame, context: Context = CONTEXT) -> Evaluations:
    """The frame by arm, with a threshold of 5%."""
    return Evaluations(frame, context)


def arm(
    outcome: Outcome,
    seeds: Iterable[int],
    name: str = "made/up",
    *,
    rates: Iterable[float] = GRID,
    start: End = (0.4, 0.95),
    objectives: Iterable[Objective] = ("mmcl", "mmcl_ssl"),
    cells: Iterable[Cell] = CELLS,
) -> pd.DataFrame:
    """Runs of CleanCLIP with one evaluation at the start and one at the end."""
    names = dict(zip(("study", "variant"), name.split("/"), strict=True))
    rows = [
        {**names, "dataset": dataset, "clean_size": size, "seed": seed, "loss": "mmcl_ssl"}
        | {"pretrain_objective": objective, "stage": "clean"}
        | {"run": f"{name}-{dataset}-{size}-{seed}-{rate}", **found}
        for dataset, size in cells
        for seed in seeds
        for objective in objectives
        for rate in rates
        for found in _run(rate, start, outcome(objective, seed, rate))
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"diverged": bool, "handed_on": bool, "poisoned": bool})


def _run(rate: float, *ends: End) -> Iterator[dict[str, object]]:
    fixed = {"learning_rate": rate, "attackable": IMAGES, "poisoned": True}
    fixed |= {"diverged": False, "handed_on": False, "untouched": True}
    for step, (accuracy, asr) in enumerate(ends):
        place = {"step": 100 * step, "epoch": float(step), "index": step}
        counts = {"num_correct": round(accuracy * IMAGES), "attacked": asr * IMAGES}
        yield fixed | place | counts | {"accuracy": accuracy, "asr": asr}
