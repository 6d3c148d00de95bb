"""The page in a real browser with the network off: silent, accessible, quick and interactive;
skipped without Chromium.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro.report.pages import curves
from repro.report.pages.html import index_page
from tests.support.browser import CHROMIUM, Page, browser

BUILD = Path("report/build/mini")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed"),
]
READY = "document.readyState === 'complete' && document.getElementById('points') && !document.getElementById('controls').hidden"
MARK = "document.querySelector(\"g[id='figure1-0-ledger-mmcl_ssl-0'] use\").getBoundingClientRect()"
TIP = "(t => t.hidden ? '' : t.innerText)(document.querySelector('#figure1 .tip'))"
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
    page.wait(
        READY if path.name != "runs.html" and script else "document.readyState === 'complete'"
    )


def hover(page: Page) -> tuple[float, float]:
    """Move the mouse onto a mark of Figure 1."""
    page.run("document.getElementById('figure1').scrollIntoView()")
    x, y = page.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({MARK})")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    return x, y


@pytest.mark.parametrize("name", ["index.html", "runs.html"])
def test_the_page_asks_for_nothing_and_says_nothing_on_the_console(
    built: Path, chromium: Page, name: str
):
    """With the network off; what a content policy blocks would be reported, too."""
    visit(chromium, built / BUILD / name)
    assert [url for url in chromium.requests if not url.startswith("data:")] == [
        (built / BUILD / name).as_uri()
    ]
    assert chromium.problems == chromium.console == []


def test_hover_filters_cap_and_keys_work_and_a_click_leads_to_the_run(built: Path, chromium: Page):
    page = chromium
    visit(page, built / BUILD / "index.html")
    x, y = hover(page)
    tip = page.run(TIP)
    assert re.search(r"finetuned with MMCL \+ SSL, learning rate 0\.\d+", tip)
    assert re.search(r"ASR \d+\.\d\d% \(\d+\.\d\d to \d+\.\d\d\)", tip)
    assert "results/mini/clean/cc3m-mmcl/100k-mmcl_ssl-lr" in tip
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    page.wait("location.hash.startsWith('#run-')")
    assert page.run("document.querySelector(location.hash).closest('details').open")
    assert tip.splitlines()[-1] in page.run("document.querySelector(location.hash).innerText")
    page.run("document.querySelector(\"input[value='mmcl_ssl']\").click()")
    hover(page)
    assert "MMCL + SSL" not in page.run(TIP)
    page.run("document.querySelector(\"input[value='mmcl_ssl']\").click()")
    page.run("document.querySelector(\"input[value='100k']\").click()")
    assert page.run("document.getElementById('figure1-0-ledger-ssl-0').style.display") == "none"
    assert page.run("document.getElementById('figure3-1-ledger-ssl-0').style.display") == ""
    assert page.run(LIVE) == "Best accuracy at ASR ≤ 5.00%: panel 1: none; panel 2: none."
    page.run("document.querySelector(\"input[value='100k']\").click()")
    page.run(
        "(s => { s.value = '50'; s.dispatchEvent(new Event('input', {bubbles: true})) })(document.querySelector(\"input[name='cap']\"))"
    )
    assert page.run(LIVE).startswith("Best accuracy at ASR ≤ 50.00%")
    page.run("document.querySelector('#figure1 .drawing').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert page.run(LIVE).startswith("finetuned with")


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
    layouts = {name: drawing.layout for name, drawing in drawn.items()}
    pictures = {name: drawing.svg for name, drawing in drawn.items()}
    path = tmp_path / "large.html"
    path.write_text(index_page(document, "0" * 64, pictures, layouts, {}, [], {}))
    begin = time.monotonic()
    visit(chromium, path)
    opened = time.monotonic() - begin
    hover(chromium)
    reaction = chromium.run("""(() => {
        const drawing = document.querySelector('#figure3 .drawing'), box = drawing.getBoundingClientRect(), begin = performance.now();
        for (let i = 0; i < 100; i++)
            drawing.dispatchEvent(new PointerEvent('pointermove', {clientX: box.x + i * 5, clientY: box.y + 150, bubbles: true}));
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
@pytest.mark.parametrize("name", ["index.html", "runs.html"])
def test_axe_finds_nothing_and_nothing_sticks_out(
    built: Path, chromium: Page, name: str, width: int, scheme: str
):
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    source = next(Path(axe.__file__).parent.rglob("axe.min.js")).read_text()
    visit(chromium, built / BUILD / name, width=width, scheme=scheme)
    chromium.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
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
    assert text.count("<svg") == 8
    document = json.loads((built / BUILD / "report.json").read_bytes())
    marks = sum(len(figure["points"]) for figure in document["figures"].values())
    assert text.count('">ours</a>') == marks
