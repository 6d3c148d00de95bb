"""How far models resist CleanCLIP: what is left at equal finetuning, and what cleaning costs for
any ASR that one allows. Ours, not the paper's. All shares are fractions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from repro.report.cells import OBJECTIVES, TABLE1_ROWS
from repro.report.measures import CleanedModel, Evaluations, Pair, best_first
from repro.report.points import AUTHORS
from repro.spec import Objective

CAPS = tuple(step / 200 for step in range(41))
"""ASR thresholds at which the trade-off is given: 0 to 20% by half a point."""


@dataclass(frozen=True)
class AtThreshold:
    """The best models of both objectives at one ASR threshold, means over seeds."""

    cap: float
    cleaned: dict[Objective, int]
    """Seeds on which some evaluation reaches the threshold."""
    seeds: int
    """Those on which both models do, of which all that follows is."""
    accuracy: dict[Objective, float | None]
    lost: dict[Objective, float | None]
    """Share of the accuracy before cleaning."""


def resistance(evaluations: Evaluations, arm: str) -> dict[str, Any]:
    """The resistance of every dataset and cleaning size that has evaluations of both models.

    `arm` names the runs: those of a study, or "/" for those of the report itself; `rate` is that of
    the measure `asr_left_at_rate`, None where the rules have none. `equal` has both models after as
    many steps at one learning rate, a list of seeds each, and on how many the MMCL + SSL model is
    left with `more` ASR; `trade_offs` have the share of the start accuracy that is kept at CAPS,
    means over seeds, ours and the authors'; `thresholds` have AtThreshold of all CAPS but 0.
    """
    cells = []
    for dataset, size in TABLE1_ROWS:
        ours = evaluations.pair(arm, arm, dataset, size)
        theirs = evaluations.pair(f"{AUTHORS}/", f"{AUTHORS}/", dataset, size)
        equal = _equal(ours)
        trade_offs = [*_trade_off("ledger", ours), *_trade_off("authors", theirs)]
        if equal or trade_offs:
            cells.append(
                {
                    "dataset": dataset,
                    "clean_size": size,
                    "equal": equal,
                    "trade_offs": trade_offs,
                    "thresholds": thresholds(ours) if equal else [],
                }
            )
    study = arm.split("/")[0] or None
    return {"study": study, "rate": evaluations.context.rate, "caps": CAPS, "cells": cells}


def kept_at(model: CleanedModel, cap: float) -> float:
    """Share of the start accuracy of the best model at an ASR of at most `cap`; 0 if none is."""
    return float(max(model.points.kept[model.points.asr <= cap], default=0.0))


def thresholds(pair: Pair) -> list[AtThreshold]:
    """What cleaning costs both models at each of CAPS but 0."""
    # By seed, the evaluations from the best on and the accuracy before them.
    ranked = {
        objective: {seed: (best_first(of.points), of.start.accuracy) for seed, of in models.items()}
        for objective, models in pair.items()
    }
    return [_at_threshold(ranked, cap) for cap in CAPS[1:]]


def _at_threshold(
    ranked: Mapping[Objective, Mapping[int, tuple[pd.DataFrame, float]]], cap: float
) -> AtThreshold:
    best: dict[Objective, dict[int, tuple[float, float]]] = {}
    for objective, models in ranked.items():
        best[objective] = {}
        for seed, (points, start) in models.items():
            allowed = points.accuracy.to_numpy()[points.asr.to_numpy() <= cap]
            if len(allowed):
                best[objective][seed] = float(allowed[0]), 1 - float(allowed[0]) / start
    both = sorted(set.intersection(*(set(of) for of in best.values())))
    accuracy, lost = (
        {o: fmean(of[seed][place] for seed in both) if both else None for o, of in best.items()}
        for place in (0, 1)
    )
    cleaned = {objective: len(of) for objective, of in best.items()}
    return AtThreshold(cap, cleaned, len(both), accuracy, lost)


def _equal(pair: Pair) -> list[dict[str, Any]]:
    """What is left of both models, by rising learning rate, on the seeds that have both."""
    tables = [model.ends for models in pair.values() for model in models.values()]
    if not tables:
        return []
    ends, keys = pd.concat(tables), ["learning_rate", "step"]
    models = ends.groupby([*keys, "seed"]).pretrain_objective.transform("nunique")
    rows = []
    for (rate, step), at in ends[models == len(OBJECTIVES)].groupby(keys):
        row: dict[str, Any] = {"learning_rate": rate, "step": step}
        for objective, of in at.groupby("pretrain_objective"):
            columns = ["seed", "asr", "kept"]
            row[objective] = of[columns].sort_values("seed").to_dict("records")
        pairs = zip(row["mmcl"], row["mmcl_ssl"], strict=True)
        row["more"] = sum(ssl["asr"] > mmcl["asr"] for mmcl, ssl in pairs)
        rows.append(row)
    return rows


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
