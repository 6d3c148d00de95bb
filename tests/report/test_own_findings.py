"""The page of findings tells our own claims over the seeds of a study that repeats the graph."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.numbers.intervals import geometric
from repro.report.pages.findings import findings_block
from repro.runs.published import read_results
from repro.spec import RunSpec
from repro.study.archive import write_archive
from tests.support.ledger import write_run, write_specs, write_study_spec

TRIED = [1e-5, 1e-4, 1e-3]
LEFT = {"mmcl": (0.50, 0.02, 0.01), "mmcl_ssl": (0.90, 0.70, 0.02)}
"""ASR at the end of runs at the three rates: the middle one cleans the MMCL model only."""


def ends(spec: RunSpec, kept: float) -> tuple[float, float]:
    """Accuracy and ASR at the end of a cleaning run."""
    place = TRIED.index(spec.schedule.learning_rate)

    # On the other seed both models keep a little more of the attack.
    return kept, LEFT[spec.pretrain_objective][place] + 0.01 * spec.seed


def block_of(root: Path, kept: float, *, whole: bool = True) -> str:
    """The generated part of the page, where CleanCLIP leaves an accuracy of `kept` of 40%.

    `whole`: whether the study repeats the whole graph, or the 100K cells alone.
    """
    cells = len(write_specs(root).clean.cells)
    rates = {f"clean.cells.{cell}.learning_rates": TRIED for cell in range(cells)}
    write_study_spec(root, "again", {"default": rates})
    profile = load_profile("mini", root / "specs", {"pretrain.seeds": [0, 1], **rates})
    for spec in pretrain_runs(profile, variant="default"):
        write_run(root / "made", spec, [(0.4, 0.9)])
    for spec in clean_runs(profile, variant="default"):
        if whole or spec.clean_size == "100k":
            write_run(root / "made", spec, [(0.4, 0.9), ends(spec, kept)])
    write_archive(
        root / "results/studies/again.jsonl.gz",
        ((record, rows) for _, record, rows in read_results(root / "made")),
    )
    return findings_block("mini", root)


def lines_of(block: str, claim: str) -> list[list[str]]:
    """Cells of the table's lines of a claim."""
    found = [line for line in block.splitlines() if line.startswith(f"| {claim} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_our_claims_have_verdict_numbers_and_control_over_seeds(tmp_path: Path):
    block = block_of(tmp_path, kept=0.40)
    assert "(ours, not the paper's), on seeds 0, 1" in block
    assert re.search(
        r"\[resists-at-equal-finetuning\].*“The finetuning .*” \*\*holds here\*\*", block
    )

    # Both datasets; 70% less 2% on either seed, at the middle rate.
    small, large = lines_of(block, "resists-at-equal-finetuning")
    assert (small[1], large[1]) == ("CC3M, 100K", "CC6M, 100K")
    values = [float(text) for text in re.findall(r"([\d.]+) \(learning rate 0.0001\)", small[3])]
    assert values == pytest.approx([68, 68], abs=1)
    mean, low, high = map(float, re.findall(r"-?[\d.]+", small[4]))
    assert mean == pytest.approx(sum(values) / 2, abs=0.06) and low <= mean <= high
    assert small[2] == "**holds here**"
    assert small[5].startswith("holds: 0.0% of the accuracy lost at ASR ")

    # A factor and no percentage: about ten, its mean that of logarithms.
    line, _ = lines_of(block, "needs-a-higher-rate")
    ratios = [float(text) for text in re.findall(r"[\d.]+", line[3])]
    assert ratios == pytest.approx([10.5, 10.5], rel=0.1)
    assert float(line[4].split()[0]) == pytest.approx(geometric(ratios, 0.95)[0], abs=0.02)


def test_our_claims_are_not_tested_where_the_control_fails(tmp_path: Path):
    block = block_of(tmp_path, kept=0.30)
    for claim in ("resists-at-equal-finetuning", "needs-a-higher-rate", "keeps-less-accuracy"):
        lines = lines_of(block, claim)
        assert len(lines) == 2
        for line in lines:
            assert line[2] == "**not tested: control failed**"
            assert line[5].startswith("fails: 25.0% of the accuracy lost")


def test_a_study_of_a_part_of_the_graph_tells_nothing_of_our_claims(tmp_path: Path):
    block = block_of(tmp_path, kept=0.40, whole=False)
    assert "| default" in block.replace("**", "")
    assert "ours, not the paper's" not in block and "needs-a-higher-rate" not in block
