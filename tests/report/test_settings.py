"""The settings table: the paper's values beside the profile's, each with its source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repro.report.scales.printed import setting_lines, setting_words
from repro.report.scales.quoted import QuotedSpec
from repro.report.scales.settings import settings_table
from tests.support.ledger import build_at, write_specs

COMMENTED = """\
# epochs: of the whole file
size: 32  # px; assumed: small
poison:  # paper Sec. 3
  count: 5
  trigger: {patch: 16}  # code: the file "a # b"
objectives:
  # rate, epochs: paper Sec. 3: "64 epochs"
  mmcl: {rate: 0.1, epochs: 64, batch: 8}
  both: {rate: 0.1, epochs: 64, batch: 4}
cells:
  - rates: [1, 2]  # assumed: first
  - rates: [3]  # only words
"""


@pytest.mark.parametrize(
    ("field", "source"),
    [
        ("size", "assumed: small"),
        ("poison.trigger", 'code: the file "a # b"'),
        ("poison.trigger.patch", 'code: the file "a # b"'),
        ("poison.count", "paper Sec. 3"),
        ("objectives.mmcl.epochs", 'paper Sec. 3: "64 epochs"'),
        ("objectives.both.rate", 'paper Sec. 3: "64 epochs"'),
        ("objectives.mmcl.batch", ""),
        ("cells.0.rates", "assumed: first"),
        ("cells.1.rates", ""),
    ],
)
def test_a_value_has_the_source_of_its_comment(tmp_path: Path, field: str, source: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(COMMENTED)
    assert QuotedSpec(path).source(field) == source


@pytest.mark.parametrize("name", ["smoke", "mini", "midi", "paper", "authors"])
def test_every_setting_has_both_values_and_a_source(root: Path, name: str) -> None:
    rows = settings_table(name, root)
    assert len(rows) >= 13
    assert [row["setting"] for row in rows if not row["paper"] or not row["here"]] == []
    assert [
        row["setting"] for row in rows if not re.match("paper|code|assumed", row["source"])
    ] == []


def test_the_paper_differs_from_itself_in_nothing(root: Path) -> None:
    assert [row for row in settings_table("paper", root) if row["paper"] != row["here"]] == []


def test_the_values_are_those_of_the_profiles(tmp_path: Path) -> None:
    write_specs(tmp_path)
    data = tmp_path / "specs/mini/data.yaml"
    changed = re.sub(
        r"num_poisoned: \{.*\}", "num_poisoned: {cc3m: 1494, cc6m: 30}", data.read_text()
    )
    data.write_text(re.sub(r"image_size: \d+", "image_size: 64", changed))
    pretrain = tmp_path / "specs/mini/pretrain.yaml"
    pretrain.write_text(pretrain.read_text().replace("image_size: 32", "image_size: 64"))

    lines = {
        line.setting: line
        for line in setting_lines(
            {
                "settings_table": settings_table("mini", tmp_path),
                "context": {"accounting": {"data": {"used": {"cc3m": 14_936, "cc6m": 29_934}}}},
            }
        )
    }
    assert lines["cleaning pairs"].paper == "100K: 100,000; 200K: 200,000"
    assert lines["cleaning pairs"].here == "100K: 2,000; 200K: 4,000"
    assert lines["pairs"].here == "CC3M: 14,936; CC6M: 30,000 (29,934 of them used)"
    assert lines["poisoned pairs (%)"].paper == "CC3M: 0.055; CC6M: 0.05"
    assert lines["poisoned pairs (%)"].here == "CC3M: 10.0; CC6M: 0.1"
    # A patch of 16 px in the paper's 224 px, and in 64 px.
    assert (lines["patch, of the image (%)"].paper, lines["patch, of the image (%)"].here) == (
        "0.51",
        "6.2",
    )
    assert lines["pre-training batch"].paper == "MMCL: 2,048; MMCL + SSL: 1,024"
    assert lines["cleaning rates"].paper.startswith("CC3M, 100K: 13 from 1e-05 to 0.004; ")
    assert lines["evaluations an epoch"].paper == "3"


def test_a_study_without_a_profile_has_no_settings(root: Path) -> None:
    assert settings_table("replay", root) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2048, "2,048"),
        (0.0005, "0.05"),
        (0.25, "25.0"),
        ([0.001], "0.001"),
        ([1e-5, 1e-4, 1e-3, 0.01, 0.1], "1e-05, 0.0001, 0.001, 0.01, 0.1"),
        ([1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0], "6 from 1e-05 to 1"),
    ],
)
def test_values_are_printed_by_their_kind(value: int | float | list[float], words: str) -> None:
    assert setting_words([{"of": [], "value": value}]) == words
    assert setting_words([{"of": ["CC3M", "CC6M"], "value": value}]) == f"CC3M and CC6M: {words}"


def test_the_table_stands_before_the_figures_and_among_the_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = write_specs(tmp_path)
    monkeypatch.setenv("PATH", "")  # no TeX
    document, page = build_at(tmp_path, profile, monkeypatch, latex_too=True)
    source = document["settings_table"][0]["source"]

    # On the page between the answer and the tables, with what "here" stands for.
    assert page.index('id="answer"') < page.index('<table id="settings">')
    assert page.index('<table id="settings">') < page.index('id="tables"')
    assert "what holds here, at profile mini. Here with stand-in data." in page
    assert source.split('"')[0] in page

    # In the PDF before the results.
    tex = (tmp_path / "out/report.tex").read_text()
    methods = tex[tex.index(r"\section{Settings}") : tex.index(r"\section{Results}")]
    assert "102,007,137 parameters" in methods and "pre-training rates" in methods
