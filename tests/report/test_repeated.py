"""Verdicts over the seeds of a study that cleans every cell of Table 1, be it by CleanCLIP alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.article.facts import claim_rows
from repro.report.article.latex import tex
from repro.report.document import claims_of
from repro.report.pages.findings import findings_block
from repro.runs.published import read_results
from repro.study.archive import write_archive
from repro.study.spec import load_study
from tests.support.ledger import build_at, write_run, write_study, write_study_spec


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic study, and two seeds more of CleanCLIP in every cell, archived."""
    root = tmp_path_factory.mktemp("repeated")
    write_study(root)
    write_study_spec(root, "again", {"default": {}})
    seeds = load_profile("mini", root / "specs", {"pretrain.seeds": [3, 4]})
    for spec in pretrain_runs(seeds, variant="default"):
        write_run(root / "made", spec, [(0.4, 0.9)])
    for spec in clean_runs(seeds, variant="default"):
        if spec.loss == "mmcl_ssl":
            write_run(root / "made", spec, [(0.4, 0.9), (0.36, 0.02)])
    archived = ((record, rows) for _, record, rows in read_results(root / "made"))
    write_archive(root / "results/studies/again.jsonl.gz", archived)
    return root


@pytest.fixture
def pages(study: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """Its document and pages."""
    return build_at(study, load_profile("mini", study / "specs"), monkeypatch)


def test_cleanclip_alone_in_every_cell_judges_the_main_claims(
    pages: tuple[dict[str, Any], str], study: Path
) -> None:
    document, page = pages
    (found,) = document["studies"]
    over_seeds = {claim["id"] for claim in found["claims"]}
    losses = {claim.id: claim.loss for claim in claims_of(study).claims}
    assert {losses[name] for name in over_seeds} == {None, "mmcl_ssl"}
    assert {claim["id"] for claim in document["headline"]["claims"]} <= over_seeds
    assert document["resistance"]["seeds"] == [3, 4]
    assert page.index("Over seeds 3, 4") < page.index('id="answer"')
    assert "on seeds 3, 4" in findings_block("mini")
    assert "“long version” of the paper is its v4 on arXiv" in page


def test_claims_about_other_losses_keep_this_reports_own_verdict(
    pages: tuple[dict[str, Any], str],
) -> None:
    document, _ = pages
    rows = {row.claim["id"]: row for row in claim_rows(document)}
    own = {name for name, row in rows.items() if row.own_only}
    over_seeds = {claim["id"] for claim in document["studies"][0]["claims"]}
    assert own == rows.keys() - over_seeds != set()
    verdicts = {claim["id"]: claim["verdict"] for claim in document["claims"]}
    assert {name: rows[name].verdict for name in own} == {name: verdicts[name] for name in own}
    assert tex(document, "0" * 64).count(r"{\scriptsize (own)}") == len(own)


def test_the_study_of_seeds_is_such_a_study(root: Path) -> None:
    """Else the report would have no verdict over seeds."""
    study = load_study("seeds", root / "specs")
    assert (study.datasets, study.clean_sizes) == (["cc3m", "cc6m"], ["100k", "200k"])
    reference = study.variants[study.reference]
    assert reference.pretrain_objectives == ["mmcl", "mmcl_ssl"] and "mmcl_ssl" in study.losses
