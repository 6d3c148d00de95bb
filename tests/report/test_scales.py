"""The paper's settings and results beside those of the profiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.profile import load_profile
from repro.report.judging.claims import load_claims
from repro.report.numbers.evidence import Settings
from repro.report.scales import SettingRow, Values, in_words, scale_rows, settings_table
from repro.report.studies.results import read_study_results, studied


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"CC3M": 2000, "CC6M": 2000, "200K": 0.0005}, "CC3M and CC6M: 2,000; 200K: 0.05"),
        ({"": [1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 0.004]}, "6 from 1e-05 to 0.004"),
        ({"MMCL": [0.1, 0.2], "SSL": [0.1, 0.2]}, "0.1, 0.2"),
        ({"": None}, "–"),
    ],
)
def test_a_value_stands_once_after_what_has_it(values: Values, words: str) -> None:
    assert in_words(values) == words


@pytest.mark.parametrize("name", ["smoke", "mini", "midi", "paper"])
def test_every_setting_has_both_values(root: Path, name: str) -> None:
    rows = settings_table(name, root)
    assert len(rows) >= 13
    assert [row.setting for row in rows if not row.paper or not row.here] == []


def test_the_paper_differs_from_itself_in_nothing(root: Path) -> None:
    assert [row for row in settings_table("paper", root) if row.paper != row.here] == []


def test_a_replay_has_no_settings(root: Path) -> None:
    assert settings_table("replay", root) == []
    assert scale_rows("replay", [], load_claims(root / "specs/claims.yaml").paper, root) == []


def test_values_are_those_of_the_profiles(root: Path) -> None:
    rows = {row.setting: row for row in settings_table("mini", root)}
    # A patch of 16 pixels, of 224 and of 32.
    assert rows["patch, of the image (%)"] == SettingRow("patch, of the image (%)", "0.51", "25.0")
    assert rows["pairs of a BatchNorm group"].here == "MMCL: 32; MMCL + SSL: 64"
    assert rows["pre-training batch"].here == "64"
    assert rows["cleaning rates"].paper.startswith("CC3M, 100K: 13 from 1e-05 to 0.004; CC6M")


def test_scales_have_results_of_their_studies_and_the_papers_own(root: Path) -> None:
    settings = Settings.of(load_profile("mini", root / "specs"))
    found = studied(read_study_results("mini", root), settings, 5e-4, root)
    paper = load_claims(root / "specs/claims.yaml").paper
    mini, midi, printed = scale_rows("mini", found.studies, paper, root)
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
