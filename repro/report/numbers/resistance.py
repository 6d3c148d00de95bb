"""How far models resist CleanCLIP: what is left at equal finetuning, and what cleaning costs for
any ASR that one allows. Ours, not the paper's. All shares are fractions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from repro.report.measures import CleanedModel, Evaluations, Pair
from repro.report.numbers.cells import OBJECTIVES, TABLE1_ROWS
from repro.report.points import AUTHORS

CAPS = tuple(step / 200 for step in range(41))
"""ASR thresholds at which the trade-off is given: 0 to 20% by half a point."""


def resistance(evaluations: Evaluations, arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The resistance of every dataset and cleaning size that has evaluations of both models.

    `arm` names the runs: those of a study, or "/" for those of the report itself. `equal` has both
    models after as many steps at one learning rate, a list of seeds each; `trade_offs` have the
    share of the start accuracy that is kept at CAPS, means over seeds, ours and the authors'.
    """
    cells = []
    for dataset, size in TABLE1_ROWS:
        ours = evaluations.pair(arm, arm, dataset, size)
        theirs = evaluations.pair(f"{AUTHORS}/", f"{AUTHORS}/", dataset, size)
        equal = _equal(ours)
        trade_offs = [*_trade_off("ledger", ours), *_trade_off("authors", theirs)]
        if equal or trade_offs:
            measures = {"equal": equal, "trade_offs": trade_offs}
            cells.append({"dataset": dataset, "clean_size": size, **measures})
    study = arm.split("/")[0] or None
    return {"study": study, "seeds": list(seeds), "caps": list(CAPS), "cells": cells}


def kept_at(model: CleanedModel, cap: float) -> float:
    """Share of the start accuracy of the best model at an ASR of at most `cap`; 0 if none is."""
    allowed = model.points.accuracy[model.points.asr <= cap]
    return float(allowed.max() / model.start.accuracy) if len(allowed) else 0.0


def _equal(pair: Pair) -> list[dict[str, Any]]:
    """What is left of both models, by rising learning rate."""
    ends = {objective: _ends(models) for objective, models in pair.items()}
    keys = ["learning_rate", "step"]
    both = ends["mmcl"][[*keys, "seed"]].merge(ends["mmcl_ssl"][[*keys, "seed"]])
    rows = []
    for (rate, step), seeds in both.groupby(keys).seed:
        row: dict[str, Any] = {"learning_rate": rate, "step": step}
        for objective, table in ends.items():
            at = (table.learning_rate == rate) & (table.step == step) & table.seed.isin(seeds)
            columns = ["seed", "asr", "accuracy", "kept", "run"]
            row[objective] = table.loc[at, columns].sort_values("seed").to_dict("records")
        rows.append(row)
    return rows


def _ends(models: Mapping[int, CleanedModel]) -> pd.DataFrame:
    columns = ["learning_rate", "step", "seed", "asr", "accuracy", "run"]
    tables = [
        model.ends[columns].assign(kept=model.ends.accuracy / model.start.accuracy)
        for model in models.values()
    ]
    return pd.concat(tables) if tables else pd.DataFrame(columns=[*columns, "kept"])


def _trade_off(source: str, pair: Pair) -> list[dict[str, Any]]:
    """One entry, or none where no seed has both models."""
    seeds = pair["mmcl"].keys() & pair["mmcl_ssl"].keys()
    if not seeds:
        return []
    curves: dict[str, list[float]] = {
        objective: [fmean(kept_at(pair[objective][seed], cap) for seed in seeds) for cap in CAPS]
        for objective in OBJECTIVES
    }
    return [{"source": source, "seeds": len(seeds), **curves}]
