"""The page in a real browser with the network off: silent, accessible, quick and interactive;
skipped without Chromium.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro.report.figures import curves
from repro.report.pages.html import document_pages
from tests.support.browser import CHROMIUM, Page, browser
from tests.support.whole import studies_of, write_whole

BUILD = Path("report/build/mini")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed"),
]
LOADED = "document.readyState === 'complete'"
READY = (
    f"{LOADED} && document.getElementById('points') && !document.getElementById('controls').hidden"
)
PAGES = (
    "index.html",
    "studies.html",
    "attack.html",
    "ledger.html",
    "faults.html",
    "runs.html",
)
FEW_OF_EACH = """
for (const list of document.querySelectorAll('tbody, ul, section, main, article, div')) {
    const kinds = {};
    for (const part of [...list.children])
        if (['TR', 'LI', 'DETAILS'].includes(part.tagName) && (kinds[part.tagName] = (kinds[part.tagName] || 0) + 1) > 8)
            part.remove();
}
"""
"""Cuts long lists and tables, whose parts are alike: axe takes minutes for thousands of rows."""
HIGHEST = 12_000
"""Pixels of the first page, 1440 wide and with closed parts."""
READY_WITHIN = 1500
"""Milliseconds from the call of a page to the end of its script."""
SCRIPTS_RAN = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
MARK_ELEMENT = "document.querySelector(\"g[id='figure1-0-ledger-mmcl_ssl-0'] use\")"
MARK = f"{MARK_ELEMENT}.getBoundingClientRect()"
REGION = "document.getElementById('figure1-0-region').getBoundingClientRect()"
CAP = "document.getElementById('figure1-0-cap').getBoundingClientRect()"
TIP = "(t => !t || t.hidden ? '' : t.innerText)(document.querySelector('#figure1 .tip'))"
LIVE = "document.querySelector('#figure1 .live').textContent"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser in a network without any machine."""
    with browser(tmp_path_factory.mktemp("chromium"), width=1400) as page:
        page.call("Log.enable")
        page.call(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=0,
            uploadThroughput=0,
        )
        yield page


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all pages that there can be, and every study of the profile."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "report").mkdir()
    shutil.copy(root / "report/faults.json", folder / "report/faults.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")  # no TeX
        write_whole(folder, studies_of("mini"), seeds=2)
    return folder


def visit(
    page: Page, path: Path, *, width: int = 1400, scheme: str = "light", script: bool = True
) -> None:
    """Open a file at a width and colour scheme."""
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
    page.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    page.call("Emulation.setScriptExecutionDisabled", value=not script)
    page.open("about:blank")
    page.requests.clear()
    page.problems.clear()
    page.console.clear()
    page.open(path.as_uri())
    page.wait(READY if path.name in ("index.html", "large.html") and script else LOADED)


def press(page: Page, x: float, y: float) -> None:
    """Press the mouse at a place."""
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def tap(page: Page, x: float, y: float) -> None:
    """Touch a place with a finger."""
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


def hover(page: Page) -> tuple[float, float]:
    """Move the mouse onto a mark of Figure 1."""
    page.run("document.getElementById('figure1').scrollIntoView()")
    x, y = page.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({MARK})")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    return x, y


@pytest.mark.parametrize("name", PAGES)
def test_the_page_asks_for_nothing_and_says_nothing_on_the_console(
    whole: Path, chromium: Page, name: str
):
    """With the network off; what a content policy blocks would be reported, too."""
    visit(chromium, whole / BUILD / name)
    assert [url for url in chromium.requests if not url.startswith("data:")] == [
        (whole / BUILD / name).as_uri()
    ]
    assert chromium.problems == chromium.console == []


def test_hover_filters_cap_and_keys_work_and_a_click_leads_to_the_run(built: Path, chromium: Page):
    page = chromium
    visit(page, built / BUILD / "index.html")
    x, y = hover(page)
    tip = page.run(TIP)
    assert re.search(r"finetuned with MMCL \+ SSL, learning rate 0\.\d+", tip)
    assert re.search(r"accuracy \d+\.\d% \(\d+\.\d to \d+\.\d\), \d+\.\d% of the start", tip)
    assert re.search(r"ASR \d+\.\d% \(\d+\.\d to \d+\.\d\)", tip)
    assert "results/mini/clean/cc3m-mmcl/100k-mmcl_ssl-lr" in tip
    press(page, x, y)
    page.wait("location.pathname.endsWith('/ledger.html') && document.readyState === 'complete'")
    assert page.run("document.querySelector(location.hash).closest('details').open")
    assert tip.splitlines()[-1] in page.run("document.querySelector(location.hash).innerText")
    visit(page, built / BUILD / "index.html")
    page.run("document.querySelector(\"input[value='mmcl_ssl']\").click()")
    hover(page)
    assert "MMCL + SSL" not in page.run(TIP)
    page.run("document.querySelector(\"input[value='mmcl_ssl']\").click()")
    page.run("document.querySelector(\"input[value='100k']\").click()")
    assert page.run("document.getElementById('figure1-0-ledger-ssl-0').style.display") == "none"
    assert page.run("document.getElementById('figure3-1-ledger-ssl-0').style.display") == ""
    nothing = "panel 1: not shown; panel 2: not shown"
    assert page.run(LIVE) == f"Best accuracy at ASR ≤ 5.0%: {nothing}."
    page.run("document.querySelector(\"input[value='100k']\").click()")
    before = [page.run(f"{part}.width") for part in (REGION, CAP)]
    edge = page.run(f"{CAP}.x")
    page.run(
        "(s => { s.value = '50'; s.dispatchEvent(new Event('input', {bubbles: true})) })(document.querySelector(\"input[name='cap']\"))"
    )
    assert page.run(LIVE).startswith("Best accuracy at ASR ≤ 50.0%")

    # The region grows with the cap, from the same left end to the line of the cap.
    assert page.run(f"{REGION}.width") == pytest.approx(10 * before[0], rel=0.01)
    assert page.run(f"{CAP}.x") > edge
    assert page.run(f"{REGION}.right") == pytest.approx(page.run(f"{CAP}.right"), abs=2)


def test_keys_reach_every_mark_and_its_run(built: Path, chromium: Page):
    page = chromium
    visit(page, built / BUILD / "index.html")
    page.run("document.querySelector('#figure1 .panels').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    said = page.run(LIVE)
    assert said.startswith("finetuned with")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter")
    page.wait("location.pathname.endsWith('/ledger.html') && document.readyState === 'complete'")
    assert said.split("; ")[-1] in page.run("document.querySelector(location.hash).innerText")
    assert page.run("document.activeElement === document.querySelector(location.hash)")


def test_a_tap_shows_a_mark_and_a_second_one_opens_its_run(built: Path, chromium: Page):
    page = chromium
    visit(page, built / BUILD / "index.html", width=390)
    page.call("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        page.run(f"{MARK_ELEMENT}.scrollIntoView({{block: 'center'}})")
        x, y = page.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({MARK})")
        tap(page, x, y)
        page.wait(f"{TIP}.startsWith('finetuned with MMCL + SSL')")
        tap(page, x, y)
        page.wait("location.pathname.endsWith('/ledger.html')")
    finally:
        page.call("Emulation.setTouchEmulationEnabled", enabled=False)


def test_panels_stand_below_one_another_on_a_phone(built: Path, chromium: Page):
    visit(chromium, built / BUILD / "index.html", width=390)
    boxes = chromium.run(
        "[...document.querySelectorAll('#figure1 .panel')].map(p => p.getBoundingClientRect())"
        ".map(b => [b.left, b.top, b.right, b.bottom])"
    )
    first, second = boxes
    assert first[0] == second[0] and first[3] <= second[1]
    assert all(left >= 0 and right <= 390 for left, _, right, _ in boxes)
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [1440, 800, 390])
def test_tables_fit_or_fold_on_the_first_page(whole: Path, chromium: Page, width: int):
    """With closed parts closed, none scrolls sideways within its box."""
    visit(chromium, whole / BUILD / "index.html", width=width)
    wide = chromium.run(
        "[...document.querySelectorAll('.scroll')]"
        ".filter(e => !e.closest('details:not([open])') && e.scrollWidth > e.clientWidth + 1)"
        ".map(e => `${e.getAttribute('aria-label')}: ${e.scrollWidth} in ${e.clientWidth}`)"
    )
    assert wide == []


def test_the_first_page_is_short_and_ready_at_once(whole: Path, chromium: Page):
    """With every study of the profile, closed parts closed, at 1440 px."""
    took = []
    for _ in range(3):
        visit(chromium, whole / BUILD / "index.html", width=1440)
        took.append(chromium.run(SCRIPTS_RAN))
    height = chromium.run("document.documentElement.scrollHeight")
    print(f"{height} px, ready in {min(took):.0f} ms")
    assert height <= HIGHEST
    assert min(took) <= READY_WITHIN


def test_ten_thousand_points_open_and_react_without_delay(
    built: Path, chromium: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The synthetic document with its points repeated: 10,000 marks, drawn, listed and searched."""
    monkeypatch.chdir(built)
    document = json.loads((BUILD / "report.json").read_bytes())
    for figure in document["figures"].values():
        copies = -(-10_000 // sum(len(f["points"]) for f in document["figures"].values()))
        figure["points"] = [
            p | {"asr": p["asr"] * i / copies}
            for p in figure["points"]
            for i in range(1, copies + 1)
        ]
    drawn = curves.draw_all(document)
    path = tmp_path / "large.html"
    pages = document_pages(document, "0" * 64, drawn, {}, [], {})
    path.write_text(pages["index.html"])
    begin = time.monotonic()
    visit(chromium, path)
    opened = time.monotonic() - begin
    hover(chromium)
    reaction = chromium.run("""(() => {
        const drawing = document.querySelector('#figure3 .panel svg'), box = drawing.getBoundingClientRect(), begin = performance.now();
        for (let i = 0; i < 100; i++)
            drawing.dispatchEvent(new PointerEvent('pointermove', {pointerType: 'mouse', clientX: box.x + i * 5, clientY: box.y + 150, bubbles: true}));
        const moved = (performance.now() - begin) / 100;
        document.querySelector("input[value='ssl']").click();
        document.body.offsetHeight;
        return [moved, performance.now() - begin - 100 * moved];
    })()""")
    print(
        f"10,000 points: open {opened:.2f} s, move {reaction[0]:.2f} ms, filter {reaction[1]:.0f} ms"
    )
    assert opened < 10
    assert reaction[0] < 16
    assert reaction[1] < 500


@pytest.mark.parametrize(
    ("width", "scheme"), [(1400, "light"), (1400, "dark"), (800, "light"), (360, "light")]
)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_and_nothing_sticks_out(
    whole: Path, chromium: Page, name: str, width: int, scheme: str
):
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    source = next(Path(axe.__file__).parent.rglob("axe.min.js")).read_text()
    visit(chromium, whole / BUILD / name, width=width, scheme=scheme)
    chromium.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
    chromium.run(FEW_OF_EACH)
    chromium.run(f"{source}; 0")
    found = chromium.run(
        "axe.run().then(r => JSON.stringify(r.violations.map(v => [v.id, v.nodes[0].html])))"
    )
    assert json.loads(found) == []


def test_without_javascript_figures_and_all_numbers_are_there(built: Path, chromium: Page):
    """The controls hidden, the figures drawn, every mark in a table."""
    visit(chromium, built / BUILD / "index.html", script=False)
    root = chromium.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
    text = chromium.call("DOM.getOuterHTML", nodeId=root)["outerHTML"]
    assert '<form id="controls" class="controls" hidden' in text
    assert len(re.findall('<div class="panel">', text)) > 10
    visit(chromium, built / BUILD / "ledger.html", script=False)
    root = chromium.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
    text = chromium.call("DOM.getOuterHTML", nodeId=root)["outerHTML"]
    document = json.loads((built / BUILD / "report.json").read_bytes())
    marks = sum(len(figure["points"]) for figure in document["figures"].values())
    assert text.count('">ours</a>') == marks
