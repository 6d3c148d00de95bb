"""The report of a complete synthetic ledger: its shape, its numbers, its pages, and equal bytes for equal inputs."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ledger_fixture import IMAGES, START, row_of, write_study

from repro.report import report_stage
from repro.spec import clean_runs, load_profile

VALUE_KEYS = {"paper", "authors_points", "reproduced", "ci95", "n", "run"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a complete synthetic study at profile `mini` and its report."""
    root = tmp_path_factory.mktemp("study")
    write_study(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("REPRO_AUTHORS_DIR", raising=False)
        report_stage("mini")
    return root


@pytest.fixture(scope="module")
def document(built: Path) -> dict[str, Any]:
    return json.loads((built / "report/build/mini/report.json").read_bytes())


def test_tables_have_the_promised_shape(document: dict[str, Any]):
    rows = document["tables"]["table1"]["rows"]
    cells = [(r["dataset"], r["clean_size"], r["pretrain_objective"]) for r in rows]
    assert cells == [(d, s, o) for d, s in (("cc3m", "100k"), ("cc6m", "100k"), ("cc6m", "200k")) for o in ("mmcl", "mmcl_ssl")]
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


def test_table_1_takes_the_most_accurate_evaluation_at_the_cap(built: Path, document: dict[str, Any]):
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


def test_every_reproduced_number_leads_to_a_run_of_the_ledger(built: Path, document: dict[str, Any]):
    for table in ("table1", "table2"):
        for row in document["tables"][table]["rows"]:
            for value in (v for v in row.values() if isinstance(v, dict)):
                assert (built / value["run"] / "rows.jsonl").is_file()
                assert document["runs"][value["run"]].keys() >= {"commit", "fingerprint", "inputs", "sacred"}


def test_every_claim_has_a_verdict(document: dict[str, Any]):
    allowed = {"reproduced", "direction only", "not reproduced", "undecided", "not run"}
    assert {claim["verdict"] for claim in document["claims"]} <= allowed
    verdicts = {claim["id"]: claim["verdict"] for claim in document["claims"]}
    assert verdicts["objective-decides-cc3m"] == "reproduced"
    assert verdicts["poison-in-the-cleaning-set"] == "not run"
    assert verdicts["start-accuracy-cc3m"] == "direction only"


def test_a_stand_in_is_named_at_the_top_in_captions_and_below_figures(built: Path):
    page = html.unescape((built / "report/build/mini/index.html").read_text())
    assert page.index("not expected to match") < page.index("<h2")
    captions = re.findall(r"<caption>Table.*?</caption>", page, re.DOTALL)
    assert len(captions) == 2
    assert all("stand-in data" in caption for caption in captions)
    assert page.count("Stand-in data: the paper's marks") == 3
    assert (built / "report/build/mini/report.tex").read_text().count("\\standin") >= 8


def test_the_page_asks_for_nothing_from_anywhere(built: Path):
    page = (built / "report/build/mini/index.html").read_text()
    assert re.findall(r"(?:src|xlink:href)=\"(?!data:|#)[^\"]*\"", page) == []
    assert "default-src 'none'" in page
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    allowed = re.search(r"script-src '(sha256-[^']+)'", page)
    assert allowed is not None
    import base64

    assert allowed[1] == "sha256-" + base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()


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


def test_the_same_inputs_give_the_same_bytes(built: Path, monkeypatch: pytest.MonkeyPatch):
    """Another time zone and hash seed's worth of difference may not reach the files."""
    folder = built / "report/build/mini"
    names = ["index.html", "report.json", "report.tex", "figures/figure1.pdf", *(["report.pdf"] if shutil.which("pdflatex") else [])]
    before = {name: (folder / name).read_bytes() for name in names}
    monkeypatch.chdir(built)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.delenv("REPRO_AUTHORS_DIR", raising=False)
    report_stage("mini")
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names} == {
        name: hashlib.sha256(content).hexdigest() for name, content in before.items()
    }
