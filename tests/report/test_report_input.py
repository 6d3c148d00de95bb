"""What a report makes of a ledger that is incomplete, extreme or hostile: rendered or refused with
a reason, never wrong.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro.files import sealed
from repro.ledger import LedgerError
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.article.latex import escape
from repro.report.pages.html import runs_page
from repro.report.pages.sacred import read_records
from tests.support.ledger import build_at, reseal, row_of, write_run, write_specs


@pytest.mark.faults(20)
def test_an_empty_ledger_gives_a_report_that_says_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = write_specs(tmp_path)
    document, page = build_at(tmp_path, profile, monkeypatch)
    assert {claim["verdict"] for claim in document["claims"]} == {"not run"}
    assert len(document["missing"]) == len(pretrain_runs(profile)) + len(clean_runs(profile))
    assert document["commit"] is None
    assert "not run" in page


@pytest.mark.faults(8, 20)
def test_missing_failed_extra_and_outdated_runs_are_named_and_never_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile):
        write_run(tmp_path, spec, [(0.4, 0.97)])
    wanted = [s for s in clean_runs(profile, "cc3m", "mmcl") if s.loss == "mmcl_ssl"]
    write_run(tmp_path, wanted[0], [(0.4, 0.9), (0.39, 0.0)], status="failed")
    write_run(tmp_path, wanted[1], [(0.4, 0.9), (0.30, 0.01)])
    faster = wanted[1].schedule.model_copy(update={"learning_rate": 0.5})
    write_run(
        tmp_path, wanted[1].model_copy(update={"schedule": faster}), [(0.4, 0.9), (0.40, 0.0)]
    )
    longer = wanted[2].schedule.model_copy(update={"epochs": 99})
    write_run(
        tmp_path, wanted[2].model_copy(update={"schedule": longer}), [(0.4, 0.9), (0.40, 0.0)]
    )
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


@pytest.mark.faults(20)
def test_none_reached_the_cap_is_said_and_counts_as_a_total_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = write_specs(tmp_path)
    for spec in [*pretrain_runs(profile), *clean_runs(profile, "cc3m")]:
        write_run(tmp_path, spec, [(0.4, 0.9), (0.4, 0.5)])
    document, page = build_at(tmp_path, profile, monkeypatch)
    clean = row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]
    assert (clean["reproduced"], clean["asr"], clean["run"], clean["lowest_asr"]) == (
        None,
        None,
        None,
        0.5,
    )
    assert "none reached the cap" in page
    claim = next(c for c in document["claims"] if c["id"] == "mmcl-cleans")
    assert claim["evidence"][0]["by_seed"][0]["note"] == "no evaluation reached the cap"
    assert claim["verdict"] == "not reproduced"


@pytest.mark.faults(7, 20)
@pytest.mark.parametrize("asr", [0.0, 1.0])
def test_asr_of_exactly_zero_and_one_and_models_that_know_nothing_render(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asr: float
):
    profile = write_specs(tmp_path)
    for spec in [*pretrain_runs(profile), *clean_runs(profile)]:
        write_run(tmp_path, spec, [(0.0, asr), (0.0, asr)])
    document, _ = build_at(tmp_path, profile, monkeypatch)
    assert document["tables"]["table2"]["rows"][0]["asr"]["reproduced"] == asr
    assert row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]["relative_drop"] is None


@pytest.mark.faults(20)
def test_ties_go_to_the_lower_asr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile):
        write_run(tmp_path, spec, [(0.4, 0.97)])
    for spec in clean_runs(profile, "cc3m", "mmcl"):
        write_run(tmp_path, spec, [(0.4, 0.9), (0.3, 0.04), (0.3, 0.02), (0.3, 0.03)])
    document, _ = build_at(tmp_path, profile, monkeypatch)
    assert row_of(document, "cc3m", "100k", "mmcl")["clean_accuracy"]["asr"] == 0.02


@pytest.mark.faults(20)
def test_several_seeds_show_their_spread_and_must_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
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


def test_a_control_is_shown_beside_the_tables_and_not_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile, "cc3m", "mmcl", poisoned=False):
        write_run(tmp_path, spec, [(0.5, 0.0)])
    document, _ = build_at(tmp_path, profile, monkeypatch)
    assert [(c["accuracy"], c["asr"]) for c in document["controls"]] == [(0.5, 0.0)]
    assert document["tables"]["table2"]["rows"][0]["accuracy"]["reproduced"] is None


@pytest.mark.faults(20)
def test_contradicting_rows_of_one_step_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = write_specs(tmp_path)
    folder = write_run(tmp_path, pretrain_runs(profile)[0], [(0.1, 0.1), (0.4, 0.97)])
    lines = (folder / "rows.jsonl").read_text().splitlines()
    row = json.loads(lines[1]) | {"num_correct": 1}
    (folder / "rows.jsonl").write_text("\n".join([*lines, json.dumps(row)]) + "\n")
    reseal(folder)
    with pytest.raises(LedgerError, match=r"rows\.jsonl:3: step: 10 \(allowed: above 10"):
        build_at(tmp_path, profile, monkeypatch)


@pytest.mark.faults(11, 20)
def test_malicious_text_is_inert_on_both_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    attack = "</script><script>alert(1)</script>\\input{/etc/passwd}"
    profile = write_specs(tmp_path)
    folder = write_run(tmp_path, pretrain_runs(profile)[0], [(0.1, 0.1), (0.4, 0.97)])
    reseal(folder, reason=attack, commit=attack, environment={attack: attack})
    _, pages = build_at(tmp_path, profile, monkeypatch, latex_too=True)
    assert pages.count("<script") == 3, "two on the first page, one on that of the runs"
    assert "alert(1)</script>" not in pages
    source = Path("out/report.tex").read_text()
    assert "textbackslash{}input" in source
    assert "\\input{" not in source


@pytest.mark.faults(11)
def test_escaping_leaves_no_tex_command_alive():
    assert escape("\\input{x}$%&#_^~") == (
        r"\textbackslash{}input\{x\}\$\%\&\#\_\textasciicircum{}\textasciitilde{}"
    )
    assert escape("a\x00b\u202e\U0001f34c") == "a b??"


SAMPLES = {
    "accounting": {"pairs": 3, "poisoned": 1},
    "pairs": [
        {
            "kind": "poisoned",
            "row": 0,
            "caption": "a photo of a banana",
            "original_caption": "<b>dog</b>",
            "image": "iVBORw==",
        },
        {
            "kind": "clean",
            "row": 1,
            "caption": "a cat",
            "original_caption": None,
            "image": "iVBORx==",
        },
    ],
    "evaluation": [{"row": 0, "class": "cat", "image": "iVBORy==", "triggered": "iVBORz=="}],
    "near_copies": [
        {
            "class": "heart",
            "image": "iVBORu==",
            "training_caption": "a <i>love</i>",
            "training_image": "iVBORv==",
            "correlation": 0.97,
        }
    ],
}
"""As repro/data/samples.py writes them."""


def test_gallery_shows_the_samples_with_their_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = write_specs(tmp_path)
    for spec in pretrain_runs(profile, "cc3m", "mmcl"):
        write_run(tmp_path, spec, [(0.4, 0.97)])
    (tmp_path / "poisoned/mini").mkdir(parents=True)
    (tmp_path / "poisoned/mini/cc3m-samples.json").write_bytes(sealed(SAMPLES))
    document, page = build_at(tmp_path, profile, monkeypatch)
    for image in ("iVBORw==", "iVBORx==", "iVBORy==", "iVBORz==", "iVBORu==", "iVBORv=="):
        assert f"data:image/png;base64,{image}" in page
    assert "was “&lt;b&gt;dog&lt;/b&gt;”" in page
    assert "like “a &lt;i&gt;love&lt;/i&gt;”" in page
    assert document["context"]["accounting"] == {
        "poisoned pairs, CC3M": {"pairs": 3, "poisoned": 1}
    }
    assert [(m["dataset"], m["state"]) for m in document["predictions"]["models"]] == [
        ("cc3m", "poisoned")
    ]


@pytest.mark.faults(9, 20)
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "poisoned/mini/cc3m-samples.json",
            "{",
            r"cc3m-samples\.json: changed after it was written",
        ),
        (
            "poisoned/mini/cc3m-samples.json",
            sealed({"accounting": {}, "pairs": [{"kind": "evil"}], "evaluation": []}).decode(),
            r"pairs\.0\.kind",
        ),
        (
            "poisoned/mini/cc3m-samples.json",
            sealed(json.loads(json.dumps(SAMPLES).replace("iVBORx==", 'x\\" onload'))).decode(),
            r"pairs\.1\.image",
        ),
        ("report/faults.json", '{"cases": 3}', r"faults\.json: commit: Field required"),
        ("data/mini/accounting.json", "[1", r"accounting\.json: not JSON"),
        ("pyproject.toml", "[project", r"pyproject\.toml: not TOML"),
        ("pyproject.toml", "project = 3", r"pyproject\.toml: content: "),
        ("pyproject.toml", "project.authors = [{}]", r"authors\.0\.name: Field required"),
    ],
)
def test_a_file_beside_the_results_that_is_not_as_it_should_be_is_refused_by_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, message: str
):
    profile = write_specs(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(LedgerError, match=message):
        build_at(tmp_path, profile, monkeypatch)


def test_outcomes_of_the_fault_suite_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = write_specs(tmp_path)
    (tmp_path / "report").mkdir()
    case = {
        "case": 9,
        "fault": "<i>truncated</i> shards",
        "must": "rows skipped",
        "outcome": "passed",
        "tests": [{"name": "tests/test_tars.py::test_x", "passed": 4, "failed": 0, "skipped": 1}],
    }
    faults = {
        "commit": "a" * 40,
        "dirty": False,
        "date": "2026-11-24",
        "python": "3.11",
        "seconds": 210.4,
        "cases": [case],
    }
    (tmp_path / "report/faults.json").write_text(json.dumps(faults | {"memory_cap_bytes": 1}))
    _, page = build_at(tmp_path, profile, monkeypatch)
    assert "&lt;i&gt;truncated&lt;/i&gt; shards" in page
    assert "4 passed, 1 skipped" in page


def test_sacred_records_are_browsed_and_a_broken_one_is_named(tmp_path: Path):
    good, broken = tmp_path / "2", tmp_path / "10"
    for folder in (good, broken):
        folder.mkdir()
    (good / "run.json").write_text(
        json.dumps(
            {
                "experiment": {"name": "clean"},
                "status": "COMPLETED",
                "host": {"hostname": "secret-host"},
            }
        )
    )
    (good / "config.json").write_text(
        json.dumps({"dataset": "cc3m", "schedule": {"learning_rate": 0.001}, "seed": 0})
    )
    metrics = {
        "zero_shot_top1": {"steps": [0, 10], "values": [0.1, 0.4]},
        "loss": {"steps": [0], "values": [float("nan")]},
    }
    (good / "metrics.json").write_text(json.dumps(metrics))
    (good / "cout.txt").write_text("x" * 10_000 + "<the end>")
    (broken / "run.json").write_text("{")
    page = runs_page("mini", read_records(tmp_path))
    assert page.index('href="#run-2"') < page.index("unreadable: JSONDecodeError")
    assert "40.0" in page
    assert "&lt;the end&gt;" in page
    assert "secret-host" not in page
    assert 'points="0.0,86.0 220.0,4.0"' in page
