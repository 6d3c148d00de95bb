"""What head and summary of the report say is computed: title, time, and what hangs on the cap."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from repro.report.article import latex
from repro.report.pages.answer import answer
from repro.report.pages.figures import hardly_any, scatter
from repro.report.pages.summary import other_caps, report_title

BUILD = Path("report/build/mini")


@pytest.fixture(scope="module")
def document(built: Path) -> dict[str, Any]:
    """report.json of the synthetic study."""
    return json.loads((built / BUILD / "report.json").read_bytes())


def changed(document: dict[str, Any], verdict: str, stand_in: str = "") -> dict[str, Any]:
    """The document with another verdict on the paper's answer."""
    other = copy.deepcopy(document)
    other["headline"]["verdict"] = verdict
    other["stand_in"] = stand_in
    return other


@pytest.mark.parametrize(
    ("verdict", "begin"),
    [
        ("reproduced", "[Re] Effective"),
        ("not reproduced", "[¬Re] Effective"),
        ("direction only", "Replication of: Effective"),
        ("undecided", "Replication of: Effective"),
        ("not run", "Replication of: Effective"),
    ],
)
def test_the_title_has_a_mark_where_there_is_a_verdict_on_the_papers_data(
    document: dict[str, Any], verdict: str, begin: str
) -> None:
    assert report_title(changed(document, verdict)).startswith(begin)
    small = report_title(changed(document, verdict, "icons"))
    assert small.startswith("Small-scale replication of: Effective")


def test_a_replay_of_the_authors_points_is_no_replication(document: dict[str, Any]) -> None:
    replayed = {**changed(document, "reproduced"), "profile": "replay", "runs": {}}
    assert report_title(replayed).startswith("Replication of:")


def test_no_page_of_a_small_study_says_that_it_succeeded(built: Path) -> None:
    """Its verdict is `reproduced`, by icons."""
    for name in ("index.html", "report.tex"):
        text = (built / BUILD / name).read_text()
        assert "[Re]" not in text
        assert "Small-scale replication of: Effective Backdoor" in text


def test_the_version_of_the_paper_stands_beside_its_address(
    built: Path, document: dict[str, Any]
) -> None:
    version = document["paper"]["version"]
    assert "workshop text" in version and "v4" in version
    assert f"</a>\n({version})" in (built / BUILD / "index.html").read_text()
    assert f"}}\n({version})" in (built / BUILD / "report.tex").read_text()


def test_the_kept_share_of_the_claims_is_the_green_band_and_the_success_region(
    document: dict[str, Any],
) -> None:
    """With 80% to keep, a fifth may be lost."""
    other = copy.deepcopy(document)
    other["settings"]["kept_share"] = 0.80
    assert [hardly_any(of) for of in (document, other)] == pytest.approx([0.05, 0.20])
    assert r"hardly any (at most 20\%)" in latex.tex(other, "0" * 64)

    # The band is the first patch of the answer, the region's edge the first line of a panel.
    band = answer(other).axes[0].patches[0]
    assert band.get_x() + band.get_width() == pytest.approx(0.20)
    (edge,) = [
        line
        for line in scatter(other, "figure1").axes[0].lines
        if line.get_gid() == "figure1-0-edge"
    ]
    assert edge.get_ydata()[0] == pytest.approx(0.80), "of the start, on stand-in data"


def test_talk_with_the_authors_is_told_where_the_claims_file_has_some(
    document: dict[str, Any],
) -> None:
    assert "Communication with" not in latex.tex(document, "0" * 64)
    other = copy.deepcopy(document)
    other["paper"]["communication"] = "They sent 5% of the points."
    told = r"\textbf{Communication with the original authors.} They sent 5\% of the points."
    assert told in latex.tex(other, "0" * 64)


def caps(*steps: list[tuple[float, float]]) -> dict[str, Any]:
    """A document with a cap of 5% and these sweeps, a cell each, and one of the authors."""
    cells = [{"source": "ledger", "dataset": f"cell {n}", "steps": s} for n, s in enumerate(steps)]
    authors = {"source": "authors", "dataset": "theirs", "steps": [(0.0, 0.0), (0.05, 0.9)]}
    return {
        "settings": {"asr_cap": 0.05},
        "statistics": {"threshold_sweep": [*cells, authors]},
    }


def test_what_hangs_on_the_cap_is_the_greatest_change_at_half_or_twice_of_it() -> None:
    """0.30 at 5%, 0.28 at 2.5% and 0.33 at 10%; the second cell has no model at 2.5%."""
    found = other_caps(
        caps(
            [(0.01, 0.25), (0.02, 0.28), (0.05, 0.30), (0.09, 0.33), (0.11, 0.50)],
            [(0.04, 0.20), (0.10, 0.21)],
            [(0.30, 0.40)],
        )
    )
    assert found is not None
    assert (found.low, found.high) == (0.025, 0.1)
    assert (found.change, found.row["dataset"]) == (pytest.approx(0.03), "cell 0")
    assert (found.cleaned, found.lost) == (2, 1)


def test_where_no_model_was_cleaned_nothing_hangs_on_the_cap() -> None:
    assert other_caps(caps([(0.30, 0.40)], [])) is None


def test_the_summary_says_what_was_easy_only_where_the_points_were_read(
    built: Path, document: dict[str, Any]
) -> None:
    text = (built / BUILD / "report.tex").read_text()
    assert "What was easy" not in text and "depends strongly" not in text
    found = other_caps(document)
    assert found is not None
    assert rf"changes by up to \num{{{100 * found.change:.1f}}}" in text

    files = [{"name": "a", "sha256": "0" * 64, "points": n, "verified": True} for n in (4, 3)]
    read = latex.tex({**document, "authors_files": files}, "0" * 64)
    assert re.search(r"What was easy.\} The authors published [^.]* the 7 of them", read)
