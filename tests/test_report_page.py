"""The page in a real browser: silent, accessible, and interactive; skipped where no Chromium is installed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ledger_fixture import write_study

from repro.report import report_stage

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium installed")]

HOVER = """
const figure = document.querySelector("figure[data-figure]"), drawing = figure.querySelector(".drawing");
const mark = figure.querySelector("g[id='figure1-0-ledger-mmcl_ssl-0'] use").getBoundingClientRect();
const at = {clientX: mark.x + mark.width / 2, clientY: mark.y + mark.height / 2, bubbles: true};
drawing.dispatchEvent(new PointerEvent("pointermove", at));
const tip = figure.querySelector(".tip"), hovered = tip.hidden ? "" : tip.innerText;
const begin = performance.now();
for (let i = 0; i < 100; i++) drawing.dispatchEvent(new PointerEvent("pointermove", {...at, clientX: at.clientX + i}));
const milliseconds = (performance.now() - begin) / 100;
const group = document.getElementById("figure1-0-ledger-mmcl_ssl-0");
const box = document.querySelector("input[value='mmcl_ssl']");
box.click();
const filtered = group.style.display;
drawing.dispatchEvent(new PointerEvent("pointerleave"));
drawing.dispatchEvent(new PointerEvent("pointermove", at));
const afterFilter = tip.hidden ? "" : tip.innerText;
box.click();
const slider = document.querySelector("input[name='cap']"), live = figure.querySelector("[aria-live]"), before = live.textContent;
slider.value = "50";
slider.dispatchEvent(new Event("input", {bubbles: true}));
const moved = live.textContent;
drawing.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
const result = {hovered, milliseconds, filtered, afterFilter, shown: group.style.display, before, moved, keyed: live.textContent};
document.title = "RESULT" + JSON.stringify(result);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    write_study(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("REPRO_AUTHORS_DIR", raising=False)
        report_stage("mini")
    return root / "report/build/mini/index.html"


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Load a page without network and print its DOM."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
               "--virtual-time-budget=60000", "--window-size=1200,900", *options, "--dump-dom", page.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def run_script(page: Path, script: str, *options: str) -> Any:
    """What a script that is added to a copy of the page writes into its title (the policy is taken out of the copy)."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    copy = page.with_name("scripted.html")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    title = re.search(r"<title>RESULT(.*?)</title>", browse(copy, *options).stdout, re.DOTALL)
    assert title is not None
    return json.loads(html.unescape(title[1]))


@pytest.mark.faults(22)
@pytest.mark.parametrize("name", ["index.html", "runs.html"])
def test_the_page_loads_without_a_word_on_the_console(page: Path, name: str):
    """A blocked script or style, or a request to anywhere, would be reported there."""
    log = browse(page.with_name(name)).stderr
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []


def test_hover_filter_cap_and_arrow_keys_work(page: Path):
    result = run_script(page, f"addEventListener('load', () => {{{HOVER}}});")
    assert re.search(r"finetuned with MMCL \+ SSL, learning rate 0\.\d+", result["hovered"])
    assert re.search(r"ASR \d+\.\d\d% \(\d+\.\d\d to \d+\.\d\d\)", result["hovered"])
    assert "results/mini/clean/cc3m-mmcl/100k-mmcl_ssl-lr" in result["hovered"]
    assert result["filtered"] == "none"
    assert "MMCL + SSL" not in result["afterFilter"]
    assert result["shown"] == ""
    assert result["before"].startswith("Best accuracy at ASR ≤ 5.00%")
    assert result["moved"].startswith("Best accuracy at ASR ≤ 50.00%")
    assert result["keyed"].startswith("finetuned with")


@pytest.mark.parametrize(
    "options", [(), ("--blink-settings=preferredColorScheme=0",), ("--window-size=420,900",)], ids=["light", "dark", "narrow"]
)
@pytest.mark.parametrize("name", ["index.html", "runs.html"])
def test_axe_finds_nothing(page: Path, name: str, options: tuple[str, ...]):
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    source = next(Path(axe.__file__).parent.rglob("axe.min.js")).read_text()
    found = "axe.run().then(r => { document.title = 'RESULT' + JSON.stringify(r.violations.map(v => [v.id, v.nodes[0].html])) });"
    opened = "document.querySelectorAll('details').forEach(d => { d.open = true });"
    assert run_script(page.with_name(name), f"{source};{opened}{found}", *options) == []


def test_without_javascript_figures_and_all_numbers_are_there(page: Path):
    """What the browser shows before any script has run: the controls hidden, the figures drawn, every mark in a table."""
    text = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)
    assert '<form id="controls" class="controls" hidden' in text
    assert text.count("<svg") == 6
    document = json.loads(page.with_name("report.json").read_bytes())
    marks = sum(len(figure["points"]) for figure in document["figures"].values())
    assert len(re.findall(r"<tr><td>.*?<td>ours", text)) == marks
