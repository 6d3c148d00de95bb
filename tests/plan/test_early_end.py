"""The early end of `paper_lean`, tried on runs whose end is known."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from repro.profile import load_profile
from repro.report.document import claims_of
from repro.report.numbers.tables import table1
from repro.report.replay import early_end, replay_evidence
from repro.spec import StopEarly

RULE = StopEarly(epochs=5, asr=0.9)


def test_a_run_is_ended_by_its_first_epochs_alone() -> None:
    """Two evaluations an epoch, 40 a run: never below 90% in ten; once in them; only after them."""
    never = [1.0] * 40
    once = [1.0] * 9 + [0.89] + [1.0] * 30
    later = [1.0] * 10 + [0.01] * 30
    of_file = {"run": "file", "dataset": "cc6m", "clean_size": "100k", "loss": "mmcl_ssl"}
    points = pd.DataFrame([{**of_file, "asr": asr} for asr in never + once + later])
    runs, lost = early_end(points, RULE)
    assert runs == 3
    assert [list(run.index) for run in lost] == [[*range(10, 40)], [*range(90, 120)]]
    assert early_end(points[:-1], RULE) == (0, []), "no whole number of runs"


@pytest.mark.skipif(
    "REPRO_AUTHORS_DIR" not in os.environ,
    reason="NOT TRIED: REPRO_AUTHORS_DIR does not name a clone of the authors' repository",
)
def test_on_the_published_points_no_cell_of_table_1_moves(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    evidence = replay_evidence(Path(os.environ["REPRO_AUTHORS_DIR"]))
    assert load_profile("paper_lean").clean.stop_early == RULE
    points = evidence.authors_frame
    assert len(points) == 5779 and all(file.verified for file in evidence.files)
    runs, ended = early_end(points, RULE)
    lost = pd.concat(ended)
    assert (runs, len(ended), len(lost)) == (167, 73, 2160)
    assert round(lost.asr.min(), 3) == 0.784

    kept = points.drop(lost.index).to_dict("records")
    less = replace(evidence, authors=(kept, evidence.files))
    paper = claims_of(root).paper
    assert table1(less, paper) == table1(evidence, paper)
