"""The article of a report at the size of the small study: its length, what TeX says of it, and what
it computes besides the tables of report.json.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import pytest

from repro.report.article import appendix, facts, latex
from repro.report.article.references import REFERENCES
from repro.report.figures.answer import answer
from repro.report.figures.curves import figure_names
from repro.report.figures.drawing import style
from repro.report.figures.scatter import scatter
from repro.report.pages.verdicts import discussion
from repro.report.studies.prices import prices
from repro.study.spec import load_study
from tests.support.whole import EVERY, SHIFT, write_whole

BUILD = Path("report/build/mini")
MOST_PAGES = 10
"""Before the appendix."""
MOST_OVERFULL = 4.0
"""Points that something may stick out into a margin: less than one sees."""
needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex installed")

ATTRIBUTION = {
    "changes": "rasterised",
    "images": [
        {"title": "Róża", "copyright": "Łukasz Č.", "license": "MIT"},
        {"title": "B", "copyright": "C_D & E", "license": None},
        {"title": "F", "copyright": "G", "license": "MIT"},
    ],
    "text": [{"package": "words", "license": "WordNet", "copyright": "P", "use": "synonyms"}],
}


class Compiled(NamedTuple):
    """What TeX made of an article."""

    folder: Path
    log: str
    aux: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's folder of a study with studies beside it, one over five seeds."""
    root = tmp_path_factory.mktemp("whole")
    write_whole(root)
    return root / BUILD


@pytest.fixture(scope="module")
def document(whole: Path) -> dict[str, Any]:
    """Its report.json, with credits."""
    read: dict[str, Any] = json.loads((whole / "report.json").read_bytes())
    read["context"]["attribution"] = ATTRIBUTION
    return read


@pytest.fixture(scope="module")
def text(document: dict[str, Any]) -> str:
    """report.tex in one line."""
    return " ".join(latex.tex(document, "0" * 64).split())


@pytest.fixture(scope="module")
def compiled(
    whole: Path, document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Compiled:
    """The article through TeX, as often as the report does it."""
    folder = tmp_path_factory.mktemp("tex")
    shutil.copytree(whole / "figures", folder / "figures")
    (folder / "report.tex").write_text(latex.tex(document, "0" * 64), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    for _ in range(latex.PASSES):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
    log = (folder / "report.log").read_text(errors="replace")
    return Compiled(folder, log, (folder / "report.aux").read_text())


def without_studies(document: dict[str, Any]) -> dict[str, Any]:
    """The document as it is where no study was run."""
    alone = copy.deepcopy(document)
    alone["studies"], alone["responses"], alone["equal_starts"] = [], [], []
    return alone


@needs_tex
def test_the_article_is_no_longer_than_ten_pages(compiled: Compiled) -> None:
    found = re.search(r"\\newlabel{sec:claims}{{A}{(\d+)}", compiled.aux)
    assert found is not None and int(found[1]) - 1 <= MOST_PAGES


@needs_tex
def test_tex_has_nothing_to_complain_of(compiled: Compiled) -> None:
    """No lost character, nothing too wide or too high, no reference without a target."""
    # A message is broken after 79 characters, and the line break may be anywhere in it.
    log = compiled.log.replace("\n", "")
    assert (
        re.findall(r"Missing character[^!]{0,60}|undefined on|multiply defined|Rerun to get", log)
        == []
    )
    wide = [float(points) for points in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log)]
    assert [points for points in wide if points > MOST_OVERFULL] == []


@needs_tex
def test_the_pdf_tells_title_author_and_language(compiled: Compiled, root: Path) -> None:
    if shutil.which("pdfinfo") is None:
        pytest.skip("no pdfinfo installed")
    command = ["pdfinfo", "report.pdf"]
    told = subprocess.run(command, cwd=compiled.folder, capture_output=True, text=True).stdout
    read = {name: rest.strip() for name, _, rest in (x.partition(":") for x in told.splitlines())}
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert read["Author"] == ", ".join(of["name"] for of in project["authors"]) != ""
    assert read["Title"].startswith("Small-scale replication of: Effective Backdoor Mitigation")
    assert "CleanCLIP" in read["Keywords"] and "profile mini" in read["Subject"]
    assert b"/Lang(en)" in (compiled.folder / "report.pdf").read_bytes().replace(b" ", b"")


def test_the_article_has_the_parts_of_one_in_order(text: str) -> None:
    parts = [
        r"\begin{abstract}",
        *(rf"\section{{{name}" for name in ("Introduction", "Scope", "Method", "Settings")),
        *(rf"\section{{{name}" for name in ("Results", "Resistance", "Discussion", "Limits")),
        r"\begin{thebibliography}",
        r"\appendix",
        r"\section{Studies}",
        r"\section{Inconsistencies of the paper}",
        r"\section{Attribution}",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_every_figure_and_table_is_numbered_and_spoken_of(
    text: str, document: dict[str, Any]
) -> None:
    drawn = re.findall(r"figures/(\w+)\.pdf", text)
    assert sorted(drawn) == sorted(figure_names(document))
    labels = re.findall(r"\\label{((?:fig|tab):\w+)}", text)
    assert {f"fig:{name}" for name in drawn} <= set(labels)

    # The second of the paper's three figures is spoken of by "Figures 2 to 4".
    spoken = set(re.findall(r"\\ref{((?:fig|tab):\w+)}", text)) | {"fig:figure2"}
    assert spoken == set(labels)


def test_legends_lie_within_their_figures_and_hollow_marks_have_an_edge_in_a_pdf(
    document: dict[str, Any],
) -> None:
    """PDFs lose the edge of a mark whose face is transparent."""
    with style():
        for figure in (scatter(document, "figure1"), answer(document)):
            figure.draw_without_rendering()
            (legend,) = figure.legends
            extent = legend.get_window_extent()
            assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1
            marks = {entry.get_label(): entry for entry in legend.legend_handles}
            (paper,) = [
                mark
                for name, mark in marks.items()
                if str(name).startswith("paper") and getattr(mark, "get_marker", str)() == "*"
            ]
            assert paper.get_markerfacecolor() == "none"


def test_every_work_is_cited_and_every_citation_has_its_work(text: str) -> None:
    cited = {key for group in re.findall(r"\\cite{([^}]*)}", text) for key in group.split(",")}
    listed = re.findall(r"\\bibitem{(\w+)}", text)
    assert listed == ["paper", *(work.key for work in REFERENCES)]
    assert cited == set(listed)


def test_numbers_by_seed_are_those_of_the_study_with_the_most_seeds(
    root: Path, document: dict[str, Any], text: str
) -> None:
    """CC3M, 100K, MMCL: 38.5, and a point more from one seed to the next, anew after the third."""
    seeds = load_study("seeds", root / "specs").variants["default"].seeds
    table = facts.seed_table(document)
    assert table is not None and (table.study, list(table.seeds)) == ("seeds", seeds)
    row = table.rows[0]
    assert (row.dataset, row.clean_size, row.pretrain_objective) == ("cc3m", "100k", "mmcl")
    expected = [0.385 + SHIFT * (seed % EVERY) for seed in seeds]
    assert row.by_seed == pytest.approx(expected)
    assert row.cleaned is not None and row.cleaned.sd is not None
    assert row.cleaned.mean == pytest.approx(mean(expected))
    assert row.cleaned.sd == pytest.approx(stdev(expected))
    shown = " / ".join(rf"\num{{{100 * value:.1f}}}" for value in expected)
    assert rf"{shown} & \num{{{100 * mean(expected):.1f}}} \ensuremath{{\pm}} " in text


def test_a_seed_without_a_cleaned_model_is_told_and_in_no_mean(document: dict[str, Any]) -> None:
    other = copy.deepcopy(document)
    (study,) = [study for study in other["studies"] if study["name"] == "seeds"]
    study["rows"][0]["values"]["cleaned_accuracy"] = [0.4, None, 0.2]
    table = facts.seed_table(other)
    assert table is not None and table.rows[0].cleaned is not None
    assert table.rows[0].cleaned.mean == pytest.approx(0.3)
    assert r"\num{40.0} / none / \num{20.0}" in latex.tex(other, "0" * 64)


def test_own_seeds_have_the_table_where_no_study_has_more(document: dict[str, Any]) -> None:
    alone = without_studies(document)
    assert facts.seed_table(alone) is None
    (seed,) = document["settings"]["seeds"]
    assert f"There is one seed, {seed}:" in latex.tex(alone, "0" * 64)

    alone["settings"]["seeds"] = [0, 1]
    for row in alone["tables"]["table1"]["rows"]:
        row["clean_accuracy"]["by_seed"] = [
            {"seed": seed, "accuracy": value, "asr": 0.0, "run": None}
            for seed, value in ((0, 0.3), (1, 0.5))
        ]
    table = facts.seed_table(alone)
    assert table is not None and (table.study, table.seeds) == (None, [0, 1])
    assert table.rows[5].by_seed == [0.3, 0.5]


def test_claims_are_over_the_seeds_and_the_reports_own_verdict_beside(
    document: dict[str, Any], text: str
) -> None:
    other = copy.deepcopy(document)
    (study,) = [study for study in other["studies"] if study["name"] == "seeds"]
    study["claims"][0]["verdict"] = "not reproduced"
    first, *_ = facts.claim_rows(other)
    assert (first.number, first.name) == (1, "Objective decides CC3M")
    assert (first.verdict, first.other) == ("not reproduced", "reproduced")
    assert discussion(other).verdict == "not reproduced"
    assert facts.claim_counts([first]) == {"not reproduced": 1}
    assert r"does not hold here {\scriptsize (own: holds here)}" in latex.tex(other, "0" * 64)
    assert text.count("MMCL + SSL fails") == 1


def test_a_note_that_all_cells_have_is_said_once(document: dict[str, Any]) -> None:
    other = without_studies(document)
    (claim,) = [claim for claim in other["claims"] if claim["id"] == "start-asr"]
    for cell in claim["evidence"]:
        cell["by_seed"][0]["note"] = "all say so"
    (row,) = [row for row in facts.claim_rows(other) if row.claim["id"] == "start-asr"]
    assert (row.notes, {note for cell in row.cells for note in cell.notes}) == (
        ["all say so"],
        set(),
    )

    claim["evidence"][0]["by_seed"][0]["note"] = "one says this"
    (row,) = [row for row in facts.claim_rows(other) if row.claim["id"] == "start-asr"]
    assert row.notes == [] and row.cells[0].notes == ["one says this"]


def fail(document: dict[str, Any]) -> None:
    """Let the control of CC6M at 100K fail."""
    for row in document["tables"]["table1"]["rows"]:
        if (row["dataset"], row["clean_size"]) == ("cc6m", "100k"):
            row["control"] |= {"holds": False, "loss": 0.222, "asr": 0.029}


def leave_out(document: dict[str, Any]) -> None:
    """Let no control be run."""
    for row in document["tables"]["table1"]["rows"]:
        row["control"] = None


@pytest.mark.parametrize(
    ("change", "told", "silent"),
    [
        (
            fail,
            [
                "fails in 1 of 3 cells: CC6M, 100K fails: 22.2",
                "holds in 2 of 3 cells",
                "A finetuning",
            ],
            ["not run in"],
        ),
        (
            leave_out,
            ["not run in 3 of 3 cells", "The runs that are missing"],
            ["A finetuning under"],
        ),
        (lambda _: None, ["holds in 3 of 3 cells"], ["A finetuning under", "The runs that are"]),
    ],
)
def test_the_discussion_follows_the_controls(
    document: dict[str, Any],
    change: Callable[[dict[str, Any]], None],
    told: list[str],
    silent: list[str],
) -> None:
    other = without_studies(document)
    change(other)
    article = " ".join(latex.tex(other, "0" * 64).split())
    discussion = article[
        article.index(r"\section{Discussion}") : article.index(r"\section{Limits}")
    ]
    assert [words for words in told if words not in discussion] == []
    assert [words for words in silent if words in discussion] == []
    assert "More seeds. With one" in discussion


def test_what_the_finetuning_costs_by_itself_comes_from_the_unpoisoned_models(
    document: dict[str, Any], text: str
) -> None:
    """CC6M, MMCL + SSL: 46.0 to 40.5 without poison, 46.0 to 23.5 with it."""
    (study,) = [study for study in document["studies"] if study["name"] == "control"]
    found = {price.control["pretrain_objective"]: price for price in prices(study)}
    assert found["mmcl_ssl"].without_backdoor == pytest.approx(0.055)
    assert found["mmcl_ssl"].with_backdoor == pytest.approx(0.225)
    assert r"So \num{5.5} points are the price of the finetuning" in text
    assert "No study with unpoisoned models" in latex.tex(without_studies(document), "0" * 64)


def test_the_appendix_has_the_decided_rows_of_studies(document: dict[str, Any], text: str) -> None:
    tables = {table.entry["name"]: table for table in appendix.study_tables(document)}
    assert [row["variant"] for row in tables["control"].rows] == ["default"] * 2 + [
        "unpoisoned"
    ] * 2
    assert {row["variant"] for row in tables["dose"].rows} == {"default"}
    assert tables["dose"].undecided == ["ssl_0", "ssl_quarter", "ssl_half", "ssl_double"]
    assert r"Nothing was decided of ssl\_0, ssl\_quarter" in text


def test_whoever_drew_the_pictures_is_named(document: dict[str, Any], text: str) -> None:
    assert [of.licence for of in appendix.picture_credits(document)] == [
        "MIT",
        "licence not stated",
    ]
    assert r"\textbf{MIT:} Róża by Łukasz Č.; F by G." in text
    assert r"B by C\_D \& E" in text and "words, P (synonyms)" in text
