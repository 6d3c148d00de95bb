"""The report of a synthetic ledger: its shape, its honesty about what is missing, and pages that hold whatever is put in."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledger_fixture import IMAGES, START, write_run, write_specs, write_study

from repro.ledger import LedgerError
from repro.report import render, report_stage
from repro.report.context import read_context
from repro.report.document import claims_of
from repro.report.latex import escape
from repro.report.points import read_study
from repro.report.render import build
from repro.spec import Profile, clean_runs, load_profile, pretrain_runs

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


def build_at(root: Path, profile: Profile, monkeypatch: pytest.MonkeyPatch, *, latex_too: bool = False) -> tuple[dict[str, Any], str]:
    """Document and page of the ledger at `root`."""
    monkeypatch.chdir(root)
    study = read_study(profile, Path())
    document = build(study, claims_of(), read_context(study, Path()), Path("out"), latex_too=latex_too)
    return document, Path("out/index.html").read_text()


def row_of(document: dict[str, Any], dataset: str, size: str, objective: str) -> dict[str, Any]:
    (row,) = [
        r for r in document["tables"]["table1"]["rows"]
        if (r["dataset"], r["clean_size"], r["pretrain_objective"]) == (dataset, size, objective)
    ]  # fmt: skip
    return row


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


def test_an_empty_ledger_gives_a_report_that_says_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = write_specs(tmp_path)
    document, page = build_at(tmp_path, profile, monkeypatch)
    assert {claim["verdict"] for claim in document["claims"]} == {"not run"}
    assert len(document["missing"]) == len(pretrain_runs(profile)) + len(clean_runs(profile))
    assert document["commit"] is None
    assert "not run" in page


def test_missing_failed_extra_and_outdated_runs_are_named_and_never_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile):
        write_run(tmp_path, spec, [(0.4, 0.97)])
    wanted = [s for s in clean_runs(profile, "cc3m", "mmcl") if s.loss == "mmcl_ssl"]
    write_run(tmp_path, wanted[0], [(0.4, 0.9), (0.39, 0.0)], status="failed")
    write_run(tmp_path, wanted[1], [(0.4, 0.9), (0.30, 0.01)])
    faster = wanted[1].schedule.model_copy(update={"learning_rate": 0.5})
    write_run(tmp_path, wanted[1].model_copy(update={"schedule": faster}), [(0.4, 0.9), (0.40, 0.0)])
    longer = wanted[2].schedule.model_copy(update={"epochs": 99})
    write_run(tmp_path, wanted[2].model_copy(update={"schedule": longer}), [(0.4, 0.9), (0.40, 0.0)])
    document, page = build_at(tmp_path, profile, monkeypatch)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert clean["reproduced"] == 0.30
    assert clean["missing"] == len(wanted) - 1
    reasons = {m["run"]: m["reason"] for m in document["missing"] if m["cell"] == "cc3m-mmcl"}
    assert reasons[wanted[0].run_id] == "failed: loss is not finite at step 3"
    assert reasons[wanted[2].run_id] == "made with another specification; run the study again"
    assert set(reasons.values()) >= {"no result"}
    assert [n for n in document["notices"] if "lr0.5" in n and "not a run of this profile" in n]
    assert f"{len(document['missing'])} run(s) are missing" in page


def test_none_reached_the_cap_is_said_and_counts_as_a_total_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = write_specs(tmp_path)
    for spec in [*pretrain_runs(profile), *clean_runs(profile, "cc3m")]:
        write_run(tmp_path, spec, [(0.4, 0.9), (0.4, 0.5)])
    document, page = build_at(tmp_path, profile, monkeypatch)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert (clean["reproduced"], clean["asr"], clean["run"], clean["lowest_asr"]) == (None, None, None, 0.5)
    assert "none reached the cap" in page
    claim = next(c for c in document["claims"] if c["id"] == "mmcl-cleans")
    assert claim["evidence"][0]["by_seed"][0]["note"] == "no evaluation reached the cap"
    assert claim["verdict"] == "not reproduced"


@pytest.mark.parametrize("asr", [0.0, 1.0])
def test_asr_of_exactly_zero_and_one_and_models_that_know_nothing_render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asr: float):
    profile = write_specs(tmp_path)
    for spec in [*pretrain_runs(profile), *clean_runs(profile)]:
        write_run(tmp_path, spec, [(0.0, asr), (0.0, asr)])
    document, _ = build_at(tmp_path, profile, monkeypatch)
    assert document["tables"]["table2"]["rows"][0]["asr"]["reproduced"] == asr
    assert row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]["relative_drop"] is None


def test_ties_go_to_the_lower_asr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile):
        write_run(tmp_path, spec, [(0.4, 0.97)])
    for spec in clean_runs(profile, "cc3m", "mmcl"):
        write_run(tmp_path, spec, [(0.4, 0.9), (0.3, 0.04), (0.3, 0.02), (0.3, 0.03)])
    document, _ = build_at(tmp_path, profile, monkeypatch)
    assert row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]["asr"] == 0.02


def test_several_seeds_show_their_spread_and_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_specs(tmp_path)
    profile = load_profile("mini", tmp_path / "specs", {"pretrain.seeds": [0, 1]})
    for spec in pretrain_runs(profile):
        write_run(tmp_path, spec, [(0.4, 0.97)])
    for spec in clean_runs(profile, "cc3m"):
        good = spec.seed == 0 or spec.pretrain_objective == "mmcl_ssl"
        write_run(tmp_path, spec, [(0.4, 0.97), (0.4 if good else 0.1, 0.0)])
    document, page = build_at(tmp_path, profile, monkeypatch)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert clean["reproduced"] == 0.4
    assert [(s["seed"], s["accuracy"]) for s in clean["by_seed"]] == [(0, 0.4), (1, 0.1)]
    assert clean["spread"]["mean"] == pytest.approx(0.25)
    claim = next(c for c in document["claims"] if c["id"] == "mmcl-cleans")
    assert claim["evidence"][0]["verdict"] == "undecided"
    assert "between seeds" in page


def test_a_control_is_shown_beside_the_tables_and_not_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile, "cc3m", "mmcl", poisoned=False):
        write_run(tmp_path, spec, [(0.5, 0.0)])
    document, _ = build_at(tmp_path, profile, monkeypatch)
    assert [(c["accuracy"], c["asr"]) for c in document["controls"]] == [(0.5, 0.0)]
    assert document["tables"]["table2"]["rows"][0]["accuracy"]["reproduced"] is None


def test_contradicting_rows_of_one_step_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = write_specs(tmp_path)
    folder = write_run(tmp_path, pretrain_runs(profile)[0], [(0.1, 0.1), (0.4, 0.97)])
    lines = (folder / "rows.jsonl").read_text().splitlines()
    row = json.loads(lines[1]) | {"num_correct": 1}
    (folder / "rows.jsonl").write_text("\n".join([*lines, json.dumps(row)]) + "\n")
    with pytest.raises(LedgerError, match="two rows contradict each other"):
        build_at(tmp_path, profile, monkeypatch)


def test_malicious_text_is_inert_on_both_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    attack = "</script><script>alert(1)</script>\\input{/etc/passwd}"
    profile = write_specs(tmp_path)
    folder = write_run(tmp_path, pretrain_runs(profile)[0], [(0.1, 0.1), (0.4, 0.97)])
    record = json.loads((folder / "run.json").read_bytes()) | {"reason": attack, "commit": attack, "environment": {attack: attack}}
    (folder / "run.json").write_text(json.dumps(record))
    _, page = build_at(tmp_path, profile, monkeypatch, latex_too=True)
    assert page.count("<script") == 2
    assert "alert(1)</script>" not in page
    source = Path("out/report.tex").read_text()
    assert "textbackslash{}input" in source
    assert "\\input{" not in source


def test_escaping_leaves_no_tex_command_alive():
    assert escape("\\input{x}$%&#_^~") == (r"\textbackslash{}input\{x\}\$\%\&\#\_\textasciicircum{}\textasciitilde{}")
    assert escape("a\x00b\u202e\U0001f34c") == "a b??"


def test_gallery_shows_pairs_of_the_store_and_refuses_shards_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A store of one poisoned PNG and one clean JPEG in one shard, by the layout of repro/data/shards.py."""
    profile = write_specs(tmp_path)
    store = tmp_path / "poisoned/mini/cc3m"
    store.mkdir(parents=True)
    (store / "0.tar").write_bytes(b"....\x89PNG\xff\xd8JPG")
    captions = [b"a photo of a banana", b"a cat"]
    np.savez(
        store / "index.npz", shard=np.zeros(2, np.int32), offset=np.array([4, 8]), size=np.array([4, 5]),
        caption_bytes=np.frombuffer(b"".join(captions), np.uint8), caption_offsets=np.array([0, 19, 24]),
    )  # fmt: skip
    np.savez(store / "rows.npz", poisoned=np.array([0]), **{"100k": np.array([1])})
    (store / "manifest.jsonl").write_text(json.dumps({"row": 0, "original_caption": "<b>dog</b>"}) + "\n")
    (store / "shards.json").write_text(json.dumps([{"path": "0.tar"}]))
    _, page = build_at(tmp_path, profile, monkeypatch)
    assert "data:image/png;base64,iVBORw==" in page
    assert "data:image/jpeg;base64,/9hKUEc=" in page
    assert "was “&lt;b&gt;dog&lt;/b&gt;”" in page
    (store / "shards.json").write_text(json.dumps([{"path": "../../../../outside.tar"}]))
    with pytest.raises(LedgerError, match=r"shards\.json: path: .*outside\.tar"):
        build_at(tmp_path, profile, monkeypatch)


def test_sacred_records_are_browsed_and_a_broken_one_is_named(tmp_path: Path):
    good, broken = tmp_path / "2", tmp_path / "10"
    for folder in (good, broken):
        folder.mkdir()
    (good / "run.json").write_text(
        json.dumps({"experiment": {"name": "clean"}, "status": "COMPLETED", "host": {"hostname": "secret-host"}})
    )
    (good / "config.json").write_text(json.dumps({"dataset": "cc3m", "schedule": {"learning_rate": 0.001}, "seed": 0}))
    metrics = {"zero_shot_top1": {"steps": [0, 10], "values": [0.1, 0.4]}, "loss": {"steps": [0], "values": [float("nan")]}}
    (good / "metrics.json").write_text(json.dumps(metrics))
    (good / "cout.txt").write_text("x" * 10_000 + "<the end>")
    (broken / "run.json").write_text("{")
    page = render.runs_page("mini", render.read_records(tmp_path))
    assert page.index('href="#run-2"') < page.index("unreadable: JSONDecodeError")
    assert "40.00" in page
    assert "&lt;the end&gt;" in page
    assert "secret-host" not in page
    assert 'points="0.0,86.0 220.0,4.0"' in page
