"""Pages, tables, figures and article of the synthetic report: in a browser, as text, as in git."""

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import matplotlib.colors
import pandas as pd
import pytest

from repro.profile import clean_runs, load_profile
from repro.report.build import COLUMNS, points_of
from repro.report.claims import load_claims
from repro.report.evidence import read_evidence
from repro.report.figures import FIGURES, draw_all
from repro.report.figures.forest import FOREST
from repro.report.figures.style import LOSS_COLOURS, OBJECTIVE_COLOURS, Drawn, draw
from repro.report.pages import latex
from repro.report.pages.html import PAGES, attack, pages
from repro.report.pages.interactive import clouds, departures_of, expected_fields
from repro.report.pages.tables import run_href
from repro.report.reading import verdicts_of
from repro.report.studies import read_study_results
from tests.support.browser import CHROMIUM, Page, browser
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


def test_pages_load_nothing_and_run_one_script_by_its_hash(report: Path) -> None:
    for path in report.glob("*.html"):
        text = path.read_text()
        (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
        assert f"script-src 'sha256-{digest}';" in text
        assert len(script.splitlines()) <= 250
        assert not re.search(r'(?:src|srcset)="(?!data:)', text)
        assert not re.search(r" on[a-z]+=", text)


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
    document["bench"] = []
    document["runs"] = {}
    document["commit"] = None
    made = pages(document, {}, {}, [])
    assert set(made) == {"index.html", "evidence.html"}
    assert b"No seed was run" in made["index.html"]


GOLDEN = Path(__file__).parents[1] / "golden"
FILES = (
    *("table1.csv", "table2.csv", "verdicts.csv", "metrics.json"),
    *("index.html", "studies.html", "mechanism.html", "bench.html", "evidence.html"),
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
    assert values_of(rows, "study") == {"seeds", "control", "mechanism"}
    assert values_of(rows, "seed") == {"10", "11", "12", "25", "26", "27"}
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
    named = {"hero", "forest", "figure1", "figure2", "figure3", "resistance", "mechanism"}
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


def test_other_draws_stand_in_the_forest_once_all_are_there(
    material: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    document, points = material
    verdicts = verdicts_of(document)
    measure = verdicts and verdicts.measure("lost_at_cap")
    assert measure is not None
    row = {
        "measure": "lost_at_cap",
        "dataset": "cc6m",
        "clean_size": "200k",
        "difference": measure["cells"][0]["difference"],
    }
    for planned, drawn in ((2, 1), (3, 0)):
        draws = {"complete": 2, "planned": planned, "rows": [row]}
        panels = draw(FOREST, document | {"draws": draws}, points).panels
        assert "".join(panels).count("CC6M, 200K, other draws") == drawn


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
    nobody = {"exploratory": [], "confirmed": None, "authors": [], "secondary": []}
    empty = {
        **document,
        "verdicts": document["verdicts"] | nobody,
        "resistance": {"study": None, "rate": None, "caps": [0.0, 0.2], "cells": []},
        "mechanism": {"learning_rate": None, "models": [], "correlations": []},
        "responses": [],
    }
    assert draw_all(empty, points[:0]) == {}


@pytest.fixture(scope="module")
def page(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The first page of the report in a browser, with its own policy."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.call("Page.navigate", url=(report / "index.html").as_uri())
        opened.wait("document.readyState === 'complete'")
        yield opened
        assert opened.problems == []


CELLS = """[...document.querySelectorAll("#table-thresholds tbody tr")].map(
  row => [...row.querySelectorAll("td")].map(cell => cell.textContent))"""


@pytest.mark.parametrize("percent", ["0.5", "2", "5", "12.5", "20"])
def test_the_slider_shows_what_python_computed(page: Page, report: Path, percent: str) -> None:
    page.run(f"slider.value = '{percent}'; slider.dispatchEvent(new Event('input')); 0")
    document = json.loads((report / "report.json").read_bytes())
    cap = float(percent) / 100
    objectives = ("mmcl", "mmcl_ssl")
    expected = []
    for cell in document["resistance"]["cells"]:
        (of,) = (of for of in cell["thresholds"] if of["cap"] == cap)
        cleaned = [str(of["cleaned"][name]) for name in objectives]
        accuracy = [of["accuracy"][name] for name in objectives]
        if None in accuracy:
            shown = ["–", "–"]
        else:
            shown = [f"{100 * value:.1f}" for value in accuracy]
        expected.append([*cleaned, *shown])
    found = [row[:4] for row in page.run(CELLS)]
    assert found == expected
    assert page.run("document.getElementById('cap').textContent") == percent


def press_arrow_right(page: Page) -> None:
    for kind in ("rawKeyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", windowsVirtualKeyCode=39)


def test_the_slider_moves_by_the_keyboard(page: Page) -> None:
    page.run("slider.value = '5'; slider.focus(); 0")
    press_arrow_right(page)
    assert page.run("document.getElementById('cap').textContent") == "5.5"


def test_a_seed_that_is_clicked_stands_out_in_every_figure(page: Page) -> None:
    page.run(
        "line = document.querySelector('#hero [class^=seed-]');"
        "line.dispatchEvent(new MouseEvent('click', {bubbles: true})); 0"
    )
    marked = "[...document.querySelectorAll('.marked')].map(of => of.closest('figure, section').id)"
    assert {"hero", "resistance", "explorer"} <= set(page.run(marked))
    page.run("document.body.click(); 0")
    assert page.run(marked) == []


def test_a_click_on_a_head_sorts_its_table_and_a_second_turns_it(page: Page) -> None:
    head = "[...document.querySelectorAll('#table-table1 thead button')][2]"
    column = """[...document.querySelectorAll('#table-table1 tbody tr')].map(
      row => Number(row.children[2].textContent))"""
    page.run(f"{head}.click(); 0")
    rising = page.run(column)
    assert rising == sorted(rising)
    assert len(set(rising)) > 1
    page.run(f"{head}.click(); 0")
    assert page.run(column) == rising[::-1]


SORTED = [
    ["0 min 52 s", "5 min 03 s", "1 h 02 min"],
    ["−1.5 [−3, 0]", "≤ 2", "3 of 10", "1,200"],
    ["2026-11-30 05:33", "2026-12-01 05:33", "2026-12-01 06:00"],
    ["CC3M, 100K", "CC3M, 200K", "CC6M, 100K"],
    ["lr0.001-seed2", "lr0.001-seed10"],
]


def test_times_and_texts_sort_as_a_reader_takes_them(page: Page) -> None:
    """Numbers, times, dates; what has no value stands last both ways."""
    for rising in SORTED:
        for way in (1, -1):
            mixed = json.dumps([*sorted(rising), "–"])
            found = page.run(f"{mixed}.sort((a, b) => compare(a, b, {way}))")
            assert found == [*rising[::way], "–"]


def test_the_run_that_a_click_keeps_stays_where_the_pointer_crosses_others(page: Page) -> None:
    page.run(
        "dots = [...document.querySelectorAll('#dots [data-place]')];"
        "at = (dot, kind) => dot.dispatchEvent(new MouseEvent(kind, {bubbles: true}));"
        "said = () => document.getElementById('dot').textContent; at(dots[0], 'click'); 0"
    )
    kept = page.run("said()")
    page.run("at(dots.at(-1), 'pointerover'); 0")
    assert page.run("said()") == kept
    page.run("at(dots[0], 'click'); at(dots.at(-1), 'pointerover'); 0")
    assert page.run("said()") != kept


def test_without_script_the_page_has_every_number(report: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with browser(tmp_path / "profile") as still:
        still.call("Emulation.setScriptExecutionDisabled", value=True)
        still.call("Page.navigate", url=(report / "index.html").as_uri())
        deadline = time.monotonic() + 60
        texts = ""
        while "builds the report again" not in texts:
            assert time.monotonic() < deadline
            tree = still.call("DOMSnapshot.captureSnapshot", computedStyles=[])
            texts = " ".join(tree["strings"])
    assert "All numbers of the verdicts" in texts
    assert "Best models by threshold" in texts


def section_of(page: str, anchor: str) -> str:
    """A section of a page by its id."""
    _, _, after = page.partition(f'<section id="{anchor}">')
    section, _, _ = after.partition("</section>")
    return section


def test_a_dot_names_its_run_by_pointer_and_by_keyboard(page: Page, report: Path) -> None:
    named = {}
    for file in ("archive.csv", "points.csv"):
        for row in rows_of(report / file):
            named[row["run"]] = row
    said = "document.getElementById('dot').textContent"
    panels = page.run("document.getElementById('cloud').options.length")
    assert panels == 6

    point = "document.querySelectorAll('#dots [data-place]')[7]"
    page.run(f"{point}.dispatchEvent(new PointerEvent('pointerover', {{bubbles: true}})); 0")
    by_pointer = page.run(said)
    run = by_pointer.rpartition("; run ")[2].removesuffix(" (its page)")
    row = named[run]
    assert f"seed {row['seed']}, learning rate {float(row['learning_rate']):g}" in by_pointer
    leads_to = page.run("document.querySelector('#dot a').getAttribute('href')")
    own_page, _, anchor = leads_to.partition("#")
    section = section_of((report / own_page).read_text(), anchor)
    assert f"<code>{row['run']}</code>" in section
    page.run(f"{point}.dispatchEvent(new MouseEvent('click', {{bubbles: true}})); 0")
    assert page.run("document.querySelector('#dots .path').getAttribute('points')")

    page.run("document.getElementById('dots').focus(); 0")
    press_arrow_right(page)
    assert page.run(said) != by_pointer


def test_a_cloud_has_the_evaluations_that_its_figure_draws(
    material: tuple[dict[str, Any], pd.DataFrame],
) -> None:
    document, points = material
    cells = clouds(document, points)
    first = points[points.figure1 & (points.step > 0) & (points.loss == "mmcl_ssl")]
    assert sum(len(cloud.dots) for cloud in cells[:2]) == len(first)
    for cloud in cells:
        runs = {dot[3] for dot in cloud.dots}
        assert runs == set(range(len(cloud.runs)))
        cap = 1e4 * document["settings"]["asr_cap"]
        assert all(cloud.dots[place][0] <= cap for place in cloud.best)


def test_every_run_of_the_figures_has_its_curves_and_numbers(report: Path) -> None:
    own = rows_of(report / "points.csv")
    archived = [row for row in rows_of(report / "archive.csv") if row["figure1"] == "True"]
    assert own
    assert archived
    lists = [(report / name).read_text() for name in ("evidence.html", "runs.html")]
    by_run: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in [*own, *archived]:
        by_run[row["run"]].append(row)

    for folder, evaluations in by_run.items():
        href = run_href(folder, int(evaluations[0]["seed"]))
        assert any(f'href="{href}"' in page for page in lists)
        page, _, anchor = href.partition("#")
        section = section_of((report / page).read_text(), anchor)
        losses = [name for name in ("loss_mmcl", "loss_ssl") if evaluations[-1][name]]
        assert section.count("<polyline") == 2 + len(losses)
        for row in evaluations:
            assert f">{100 * float(row['accuracy']):.1f}<" in section


def test_a_run_tells_in_what_it_differs_from_the_profile() -> None:
    profile = load_profile("smoke")
    spec = clean_runs(profile)[0]
    expected = expected_fields("smoke")
    assert departures_of(spec, expected) == []
    schedule = spec.schedule.model_copy(update={"epochs": 7, "learning_rate": 0.5})
    other = spec.model_copy(update={"schedule": schedule, "seed": 3})
    (line,) = departures_of(other, expected)
    assert line == f"schedule.epochs 7 (profile: {spec.schedule.epochs})"
    unknown = spec.model_copy(update={"loss": "two_views"})
    assert departures_of(unknown, expected) == ["the profile has no such run"]


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
