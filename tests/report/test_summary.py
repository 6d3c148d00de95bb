"""What head and summary of the report say is computed: title, time, and what hangs on the cap."""

from __future__ import annotations

import copy
import html
import json
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from repro.report.article import latex
from repro.report.figures.answer import answer
from repro.report.figures.scatter import hardly_any, scatter
from repro.report.format import worded
from repro.report.pages.prepared import mmcl_alone
from repro.report.pages.summary import decided_claims, origin, other_caps, report_title
from repro.report.pages.verdicts import METRICS
from repro.report.schema.judged import Metric

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


def test_the_head_says_who_made_it_when_and_how_it_is_made_again(
    built: Path, document: dict[str, Any], root: Path
) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    names = ", ".join(author["name"] for author in project["authors"])
    assert origin(document).authors == names != ""
    page = (built / BUILD / "index.html").read_text()
    head = " ".join(page[: page.index('id="answer"')].split())
    assert f"Replication report by {names} at profile" in head
    assert f"Runs of 2026-01-02 at commit <code>{'0' * 10}</code>" in head
    assert "<code>PROFILE=mini make reproduce</code>" in head
    assert "Repository" not in project.get("urls", {}) and 'of <a href="' not in head

    later = copy.deepcopy(document)
    later["runs"][next(iter(later["runs"]))]["started"] = "2026-01-09T00:00:00+00:00"
    assert (origin(later).first, origin(later).last) == ("2026-01-02", "2026-01-09")


def test_the_first_screen_says_why_and_what_would_settle_it(built: Path) -> None:
    """The control, the price of the finetuning, and what is missing."""
    page = (built / BUILD / "index.html").read_text()
    head = " ".join(page[: page.index('id="answer"')].split())
    assert re.search(r"CC3M, 100K: holds: \d", head)
    assert "was not run, so its own price cannot be told" in head
    settled = head[head.index("<dt>To settle it</dt>") :]
    assert "More seeds. With one, the spread between trainings is unknown." in settled
    assert "nothing that is measured on stand-ins can refute" in settled


@pytest.mark.parametrize(
    ("verdict", "stand_in", "words"),
    [
        ("reproduced", "icons", "holds here"),
        ("not reproduced", "icons", "does not hold here"),
        ("direction only", "icons", "direction only"),
        ("not tested: control failed", "icons", "not tested: control failed"),
        ("reproduced", "", "reproduced"),
    ],
)
def test_a_verdict_on_stand_in_data_says_where_it_holds(
    verdict: str, stand_in: str, words: str
) -> None:
    assert worded(verdict, stand_in) == words


def test_no_page_of_a_small_study_says_that_a_claim_was_reproduced(built: Path) -> None:
    for name in ("index.html", "studies.html", "report.tex"):
        path = built / BUILD / name
        text = path.read_text() if path.exists() else ""
        assert re.findall(r">(?:not )?reproduced<|textbf\{(?:not )?reproduced\}", text) == []
    assert ">holds here<" in (built / BUILD / "index.html").read_text()


def test_what_a_claim_is_about_is_told_in_words(built: Path) -> None:
    assert set(METRICS) == set(get_args(Metric))
    page, tex = ((built / BUILD / name).read_text() for name in ("index.html", "report.tex"))
    tex = tex.replace(r"\allowbreak{}", "")
    names = [metric for metric in METRICS if "_" in metric]
    assert [name for name in names if f">{name}<" in page] == []
    assert [name for name in names if name.replace("_", r"\_") in tex] == []
    for text in (page, tex):
        assert METRICS["drop_difference"] in html.unescape(" ".join(text.split()))


def test_mmcl_alone_is_compared_with_cleanclip_cell_by_cell(document: dict[str, Any]) -> None:
    """Better, as good, worse, neither cleaned, and not run."""
    best = [(0.3, 0.2), (0.2, 0.2), (None, 0.1), (None, None), (0.4, None)]
    rows = [
        {"loss": loss, "clean_accuracy": {"reproduced": value, "evaluations": 9}}
        for alone, cleanclip in best
        for loss, value in (("mmcl", alone), ("ssl", 0.5), ("mmcl_ssl", cleanclip))
    ]
    rows[-3]["clean_accuracy"]["evaluations"] = 0
    found = mmcl_alone({"tables": {"by_loss": {"rows": rows}}})
    assert (found.better, found.equal, found.compared) == (1, 1, 3)
    assert mmcl_alone(document).compared == 6


def test_accuracy_says_that_each_image_counts_once(built: Path) -> None:
    for name in ("index.html", "report.tex"):
        text = " ".join((built / BUILD / name).read_text().split())
        assert "each image counts once, whatever its class" in text


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


def test_the_first_screen_has_the_claims_of_ours_that_are_decided() -> None:
    """One over seeds, one of a seed alone; a cell that was not run has no value."""
    over_seeds = {"by_seed": [{"value": 0.5}, {"value": 0.6}]}
    claims = [
        {"verdict": "undecided", "metric": "kept_difference", "evidence": [over_seeds]},
        {"verdict": "reproduced", "metric": "lowest_rate_ratio", "evidence": [over_seeds]},
        {
            "verdict": "not reproduced",
            "metric": "kept_difference",
            "evidence": [{"by_seed": []}, {"by_seed": [{"value": 0.5}]}],
        },
    ]
    first, second = decided_claims({"own_claims": claims})
    assert first.ratio and [path for _, path in first.values] == [
        "own_claims/1/evidence/0/spread/mean"
    ]
    assert not second.ratio and [path for _, path in second.values] == [
        "own_claims/2/evidence/1/by_seed/0/value"
    ]
