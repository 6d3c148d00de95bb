"""Equal runs of several kinds of machine: compared seed by seed, and only where each did the same
work.
"""

from __future__ import annotations

import hashlib
import statistics
from pathlib import Path

import pytest

from repro.ledger import Row, RunRecord
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.numbers.evidence import Settings
from repro.report.pages.findings import findings_block
from repro.report.studies.machines import repeated
from repro.report.studies.results import read_study_results
from repro.runs.published import ROWS, read_results
from repro.study.archive import write_archive
from tests.support.ledger import write_run, write_specs, write_study_spec

CLEANED = (0.30, 0.32, 0.34)
"""Accuracy after cleaning, by seed."""


def better(record: RunRecord, rows: list[Row]) -> tuple[RunRecord, list[Row]]:
    """The run on another machine, where cleaning at seed 1 keeps a tenth of the images more."""
    more = rows[-1].num_images // 10 * (record.spec.seed == 1 and record.spec.stage == "clean")
    last = rows[-1].model_copy(update={"num_correct": rows[-1].num_correct + more})
    rows = [*rows[:-1], last]
    # Another machine's run tells the hash of the rows that it handed on itself.
    text = "".join(row.model_dump_json() + "\n" for row in rows)
    files = record.files | {ROWS: hashlib.sha256(text.encode()).hexdigest()}
    environment = record.environment | {"device": "other"}
    return record.model_copy(update={"environment": environment, "files": files}), rows


def test_the_same_runs_on_two_kinds_of_machine_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At seed 2 the second machine has tried fewer learning rates: that seed is left out."""
    write_specs(tmp_path)
    seeds = load_profile("mini", tmp_path / "specs", {"pretrain.seeds": [0, 1, 2]})
    for spec in [
        *pretrain_runs(seeds, "cc3m", "mmcl", variant="default"),
        *clean_runs(seeds, "cc3m", "mmcl", variant="default"),
    ]:
        if spec.stage == "pretrain" or spec.loss == "mmcl_ssl":
            write_run(
                tmp_path / "made",
                spec,
                [(0.4, 0.9), *([(CLEANED[spec.seed], 0.02)] if spec.stage == "clean" else [])],
            )
    first = [(record, rows) for _, record, rows in read_results(tmp_path / "made")]
    rates = {
        record.spec.schedule.learning_rate for record, _ in first if record.spec.stage == "clean"
    }
    left_out = ("clean", 2, min(rates))
    second = [
        better(record, rows)
        for record, rows in first
        if (record.spec.stage, record.spec.seed, record.spec.schedule.learning_rate) != left_out
    ]
    assert len(first) == 3 * (1 + len(rates)) and len(second) == len(first) - 1

    settings = Settings.of(seeds)
    for name, runs in (("once", first), ("again", second)):
        assert repeated(read_study_results("mini", tmp_path), settings) == [], (
            "one machine has nothing to compare with"
        )
        write_study_spec(tmp_path, name, {"default": {}})
        write_archive(tmp_path / f"results/studies/{name}.jsonl.gz", runs)
    (row,) = repeated(read_study_results("mini", tmp_path), settings)
    assert (row["dataset"], row["pretrain_objective"], row["clean_size"], row["seeds"]) == (
        "cc3m",
        "mmcl",
        "100k",
        [0, 1],
    )
    assert [of["machine"] for of in row["machines"]] == ["cpu, torch 2.13", "other, torch 2.13"]
    here, there = (of["values"]["cleaned_accuracy"] for of in row["machines"])
    assert (there[0] - here[0], there[1] - here[1]) == pytest.approx((0, 0.1), abs=0.003)
    assert (
        row["difference"]["cleaned_accuracy"] == there[1] - here[1]
        and row["difference"]["asr"] == 0
    )
    expected = statistics.mean([statistics.variance(here), statistics.variance(there)]) ** 0.5
    assert row["spread"]["cleaned_accuracy"] == pytest.approx(expected)
    monkeypatch.chdir(tmp_path)
    assert "| CC3M, 100K, MMCL | cpu, torch 2.13 | 0, 1 | 40." in findings_block("mini")
