"""The paper's settings and results beside those of the profiles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repro.profile import load_profile
from repro.report.judging.claims import load_claims
from repro.report.numbers.evidence import Settings
from repro.report.scales.settings import SettingRow, SettingValue, read_comments, settings_table
from repro.report.scales.table import scale_rows
from repro.report.studies.results import read_study_results, studied

COMMENTED = """\
# epochs: of the whole file
size: 32  # px; assumed: small

# Of the next block.
poison:  # paper Sec. 3
  count: 5
  trigger: {patch: 16}  # code: the file "a # b"
objectives:
  # rate, epochs: paper Sec. 3: "64 epochs"
  mmcl: {rate: 0.1, epochs: 64, batch: 8}
  both: {rate: 0.1, epochs: 64, batch: 4}
cells:
  - rates: [1, 2]  # assumed: first
  - rates: [3]
"""


def test_a_comment_belongs_to_the_value_that_it_follows(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(COMMENTED)
    assert read_comments(path) == {
        "size": "px; assumed: small",
        "poison": "paper Sec. 3",
        "poison.trigger": 'code: the file "a # b"',
        "objectives.mmcl.rate": 'paper Sec. 3: "64 epochs"',
        "objectives.both.rate": 'paper Sec. 3: "64 epochs"',
        "objectives.mmcl.epochs": 'paper Sec. 3: "64 epochs"',
        "objectives.both.epochs": 'paper Sec. 3: "64 epochs"',
        "cells.0.rates": "assumed: first",
    }


@pytest.mark.parametrize("name", ["smoke", "mini", "midi", "paper"])
def test_every_setting_has_both_values_and_a_source(root: Path, name: str) -> None:
    rows = settings_table(name, root)
    assert len(rows) >= 13
    assert [row.setting for row in rows if not row.paper or not row.here] == []
    assert [row.setting for row in rows if not re.match("paper|code|assumed", row.source)] == []


def test_the_paper_differs_from_itself_in_nothing(root: Path) -> None:
    assert [row for row in settings_table("paper", root) if row.paper != row.here] == []


def test_a_replay_has_no_settings(root: Path) -> None:
    assert settings_table("replay", root) == []
    assert scale_rows("replay", [], load_claims(root / "specs/claims.yaml").paper, root) == []


def test_values_are_those_of_the_profiles(root: Path) -> None:
    rows: dict[str, SettingRow] = {row.setting: row for row in settings_table("mini", root)}
    # A patch of 16 pixels, of 224 and of 32.
    patch = rows["patch, of the image (%)"]
    assert (patch.paper[0].value, patch.here[0].value) == ((16 / 224) ** 2, 0.25)
    assert rows["pairs of a BatchNorm group"].here == [
        SettingValue(["MMCL"], 32),
        SettingValue(["MMCL + SSL"], 64),
    ]
    # What is the same for all models stands once and without names.
    assert rows["pre-training batch"].here == [SettingValue([], 64)]
    assert [len(value.of) for value in rows["cleaning rates"].paper] == [1, 2]


def test_scales_have_results_of_their_studies_and_the_papers_own(root: Path) -> None:
    settings = Settings.of(load_profile("mini", root / "specs"))
    found = studied(read_study_results("mini", root), settings, 5e-4, root)
    paper = load_claims(root / "specs/claims.yaml").paper
    mini, midi, printed = scale_rows("mini", found.studies, paper, root)
    assert [row.source for row in (mini, midi, printed)] == ["seeds", "midi", "printed"]
    assert mini.seeds == [10, 11, 12, 13, 14] and midi.pairs > mini.pairs

    mmcl, mmcl_ssl = mini.results
    assert [round(100 * loss, 1) for loss in mmcl.lost.values() if loss] == [11.8, 4.9]
    assert mmcl.at_least == [] and mmcl_ssl.at_least == ["100k"]
    # The paper prints a gain at 100K, and no MMCL model at 200K.
    assert printed.results[0].lost == {"100k": pytest.approx(1 - 24.04 / 23.76)}


def test_without_archives_only_the_paper_has_results(root: Path, tmp_path: Path) -> None:
    (tmp_path / "specs").symlink_to(root / "specs")
    rows = scale_rows("mini", [], load_claims(root / "specs/claims.yaml").paper, tmp_path)
    assert [(row.scale, bool(row.results)) for row in rows] == [
        ("mini", False),
        ("midi", False),
        ("paper", True),
    ]
