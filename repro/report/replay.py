"""`python -m repro replay DIR --out OUT`: tables and figures from the authors' published points.

Needs no GPU. The document has the shape of the main report's, with `authors_points` filled and
`reproduced` empty.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from repro.profile import load_profile
from repro.report.authors import authors_points
from repro.report.build import build
from repro.report.evidence import Evidence
from repro.report.format import percent
from repro.spec import StopEarly

NAME = "replay"
EPOCHS = 20
"""Of a cleaning run of the authors."""


def replay(folder: Path, out: Path) -> dict[str, Any]:
    """Build report.json and index.html in `out` from the result files in `folder`."""
    return build(replay_evidence(folder), out, latex_too=False)


def replay_evidence(folder: Path | None) -> Evidence:
    """Evidence that consists of the authors' points alone.

    Those in `folder`, or if None in the folder that REPRO_AUTHORS_DIR names.
    """
    profile = load_profile("authors").model_copy(update={"name": NAME})
    evidence = Evidence(profile, authors=authors_points(folder))
    rule = load_profile("paper_lean").clean.stop_early
    runs, lost = early_end(evidence.authors_frame, rule) if rule else (0, [])
    if not lost:
        return evidence
    lowest = min(evaluations.asr.min() for evaluations in lost)
    notice = (
        f"The early end of paper_lean would have ended {len(lost)} of {runs} runs of these files "
        f"and left out {sum(map(len, lost))} evaluations, the lowest ASR of which is "
        f"{percent(lowest)}%."
    )
    return replace(evidence, notices=(notice,))


def early_end(points: pd.DataFrame, rule: StopEarly) -> tuple[int, list[pd.DataFrame]]:
    """How many runs the authors' points are of, and of each that the rule ends the evaluations that
    it leaves out.

    A series joins runs of 20 epochs. CC3M was evaluated before cleaning and after each epoch; CC6M
    every 1,500 steps and after each epoch, with batches of 128 for MMCL and of 64 otherwise (code:
    attack-cleanclip src/train.py). A series that is no whole number of such runs is left alone.
    """
    runs = 0
    lost = []
    for _, series in points.groupby("run", sort=False):
        first = series.iloc[0]
        start = first.dataset == "cc3m"
        if start or first.loss == "mmcl":
            an_epoch = 1
        else:
            an_epoch = 2 if first.clean_size == "100k" else 3

        length = start + EPOCHS * an_epoch
        seen = start + rule.epochs * an_epoch
        if len(series) % length:
            continue
        for _, run in series.groupby(np.arange(len(series)) // length):
            runs += 1
            if (run.asr[:seen] >= rule.asr).all():
                lost.append(run[seen:])
    return runs, lost
