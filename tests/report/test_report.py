"""The report of a complete synthetic ledger: its shape, its numbers, its pages, and equal bytes for
equal inputs.
"""

from __future__ import annotations

import difflib
import hashlib
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from repro.profile import clean_runs, load_classnames, load_profile
from repro.runs.published import read_bits
from tests.support.ledger import IMAGES, ROOT, START, row_of

BUILD = Path("report/build/mini")
FIGURES = (
    "answer",
    "figure1",
    "figure2",
    "figure3",
    "sweep",
    "budgets",
    "resistance",
    "trajectories",
)
VALUE_KEYS = {"paper", "authors_points", "reproduced", "ci95", "n", "run"}


@pytest.fixture(scope="module")
def document(built: Path) -> dict[str, Any]:
    return json.loads((built / "report/build/mini/report.json").read_bytes())


def test_tables_have_the_promised_shape(document: dict[str, Any]):
    rows = document["tables"]["table1"]["rows"]
    cells = [(r["dataset"], r["clean_size"], r["pretrain_objective"]) for r in rows]
    assert cells == [
        (d, s, o)
        for d, s in (("cc3m", "100k"), ("cc6m", "100k"), ("cc6m", "200k"))
        for o in ("mmcl", "mmcl_ssl")
    ]
    for row in rows:
        assert row["original_accuracy"].keys() >= VALUE_KEYS
        assert row["clean_accuracy"].keys() >= VALUE_KEYS | {"asr", "learning_rate", "epoch"}
    for row in document["tables"]["table2"]["rows"]:
        assert row["accuracy"].keys() >= VALUE_KEYS
        assert row["asr"].keys() >= VALUE_KEYS
    assert document["figures"].keys() == {"figure1", "figure2", "figure3"}
    assert {"profile", "commit", "tables", "figures"} <= document.keys()


def test_the_200k_control_has_a_measured_value_and_none_of_the_paper(document: dict[str, Any]):
    clean = row_of(document, "cc6m", "200k", "mmcl")["clean_accuracy"]
    assert clean["paper"] is None
    assert clean["delta"] is None
    assert clean["reproduced"] is not None


def test_table_1_takes_the_most_accurate_evaluation_at_the_cap(
    built: Path, document: dict[str, Any]
):
    """The same by going through the ledger's rows."""
    best = 0.0
    for path in (built / "results/mini/clean/cc3m-mmcl").glob("100k-mmcl_ssl-*/rows.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["step"] > 0 and row["num_attacked"] / IMAGES <= 0.05:
                best = max(best, row["num_correct"] / IMAGES)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert clean["reproduced"] == best > 0
    assert clean["asr"] <= 0.05


def test_table_2_is_the_end_of_pre_training(document: dict[str, Any]):
    for row in document["tables"]["table2"]["rows"]:
        accuracy, asr = START[row["pretrain_objective"]]
        assert row["accuracy"]["reproduced"] == pytest.approx(accuracy, abs=1 / IMAGES)
        assert row["asr"]["reproduced"] == pytest.approx(asr, abs=1 / IMAGES)
        low, high = row["accuracy"]["ci95"]
        assert low < row["accuracy"]["reproduced"] < high


def test_every_reproduced_number_leads_to_a_run_of_the_ledger(
    built: Path, document: dict[str, Any]
):
    for table in ("table1", "table2"):
        for row in document["tables"][table]["rows"]:
            for value in (v for v in row.values() if isinstance(v, dict) and "run" in v):
                assert (built / value["run"] / "rows.jsonl").is_file()
                assert document["runs"][value["run"]].keys() >= {
                    "commit",
                    "fingerprint",
                    "inputs",
                    "sacred",
                }


def test_every_claim_has_a_verdict(document: dict[str, Any]):
    verdicts = {claim["id"]: claim["verdict"] for claim in document["claims"]}
    assert verdicts["objective-decides-cc3m"] == "reproduced"
    assert verdicts["poison-in-the-cleaning-set"] == "not run"
    assert verdicts["start-accuracy-cc3m"] == "direction only"
    assert (
        verdicts["mmcl-costs-little-accuracy"] == "undecided"
    )  # five points, with an interval about them
    assert verdicts["more-epochs-keep-asr"] == "reproduced"


def test_a_stand_in_is_named_at_the_top_in_captions_and_below_figures(built: Path):
    page = html.unescape((built / "report/build/mini/index.html").read_text())
    assert page.index("not expected to match") < page.index("<h2")
    captions = re.findall(r"<caption>Table.*?</caption>", page, re.DOTALL)
    assert len(captions) == 2
    assert all("stand-in data" in caption for caption in captions)
    assert page.count("the data differ,\nand so directions can be compared") == 3
    assert (built / "report/build/mini/report.tex").read_text().count("\\standin") >= 8


@pytest.mark.faults(22)
def test_the_page_asks_for_nothing_from_anywhere(built: Path):
    page = (built / "report/build/mini/index.html").read_text()
    assert re.findall(r"(?:src|xlink:href)=\"(?!data:|#)[^\"]*\"", page) == []
    assert "default-src 'none'" in page
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    allowed = re.search(r"script-src '(sha256-[^']+)'", page)
    assert allowed is not None
    import base64

    assert (
        allowed[1]
        == "sha256-" + base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    )


def test_figures_show_every_evaluation_after_the_start(built: Path, document: dict[str, Any]):
    """Three evaluations of each cleaning run."""
    profile = load_profile("mini", built / "specs")
    runs = [r for r in clean_runs(profile) if r.dataset == "cc3m"]
    points = document["figures"]["figure1"]["points"]
    assert len(points) == 3 * len(runs)
    page = (built / "report/build/mini/index.html").read_text()
    for objective in (0, 1):
        for loss in ("mmcl", "ssl", "mmcl_ssl"):
            assert f'<g id="figure1-{objective}-ledger-{loss}-0">' in page


def report_called(folder: Path, **environment: str) -> None:
    """The command as a user calls it, in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "repro", "report", "--profile", "mini"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        check=True,
    )


def readable(content: bytes) -> str:
    """A file's content with the compressed streams of a PDF unpacked, for showing a difference."""

    def unpacked(stream: re.Match[bytes]) -> bytes:
        try:
            return b"stream\n" + zlib.decompress(stream[1])
        except zlib.error:
            return stream[0]

    return re.sub(rb"stream\r?\n(.*?)endstream", unpacked, content, flags=re.DOTALL).decode(
        "latin-1"
    )


@pytest.mark.faults(23)
def test_the_same_inputs_give_the_same_bytes_in_another_process_time_zone_locale_and_hash_seed(
    built: Path, tmp_path: Path
):
    """HTML, JSON, TeX, figures and, where a TeX is installed, the PDF."""
    names = [
        "index.html",
        "ledger.html",
        "report.json",
        "report.tex",
        "runs.html",
        *(f"figures/{n}.pdf" for n in FIGURES),
    ]
    names += ["report.pdf"] if shutil.which("pdflatex") else []
    here, there = tmp_path / "here", tmp_path / "there"
    for copy in (here, there):
        shutil.copytree(built, copy, ignore=shutil.ignore_patterns("build"))
    report_called(here, HOME=os.environ.get("HOME", "/"))
    report_called(
        there,
        HOME=str(tmp_path),
        TZ="Asia/Kathmandu",
        LC_ALL="tr_TR.UTF-8",
        PYTHONHASHSEED="4711",
    )

    for name in names:
        first, second = ((copy / BUILD / name).read_bytes() for copy in (here, there))
        if first != second:
            lines = difflib.unified_diff(*(readable(c).splitlines() for c in (first, second)), n=0)
            pytest.fail(f"{name} differs:\n" + "\n".join(itertools.islice(lines, 40)))


def test_the_headline_is_what_the_main_claims_say_together(document: dict[str, Any]):
    assert [claim["id"] for claim in document["headline"]["claims"]] == [
        "objective-decides-cc3m",
        "objective-decides-cc6m",
        "objective-decides-200k",
    ]
    assert document["headline"]["verdict"] == "reproduced"


def test_predictions_are_the_bits_of_the_runs_they_name(built: Path, document: dict[str, Any]):
    """Four models, poisoned and cleaned; classes 0 and 1 in every row of the fixture."""
    models = document["predictions"]["models"]
    assert [model["state"] for model in models] == ["poisoned", "cleaned"] * 4
    names = load_classnames(load_profile("mini", built / "specs"))
    for model in models:
        bits = read_bits(built / model["run"], IMAGES)
        for kind in ("correct", "attacked"):
            assert model[kind] == [
                bool(bits[kind][model["row"]][image]) for image in document["predictions"]["images"]
            ]
        assert set(model["classes"]) == {names[0]}
        assert set(model["classes_triggered"]) == {names[1]}


def test_every_number_shown_leads_to_its_place_and_every_link_has_a_target(built: Path):
    page = (built / BUILD / "index.html").read_text()
    assert page.count("data-path=") > 250
    targets = set(re.findall(r' id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= targets
