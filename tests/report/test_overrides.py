"""Runs with values of their own: named on the page, shown in the tables, and in no verdict."""

from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.claims import load_claims
from repro.report.document import build_document, plain
from repro.report.evidence import Evidence, read_evidence
from tests.support.ledger import EVALUATIONS, outcome, write_run, write_specs


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """Every run of `mini` with another number of warm-up steps."""
    write_specs(tmp_path)
    other = {"clean.warmup_steps": 3}
    profile = load_profile("mini", tmp_path / "specs", other)
    for spec in [*pretrain_runs(profile), *clean_runs(profile)]:
        steps = np.linspace(0, 1, EVALUATIONS).tolist()
        write_run(tmp_path, spec, [outcome(spec, step, 0.5) for step in steps])
    with chdir(tmp_path):
        return read_evidence(profile)


def test_departures_are_named_and_feed_no_verdict(evidence: Evidence, tmp_path: Path) -> None:
    def document_of(evidence: Evidence) -> Any:
        return plain(build_document(evidence, load_claims(), ()))

    with chdir(tmp_path):
        given = document_of(evidence)
        as_the_profile = document_of(replace(evidence, departures=()))
        without_runs = document_of(replace(evidence, runs=()))

    [line] = evidence.departures
    assert line.startswith("clean.warmup_steps: 3 instead of the profile's ")
    assert f"Not the profile mini: {line}. No verdict rests on it." in given["notices"]
    assert given["verdicts"] == without_runs["verdicts"] != as_the_profile["verdicts"]
    assert given["tables"] == as_the_profile["tables"] != without_runs["tables"]
