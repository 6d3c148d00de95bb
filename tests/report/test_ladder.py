"""The ladder of scales: what is smaller at each, and what came out there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.build import report_stage
from repro.report.document import claims_of
from repro.report.numbers.evidence import Evidence, read_evidence
from repro.report.numbers.resistance import resistance
from repro.report.pages.findings import findings_block
from repro.report.pages.readme import ladder_block
from repro.report.release import release
from repro.report.replay import SETTINGS
from repro.report.scales.ladder import LARGER, MeasuredScale, ladder, larger_study
from repro.report.scales.printed import NO_RESULTS, ladder_table
from repro.report.verify import verify
from repro.runs.published import read_results
from repro.spec import Objective, RunSpec
from repro.study.archive import write_archive
from tests.support.ledger import build_at, row_of, study_spec, write_run, write_specs

START = {"mmcl": (0.40, 0.95), "mmcl_ssl": (0.50, 0.90)}
AFTER = {"mmcl": (0.40, 0.02), "mmcl_ssl": (0.25, 0.02)}
"""Accuracy and ASR: cleaning costs the MMCL model nothing and the other one half."""
Outcome = Callable[[RunSpec], list[tuple[float, float]]]


def usual(spec: RunSpec) -> list[tuple[float, float]]:
    start = START[spec.pretrain_objective]
    return [start] if spec.stage == "pretrain" else [start, AFTER[spec.pretrain_objective]]


def write_cc6m(
    root: Path, name: str, seeds: list[int], variant: str = "", outcome: Outcome = usual
) -> None:
    """CC6M models of a profile, and CleanCLIP with 100K pairs at one learning rate."""
    profile = load_profile(name, root / "specs", {"pretrain.seeds": seeds})
    objectives: list[Objective] = ["mmcl", "mmcl_ssl"]
    for objective in objectives:
        cleaning = [
            spec
            for spec in clean_runs(profile, "cc6m", objective, variant=variant)
            if (spec.loss, spec.clean_size) == ("mmcl_ssl", "100k")
        ]
        lowest = min(spec.schedule.learning_rate for spec in cleaning)
        made = [spec for spec in cleaning if spec.schedule.learning_rate == lowest]
        for spec in [*pretrain_runs(profile, "cc6m", objective, variant=variant), *made]:
            write_run(root, spec, outcome(spec))


def write_larger(root: Path, outcome: Outcome = usual) -> None:
    """An archived study of the scale `midi` on seeds 3 and 4."""
    changed = {"profile": LARGER, "datasets": ["cc6m"]}
    text = study_spec({"default": {}}, **changed).model_dump_json()
    (root / f"specs/studies/{LARGER}.yaml").write_text(text)

    made = root / "made"
    made.mkdir()
    (made / "specs").symlink_to(root / "specs")
    write_cc6m(made, LARGER, [3, 4], "default", outcome)
    archived = ((record, rows) for _, record, rows in read_results(made / "results"))
    write_archive(root / f"results/studies/{LARGER}.jsonl.gz", archived)
    shutil.rmtree(made)


def rows_at(root: Path, name: str = "mini") -> list[dict[str, Any]]:
    """The ladder of the ledger at `root`, as JSON has it."""
    evidence = read_evidence(load_profile(name, root / "specs"), root)
    claims = claims_of(root)
    measured = MeasuredScale(evidence, resistance(evidence, claims.paper))
    rows = ladder(measured, larger_study(name, root), claims, root)
    found: list[dict[str, Any]] = json.loads(json.dumps(rows))
    return found


def words(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Each row as printed, by the heads of the columns."""
    table = ladder_table({"ladder": rows, "profile": "mini", "context": {"accounting": {}}})
    return [dict(zip(table.heads, row, strict=True)) for row in table.rows]


def test_without_runs_only_the_paper_has_results(tmp_path: Path) -> None:
    write_specs(tmp_path)
    rows = rows_at(tmp_path)
    assert [(row["scale"], row["source"]) for row in rows] == [
        ("mini", None),
        (LARGER, None),
        ("paper", "printed"),
    ]
    # Each scale has more pairs and poisons less than the one before it.
    assert [row["pairs"] for row in rows] == sorted(row["pairs"] for row in rows)
    poisoned = [row["poisoned"] for row in rows]
    assert poisoned == sorted(poisoned, reverse=True) and poisoned[-1] == 0.0005
    mini, midi, _ = words(rows)
    assert NO_RESULTS in mini.values() and NO_RESULTS in midi.values()


def test_the_papers_row_has_what_it_prints(tmp_path: Path) -> None:
    """MMCL at 100K goes from 23.76 to 24.04, and at 200K there is a dash."""
    write_specs(tmp_path)
    *_, row = rows_at(tmp_path)
    printed = claims_of(tmp_path).paper.start("cc6m", "mmcl_ssl")
    assert printed is not None
    assert row["starts"][1]["accuracy"] == printed.accuracy
    assert row["controls"][0]["loss"] == pytest.approx(1 - 24.04 / 23.76)
    assert row["controls"][1]["holds"] is None

    *_, said = words([row])
    assert said["scale"] == "paper (its own numbers)"
    assert said["positive control"] == ("100K holds: -1.2% lost, ASR at most 5%; 200K not run")
    assert (said["the objective decides"], said["resistance"]) == ("claimed", "-")


def test_the_own_row_has_what_the_ledger_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_specs(tmp_path)
    write_cc6m(tmp_path, "mini", [0])
    monkeypatch.chdir(tmp_path)
    row, midi, _ = rows_at(tmp_path)
    assert (row["source"], row["seeds"], midi["source"]) == ("report", [0], None)

    # 400 images, two of which are of the target class, which the ASR leaves out.
    assert [start["accuracy"] for start in row["starts"]] == [0.40, 0.50]
    assert [start["asr"] for start in row["starts"]] == pytest.approx([0.95, 0.90], abs=0.01)
    first, second = row["controls"]
    assert (first["holds"], first["loss"]) == (True, 0.0)
    assert first["asr"] == pytest.approx(0.02, abs=0.006)
    assert second == {"clean_size": "200k", "holds": None, "loss": None, "asr": None}

    # Half of the accuracy is lost after MMCL + SSL, none after MMCL; CC3M was not run.
    verdicts = {(c["dataset"], c["clean_size"]): c["verdict"] for c in row["claims"]}
    assert verdicts["cc6m", "100k"] == "reproduced"
    assert verdicts["cc3m", "100k"] == verdicts["cc6m", "200k"] == "not run"
    (kept,) = row["resistance"]
    assert kept["clean_size"] == "100k" and 0.3 < kept["area"]["value"] < 0.5

    said = words([row])[0]
    assert said["scale"] == "mini (stand-in data; seed 0)"
    assert said["MMCL at the start, accuracy / ASR (%)"].startswith("40.0 / 9")
    assert "CC6M, 100K: holds here; CC6M, 200K: not run" in said["the objective decides"]
    assert said["resistance"].startswith("100K: 4")


def test_a_control_that_fails_is_told_with_its_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The MMCL model loses half of its accuracy as well."""
    write_specs(tmp_path)
    monkeypatch.chdir(tmp_path)

    def costly(spec: RunSpec) -> list[tuple[float, float]]:
        return [(0.4, 0.95)] if spec.stage == "pretrain" else [(0.4, 0.95), (0.2, 0.0)]

    write_cc6m(tmp_path, "mini", [0], outcome=costly)
    row, *_ = words(rows_at(tmp_path))
    assert row["positive control"] == "100K fails: 50.0% lost, ASR 0.0%; 200K not run"
    assert "CC6M, 100K: not tested: control failed" in row["the objective decides"]


def test_the_scale_between_comes_from_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 4 starts four points above seed 3; means stand in the ladder, its runs in the report,
    and `verify` finds an edit of either.
    """
    profile = write_specs(tmp_path)
    monkeypatch.setenv("PATH", "")  # no TeX

    def spread(spec: RunSpec) -> list[tuple[float, float]]:
        above = 0.04 if spec.seed == 4 else 0.0
        return [(accuracy + above, asr) for accuracy, asr in usual(spec)]

    write_larger(tmp_path, spread)
    document, page = build_at(tmp_path, profile, monkeypatch, latex_too=True)
    mini, midi, _ = document["ladder"]
    assert mini["source"] is None
    assert (midi["source"], midi["seeds"]) == ("study", [3, 4])
    assert midi["starts"][0]["accuracy"] == pytest.approx(0.42)
    assert midi["controls"][0]["holds"] is True
    runs = [run for run in document["runs"] if f"studies/{LARGER}" in run]
    assert len(runs) == 8 and document["archived_compute"]["runs"] == 8

    # The same words on page, PDF and README, each where a reader looks first.
    said = f"{LARGER} (stand-in data; seeds 3, 4)"
    assert page.index('<table id="ladder"') < page.index(said) < page.index('id="tables"')
    tex = Path("out/report.tex").read_text()
    assert tex.index(r"\section{Settings}") < tex.index(said) < tex.index(r"\section{Results}")
    assert f"| {said} | 174,539 |" in ladder_block(document)  # type: ignore[arg-type]

    # The page of all studies tells it cell by cell.
    cells = "- the objective decides: CC3M, 100K: not run; CC6M, 100K: holds here"
    block = findings_block("mini")
    assert f"What was done at {said}, and what came out for CC6M" in block and cells in block

    # An edit is found in the document, and on the page.
    assert verify(Path("out/report.json")) == []
    index = Path("out/index.html")
    text = index.read_text()
    index.write_text(text.replace("42.0 / ", "43.0 / "))
    assert any(line.startswith("index.html") for line in verify(Path("out/report.json")))
    index.write_text(text)
    document["ladder"][1]["pairs"] += 1
    Path("out/report.json").write_text(json.dumps(document))
    assert any(f"ladder[{LARGER}].pairs" in line for line in verify(Path("out/report.json")))


def test_a_report_of_the_larger_scale_has_its_own_runs_in_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_specs(tmp_path)
    profile = load_profile(LARGER, tmp_path / "specs")
    write_cc6m(tmp_path, LARGER, profile.pretrain.seeds)
    monkeypatch.chdir(tmp_path)
    rows = rows_at(tmp_path, LARGER)
    assert [(row["scale"], row["source"]) for row in rows] == [
        (LARGER, "report"),
        ("paper", "printed"),
    ]


def test_a_scale_of_which_nothing_is_published_is_reported_from_its_archive(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No data, models or results of the scale: what git keeps is enough for its page."""
    write_specs(tmp_path)
    shutil.copy(root / "pyproject.toml", tmp_path)
    write_larger(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no TeX
    report_stage(LARGER)

    folder = Path("report/build", LARGER)
    document = json.loads((folder / "report.json").read_bytes())
    row = row_of(document, "cc6m", "100k", "mmcl_ssl")
    assert row["original_accuracy"]["reproduced"] == pytest.approx(0.5)
    assert row["clean_accuracy"]["reproduced"] == pytest.approx(0.25)
    verdicts = {claim["id"]: claim["verdict"] for claim in document["claims"]}
    assert verdicts["objective-decides-cc6m"] == "reproduced"
    assert document["settings"]["seeds"] == [3, 4]

    # It says so, names what is missing beside it, and is held to the archive.
    archive = f"results/studies/{LARGER}.jsonl.gz"
    (notice,) = [notice for notice in document["notices"] if "nothing is published" in notice]
    assert archive in notice and notice in (folder / "index.html").read_text()
    assert all(run.startswith(archive) for run in document["runs"])
    missing = {(run["stage"], run["cell"]) for run in document["missing"]}
    assert ("pretrain", "cc3m-mmcl") in missing
    assert verify(folder / "report.json") == []

    # It can be given on as any other.
    assert (release(LARGER) / archive).is_file()


def test_a_replay_has_no_ladder(root: Path) -> None:
    evidence = Evidence(settings=SETTINGS)
    measured = MeasuredScale(evidence, resistance(evidence, claims_of(root).paper))
    assert ladder(measured, larger_study("replay", root), claims_of(root), root) == []


@pytest.mark.parametrize(
    ("area", "text"),
    [
        ({"value": 0.123, "ci": None}, "100K: 12.3"),
        ({"value": 0.123, "ci": [-0.01, 0.25]}, "100K: 12.3 [-1.0, 25.0]"),
    ],
)
def test_resistance_is_told_with_its_interval(
    tmp_path: Path, area: dict[str, Any], text: str
) -> None:
    write_specs(tmp_path)
    *_, row = rows_at(tmp_path)
    row["resistance"] = [{"clean_size": "100k", "area": area}]
    assert words([row])[0]["resistance"] == text


def test_verdicts_that_are_the_same_are_told_once(tmp_path: Path) -> None:
    write_specs(tmp_path)
    row, *_ = rows_at(tmp_path)
    cells = [("cc3m", "100k"), ("cc6m", "100k")]
    row |= {
        "source": "report",
        "claims": [
            {"dataset": dataset, "clean_size": size, "verdict": "undecided"}
            for dataset, size in cells
        ],
    }
    assert words([row])[0]["the objective decides"] == "undecided"
