"""README.md: its result table comes from report.json, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from repro.markdown import fill
from repro.report.pages.findings import stale_findings
from repro.report.pages.readme import graph_block, results_block, switches_block
from repro.spec import Switches
from tests.support.checkout import dvc

START, END = "<!-- results:start -->", "<!-- results:end -->"


def cell(dataset: str, size: str, objective: str) -> dict[str, str]:
    return {"dataset": dataset, "clean_size": size, "pretrain_objective": objective}


def price_row(variant: str, cleaned: float) -> dict[str, Any]:
    """A model that starts at 40%, and its best accuracy at the cap."""
    return {
        **cell("cc6m", "100k", "mmcl"),
        "variant": variant,
        "means": {"accuracy": 0.40, "cleaned_accuracy": cleaned},
        "values": {"cleaned_accuracy": [cleaned]},
        "not_cleaned": 0,
    }


def document() -> dict[str, Any]:
    """A report of three rows: one measured, one never cleaned, one not run."""
    measured = {"paper": 0.16, "reproduced": 0.25, "ci95": [0.2, 0.305], "n": 3124, "asr": 0.04}
    absent = {"paper": None, "reproduced": None, "ci95": None, "n": None, "asr": None}
    measured["relative_drop"] = absent["relative_drop"] = None
    control = {
        "holds": False,
        "loss": 0.412,
        "asr": 0.032,
        "start_asr": 0.93,
        "seeds": 3,
        "cleaned": 3,
    }
    return {
        "profile": "mini",
        "stand_in": "icons",
        "settings": {"seeds": [0, 1], "asr_cap": 0.05, "confidence": 0.95, "kept_share": 0.95},
        "resistance": {"study": "seeds"},
        "runs": {"results/mini/a": {}},
        "authors_files": [],
        "studies": [
            {
                "name": "control",
                "reference": "default",
                "claims": [],
                "variants": [{"variant": "unpoisoned", "poisoned": False}],
                "rows": [price_row("default", 0.30), price_row("unpoisoned", 0.36)],
            },
            {
                "name": "seeds",
                "reference": "default",
                "variants": [],
                "claims": [
                    {
                        "id": "it-decides",
                        "verdict": "not tested: control failed",
                        "evidence": [{"dataset": "cc6m", "clean_size": "100k", "control": control}],
                    }
                ],
                "rows": [
                    {
                        **cell("cc3m", "100k", "mmcl"),
                        "variant": "default",
                        "seeds": [0, 1, 2],
                        "values": {"cleaned_accuracy": [0.2, 0.22, 0.24]},
                        "tried": 3,
                        "not_cleaned": 0,
                    },
                    {
                        **cell("cc3m", "100k", "mmcl_ssl"),
                        "variant": "default",
                        "seeds": [0, 1, 2],
                        "values": {"cleaned_accuracy": [0.2, None, None]},
                        "tried": 3,
                        "not_cleaned": 2,
                    },
                    {
                        **cell("cc3m", "100k", "mmcl"),
                        "variant": "other",
                        "values": {"cleaned_accuracy": [0.9, 0.9]},
                    },
                ],
            },
        ],
        "headline": {
            "claims": [
                {
                    "id": "it-decides",
                    "dataset": "cc6m",
                    "clean_size": "100k",
                    "verdict": "not tested: control not run",
                }
            ]
        },
        "tables": {
            "table1": {
                "rows": [
                    {
                        **cell("cc3m", "100k", "mmcl"),
                        "original_accuracy": measured,
                        "clean_accuracy": measured | {"evaluations": 9},
                        "control": control | {"seeds": 1, "cleaned": 1},
                    },
                    {
                        **cell("cc3m", "100k", "mmcl_ssl"),
                        "original_accuracy": measured,
                        "clean_accuracy": absent | {"paper": 0.14, "evaluations": 9},
                        "control": control | {"seeds": 1, "cleaned": 1},
                    },
                    {
                        **cell("cc6m", "200k", "mmcl_ssl"),
                        "original_accuracy": absent,
                        "clean_accuracy": absent | {"evaluations": 0},
                        "control": None,
                    },
                ]
            }
        },
    }


def test_the_table_has_the_paper_beside_the_reproduction() -> None:
    lines = results_block(document()).splitlines()
    assert (
        lines[4]
        == "| CC3M, 100K | MMCL | 16.0 | 25.0 [20.0, 30.5] | 16.0 | 25.0 [20.0, 30.5] | 4.0 | 3,124 | 22.0 ± 2.0 (3 seeds) |"
    )
    assert (
        lines[5]
        == "| CC3M, 100K | MMCL + SSL | 16.0 | 25.0 [20.0, 30.5] | 14.0 | none | - | - | none on 2 of 3 seeds |"
    )
    assert lines[6] == "| CC6M, 200K | MMCL + SSL | - | - | - | - | - | - | - |"
    assert "seeds 0, 1" in lines[0] and "Stand-in data: icons." in lines[0]


def test_the_verdict_over_seeds_stands_first_and_each_has_its_control() -> None:
    text = "\n".join(results_block(document()).splitlines()[7:])
    over_seeds, own, _ = text.split("\n\n")
    assert "judged on seeds 0, 1, 2: **CC6M, 100K: not tested: control failed**" in over_seeds
    assert (
        "CC6M, 100K fails: 41.2% of the accuracy lost at ASR 3.2% from a start ASR of 93.0%, "
        "mean of 3 seeds." in over_seeds
    )
    assert "(seeds 0, 1): **CC6M, 100K: not tested: control not run**" in own
    assert "CC3M, 100K fails: 41.2%" in own and "CC6M, 200K not run." in own


def test_the_price_of_the_finetuning_and_what_would_settle_it_stand_below() -> None:
    *_, why = "\n".join(results_block(document()).splitlines()).split("\n\n")
    price, settled = why.splitlines()
    assert price == (
        "Price of the finetuning itself, CC6M, 100K, MMCL: a model without a backdoor loses 4.0 "
        "points of its 40.0% by it, the poisoned one 10.0 of its 40.0%."
    )
    assert "A finetuning under which the control holds" in settled and "for CC6M, 100K." in settled
    assert "nothing that is measured on stand-ins can refute" in settled
    assert "More seeds" not in settled


def test_one_seed_is_no_plural() -> None:
    alone = document()
    alone["settings"]["seeds"] = [10]
    text = results_block(alone)
    assert text.startswith("Profile `mini`, seed 10;") and "in this report (seed 10):" in text


def test_on_stand_in_data_nothing_of_the_papers_is_reproduced() -> None:
    told = document()
    told["headline"]["claims"][0]["verdict"] = "reproduced"
    assert "**CC6M, 100K: holds here**" in results_block(told)
    assert "**CC6M, 100K: reproduced**" in results_block({**told, "stand_in": ""})


def test_filling_twice_is_filling_once(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"a\n{START}\nold\n{END}\nb\n")
    for _ in range(2):
        fill(page, "results", "new\n")
        assert page.read_text() == f"a\n{START}\nnew\n{END}\nb\n"


@pytest.mark.parametrize("text", ["", START, f"{END}{START}", f"{START}{START}{END}"])
def test_a_page_without_its_marks_is_refused(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"page\.md: results: marks missing or out of order"):
        fill(page, "results", "new")
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("README.md", "ladder"),
        ("README.md", "results"),
        ("docs/mini.md", "regime"),
        ("docs/findings.md", "findings"),
    ],
)
def test_the_pages_of_this_repository_can_be_filled(
    root: Path, page: str, name: str, tmp_path: Path
) -> None:
    copy = tmp_path / "page.md"
    copy.write_text((root / page).read_text(encoding="utf-8"), encoding="utf-8")
    fill(copy, name, "| new |")
    assert "| new |" in copy.read_text(encoding="utf-8")


def test_the_table_of_switches_is_that_of_the_protocol_files(root: Path) -> None:
    assert switches_block(root / "specs") in (root / "specs/README.md").read_text(encoding="utf-8")
    assert len(switches_block(root / "specs").splitlines()) == 2 + len(Switches.model_fields)


def test_the_graph_is_that_of_dvc(root: Path) -> None:
    """Stages without their matrix, as DVC itself joins them."""
    block = graph_block(root / "dvc.yaml")
    assert block in (root / "README.md").read_text(encoding="utf-8")

    edges = set(re.findall(r'^"(\w+)@[^"]*" -> "(\w+)@[^"]*";$', dvc(root, "dag", "--dot"), re.M))
    assert len(edges) >= 10
    assert set(re.findall(r"^  (\w+) --> (\w+)$", block, re.M)) == edges


def test_the_findings_are_those_of_the_archives(root: Path) -> None:
    assert stale_findings("mini", root) == []


@pytest.mark.parametrize(
    "page", ["README.md", "docs/design.md", "docs/mini.md", "docs/icons.md", "docs/findings.md"]
)
def test_links_and_files_named_in_the_pages_exist(root: Path, page: str) -> None:
    text = (root / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    trees = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    tree = [line.split()[0] for line in "".join(trees).splitlines() if line[:1].strip()]
    base = (root / page).parent
    generated = ("data/", "models/", "poisoned/", "results/", "work/", "sacred/")
    assert [name for name in links if not (base / name).exists()] == []
    assert [name for name in tree if not (root / name).exists() and name not in generated] == []


def test_the_make_targets_named_in_the_readme_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    assert (
        set(re.findall(r"`(?:PROFILE=\w+ )?make ([a-z]+)", (root / "README.md").read_text()))
        <= targets
    )
