"""The pages in a browser and as text: accessible, narrow enough for a phone, no dead link."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from repro.report.pages.html import PAGES, amount, interval, level, pages
from tests.support.browser import CHROMIUM, browser

NAMES = list(PAGES)


@pytest.fixture(scope="module")
def report(whole: Path) -> Path:
    return whole / "report/build/mini"


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(report: Path, name: str) -> None:
    page = (report / name).read_text()
    for target in re.findall(r'href="([^"]+)"', page):
        if target.startswith(("https:", "data:")):
            continue
        file, _, anchor = target.partition("#")
        text = (report / file).read_bytes() if file else page.encode()
        assert not anchor or f'id="{anchor}"'.encode() in text, target


def test_pages_load_nothing_and_run_nothing(report: Path) -> None:
    for path in report.glob("*.html"):
        text = path.read_text()
        assert "<script" not in text
        assert "default-src 'none'" in text
        assert not re.search(r'(?:src|srcset)="(?!data:)', text)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.slow
def test_a_browser_finds_no_fault_at_any_width_or_colour_scheme(
    report: Path, tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    source = next(Path(axe.__file__).parent.rglob("axe.min.js")).read_text()
    check = "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes[0].html])))"
    with browser(tmp_path / "profile") as page:
        # The page's own policy forbids scripts, so axe comes in beside it.
        page.call("Page.setBypassCSP", enabled=True)
        for name in NAMES:
            for width, scheme in ((1440, "light"), (390, "dark")):
                page.call(
                    "Emulation.setEmulatedMedia",
                    features=[{"name": "prefers-color-scheme", "value": scheme}],
                )
                page.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=900,
                    deviceScaleFactor=1,
                    mobile=False,
                )
                page.open((report / name).as_uri())
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
    document["context"]["attribution"] = {
        "images": [{"license": hostile, "title": hostile, "copyright": hostile}]
    }
    pair = {"kind": "clean", "caption": hostile, "image": '"><script>'}
    made = pages(document, {}, {"cc3m": {"pairs": [pair]}}, [])
    assert all(b"<script" not in page for page in made.values())
    assert b"&lt;script&gt;" in made["index.html"]


def test_a_report_without_any_run_says_so(report: Path) -> None:
    document: dict[str, Any] = json.loads((report / "report.json").read_bytes())
    document["verdicts"] = {**document["verdicts"], "exploratory": [], "confirmed": None}
    document["resistance"]["cells"] = []
    document |= {"studies": [], "bench": [], "runs": {}, "commit": None}
    made = pages(document, {}, {}, [])
    assert set(made) == {"index.html", "evidence.html"}
    assert b"No seed was run" in made["index.html"]


def test_amounts_in_the_unit_of_their_measure() -> None:
    assert amount(0.5, "fraction", signed=True) == "+50.0"
    assert amount(-0.001, "logits") == "0.00"
    assert level(-10, "doublings") == "0.00098"
    assert interval((-1.5, 2), "doublings") == "[−1.50, 2.00]"
