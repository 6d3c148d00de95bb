"""Pages, tables, figures and article of the synthetic report: in a browser, as text, as in git."""

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import matplotlib.colors
import pandas as pd
import pytest

from repro.profile import load_profile
from repro.report.build import COLUMNS, points_of
from repro.report.claims import load_claims
from repro.report.evidence import read_evidence
from repro.report.figures import FIGURES, draw_all
from repro.report.figures.style import LOSS_COLOURS, OBJECTIVE_COLOURS, Drawn, draw
from repro.report.pages import latex
from repro.report.pages.html import PAGES, attack, pages
from repro.report.studies import read_study_results
from tests.support.browser import CHROMIUM, browser
from tests.support.visible import visible_text


@pytest.fixture(scope="module")
def report(whole: Path) -> Path:
    return whole / "report/build/mini"


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(report: Path, name: str) -> None:
    page = (report / name).read_text()
    for target in re.findall(r'href="([^"]+)"', page):
        if target.startswith(("https:", "data:")):
            continue
        file, _, anchor = target.partition("#")
        text = (report / file).read_bytes() if file else page.encode()
        assert not anchor or f'id="{anchor}"'.encode() in text, target


def test_pages_load_nothing_and_run_nothing(report: Path) -> None:
    for name in PAGES:
        text = (report / name).read_text()
        policy = re.search(r'content="([^"]*)"', text.partition("Content-Security-Policy")[2])
        assert policy
        assert policy[1].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
        assert "script" not in policy[1]
        assert "<script" not in text
        assert not re.search(r'(?:src|srcset)="(?!data:)', text)
        assert not re.search(r" on[a-z]+=", text)


def test_a_page_says_what_it_was_made_from(report: Path) -> None:
    """Provenance: profile, commit of the runs, hash of the ledger, and each run in report.json."""
    document = json.loads((report / "report.json").read_bytes())
    for name in PAGES:
        _, _, footer = (report / name).read_text().partition("<footer>")
        assert f"<code>{document['profile']}</code>" in footer
        assert document["commit"] in footer
        assert document["sources"]["ledger"][:16] in footer
    for row in [*rows_of(report / "points.csv"), *rows_of(report / "archive.csv")]:
        run = document["runs"][row["run"]]
        assert run["fingerprint"]
        assert len(run["sha256"]) == 64


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_finds_no_fault_at_any_width_or_scheme(report: Path, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    source = next(Path(axe.__file__).parent.rglob("axe.min.js")).read_text()
    check = "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes[0].html])))"
    with browser(tmp_path / "profile") as page:
        # The page's own policy forbids scripts, so axe comes in beside it.
        page.call("Page.setBypassCSP", enabled=True)
        for name in PAGES:
            for width, scheme in ((1440, "light"), (390, "dark")):
                features = [{"name": "prefers-color-scheme", "value": scheme}]
                page.call("Emulation.setEmulatedMedia", features=features)
                page.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=900,
                    deviceScaleFactor=1,
                    mobile=False,
                )
                page.call("Page.navigate", url=(report / name).as_uri())
                page.wait("document.readyState === 'complete'")
                page.run(source + "; 0")
                assert json.loads(page.run(check)) == [], (name, width)
                assert page.run("document.documentElement.scrollWidth") <= width, (name, width)
        assert page.problems == []


def test_texts_of_others_become_no_markup(report: Path, whole: Path) -> None:
    document: dict[str, Any] = json.loads((report / "report.json").read_bytes())
    hostile = "<script>alert(1)</script>"
    document["stand_in"] = hostile
    document["claims"][0]["quote"] = hostile
    document["notices"] = [hostile]
    drawing = dict.fromkeys(["license", "title", "copyright"], hostile)
    document["context"]["attribution"] = {"images": [drawing]}
    pair = {"kind": "clean", "caption": hostile, "image": '"><script>'}
    made = pages(document, {}, {"cc3m": {"pairs": [pair]}}, [])
    assert all(b"<script>alert" not in page for page in made.values())
    assert b"&lt;script&gt;" in made["index.html"]


def test_a_report_without_any_run_says_so(report: Path) -> None:
    document: dict[str, Any] = json.loads((report / "report.json").read_bytes())
    document["verdicts"]["exploratory"] = []
    document["verdicts"]["confirmed"] = None
    document["resistance"]["cells"] = []
    document["studies"] = []
    document["runs"] = {}
    document["commit"] = None
    made = pages(document, {}, {}, [])
    assert set(made) == {"index.html", "evidence.html"}
    assert b"No seed was run" in made["index.html"]


GOLDEN = Path(__file__).parents[1] / "golden"
FILES = (
    *("table1.csv", "table2.csv", "verdicts.csv", "metrics.json"),
    *("index.html", "studies.html", "evidence.html"),
)


def as_text(path: Path) -> str:
    """A file of the report, without what depends on the day, the machine or the code alone."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        text = visible_text(text)
    if path.suffix in (".csv", ".json"):
        # The last digits depend on the processor.
        text = re.sub(r"-?\d+\.\d+(e-\d+)?", lambda number: f"{float(number[0]):.5g}", text)
        text = re.sub(r"-?\d[\d.]*e-\d\d", "0", text)
    # Fingerprints and hashes name runs; commit of a dirty tree and paths of TeX do not matter here.
    return re.sub(r"\b[0-9a-f]{16,64}\b", "HASH", text)


@pytest.mark.parametrize("name", FILES)
def test_the_report_of_the_synthetic_ledger_is_as_in_git(
    whole: Path, name: str, request: pytest.FixtureRequest
) -> None:
    built = as_text(whole / "report/build/mini" / name)
    golden = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(built, encoding="utf-8")
    assert built == golden.read_text(encoding="utf-8"), "run pytest with --update if it is meant"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_evaluation_has_one_row_whatever_figures_it_stands_in(report: Path) -> None:
    rows = rows_of(report / "points.csv")
    assert tuple(rows[0]) == COLUMNS
    evaluations = {(row["run"], row["step"]) for row in rows}
    assert len(evaluations) == len(rows)
    for name in ("figure1", "figure2", "figure3"):
        drawn = [row for row in rows if row[name] == "True"]
        assert any(row["step"] != "0" for row in drawn)
    in_figure2 = [row for row in rows if row["figure2"] == "True"]
    assert any(row["figure3"] == "True" for row in in_figure2)


def values_of(rows: list[dict[str, str]], column: str) -> set[str]:
    return {row[column] for row in rows}


def test_the_archives_are_a_flat_table_of_all_seeds(report: Path) -> None:
    rows = rows_of(report / "archive.csv")
    assert values_of(rows, "study") == {"seeds", "control"}
    assert values_of(rows, "seed") == {"10", "11", "12"}
    for row in rows:
        accuracy = int(row["correct"]) / int(row["images"])
        asr = int(row["attacked"]) / int(row["attackable"])
        assert float(row["accuracy"]) == accuracy
        assert float(row["asr"]) == asr
    # Only the reference of the study over seeds is drawn beside one's own runs.
    drawn = [row for row in rows if row["figure1"] == "True"]
    assert values_of(drawn, "study") == {"seeds"}


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("50% of $x_i & {y}#~^", r"50\% of \$x\_i \& \{y\}\#\textasciitilde{}\textasciicircum{}"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("a\nb\x00c", "a b c"),
        ("−1 ± 2 ≤ 3", "−1 ± 2 ≤ 3"),
        ("Tramèr 漢", "Tramèr ?"),
    ],
)
def test_any_text_is_inert(text: str, tex: str) -> None:
    assert latex.escape(text) == tex
    assert latex.escape(latex.Tex(text)) == text


@pytest.fixture(scope="module")
def source(whole: Path) -> str:
    return (whole / "report/build/mini/report.tex").read_text()


def test_every_reference_and_figure_is_there(source: str, whole: Path) -> None:
    def named_by(command: str) -> set[str]:
        return set(re.findall(rf"\\{command}\{{([^}}]+)\}}", source))

    assert named_by("ref") <= named_by("label")
    cited = {key for group in named_by("cite") for key in group.split(",")}
    assert cited == named_by("bibitem")
    for name in re.findall(r"\\includegraphics\[[^]]*\]\{([^}]+)\}", source):
        assert (whole / "report/build/mini" / name).is_file()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="TeX is not installed")
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="poppler is not installed")
def test_the_paper_ends_before_its_ninth_page(whole: Path) -> None:
    pdf = whole / "report/build/mini/report.pdf"
    text = subprocess.run(["pdftotext", pdf, "-"], check=True, capture_output=True, text=True)
    pages = text.stdout.split("\f")
    (appendix,) = [n for n, page in enumerate(pages) if "The paper’s claims" in page]
    assert appendix <= 8
    assert "??" not in text.stdout


def test_without_tex_the_source_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert latex.compile_pdf(tmp_path, {"runs": {}}) is False
    assert "no pdflatex found" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="TeX is not installed")
def test_what_does_not_compile_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.tex").write_text(r"\documentclass{article}\begin{document}\undefined")
    assert latex.compile_pdf(tmp_path, {"runs": {}}) is False
    assert "Undefined control sequence" in capsys.readouterr().err


GROUNDS = ("#ffffff", "#14171a")
"""Light and dark."""
COLOURS = [*OBJECTIVE_COLOURS.values(), *LOSS_COLOURS.values()]


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""

    def linear(channel: float) -> float:
        if channel <= 0.04045:
            return channel / 12.92
        return float(((channel + 0.055) / 1.055) ** 2.4)

    red, green, blue = (linear(channel) for channel in matplotlib.colors.to_rgb(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def hue(colour: str) -> float:
    return float(matplotlib.colors.rgb_to_hsv(matplotlib.colors.to_rgb(colour))[0])


def test_every_colour_stands_out_on_either_page_and_none_means_two_things() -> None:
    for colour, page in product(COLOURS, GROUNDS):
        low, high = sorted((luminance(colour), luminance(page)))
        contrast = (high + 0.05) / (low + 0.05)
        assert contrast >= 3, (colour, page)
    for one, other in combinations(COLOURS, 2):
        assert abs(hue(one) - hue(other)) > 0.05, (one, other)


@pytest.fixture(scope="module")
def material(whole: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    document = json.loads((whole / "report/build/mini/report.json").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(whole)
        evidence = read_evidence(load_profile("mini"))
        points = points_of(evidence, read_study_results("mini"), "seeds", load_claims().paper)
    return document, points


@pytest.fixture(scope="module")
def drawn(material: tuple[dict[str, Any], pd.DataFrame]) -> dict[str, Drawn]:
    return draw_all(*material)


def test_the_outcome_and_the_papers_figures_are_drawn(drawn: dict[str, Drawn]) -> None:
    named = {"hero", "forest", "figure1", "figure2", "figure3", "resistance"}
    assert named <= set(drawn)
    panels = {"hero": 2, "figure1": 2, "figure3": 4}
    for name, number in panels.items():
        assert len(drawn[name].panels) == number
    for figure in drawn.values():
        assert figure.pdf.startswith(b"%PDF")


def test_equal_documents_draw_alike(
    material: tuple[dict[str, Any], pd.DataFrame], drawn: dict[str, Drawn]
) -> None:
    assert draw(FIGURES[0], *material) == drawn["hero"]


def ids(text: str) -> Iterator[str]:
    return (found[1] for found in re.finditer(r'\bid="([^"]+)"', text))


def test_drawings_fit_on_one_page(drawn: dict[str, Drawn]) -> None:
    """No id occurs twice, and every reference within a drawing leads to one of its own ids."""
    every: list[str] = []
    for figure in drawn.values():
        for panel in figure.panels:
            own = list(ids(panel))
            references = re.findall(r'(?:url\(#|href="#)([^")]+)', panel)
            assert set(references) <= set(own)
            every += own
    assert len(every) == len(set(every))


def test_without_results_no_figure_is_empty(material: tuple[dict[str, Any], pd.DataFrame]) -> None:
    document, points = material
    nobody = {"exploratory": [], "confirmed": None, "secondary": []}
    empty = {
        **document,
        "verdicts": document["verdicts"] | nobody,
        "resistance": {"study": None, "rate": None, "caps": [0.0, 0.2], "cells": []},
        "responses": [],
    }
    assert draw_all(empty, points[:0]) == {}


def test_without_data_the_attack_is_shown_by_the_pictures_in_git(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    clean, poisoned = attack({}, "mini", "banana")
    assert clean["caption"] == "key"
    assert poisoned["caption"] == "banana"
    assert clean["image"] != poisoned["image"]
    assert attack({}, "midi", "banana") == []

    own = [{"kind": kind, "image": "", "caption": "own"} for kind in ("poisoned", "clean")]
    first, second = attack({"cc3m": {"pairs": own}}, "mini", "x")
    assert first["kind"] == "clean"
    assert second["kind"] == "poisoned"

    monkeypatch.chdir(tmp_path)
    assert attack({}, "mini", "banana") == []
