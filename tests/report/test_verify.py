"""`verify` names each file and value that does not follow from the ledger; `publish` refuses it."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from repro.files import file_sha256
from repro.ledger import CLEANED, LedgerError, Row
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.build import report_stage
from repro.report.locked import locked_outputs
from repro.report.release import BESIDE, release
from repro.report.verify import verify, verify_all
from repro.runs.again import best_cleaned
from repro.runs.layout import RESULTS, cleaned_file, model_dir, results_dir
from repro.runs.published import read_record, read_run, write_record
from repro.spec import RunSpec
from repro.study.models import released_model
from tests.support.ledger import ROOT, reseal

REPORT = Path("report/build/mini")
RUN = Path("results/mini/clean/cc3m-mmcl/100k-mmcl_ssl-lr0.002-seed0")


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1))


@pytest.fixture
def light(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The copy without the article, whose compilation takes as long as all else."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    return copy


def test_what_was_changed_by_hand_is_named(light: Path) -> None:
    assert verify(REPORT / "report.json") == []

    def change(document: Any) -> None:
        document["tables"]["table1"]["rows"][0]["clean_accuracy"]["paper"] = 0.99

    edit_json(REPORT / "report.json", change)
    page = REPORT / "index.html"
    page.write_text(page.read_text().replace("How large, and how sure", "How small"))
    (REPORT / "table2.csv").unlink()
    (REPORT / "notes.txt").write_text("mine")

    lines = "\n".join(verify(REPORT / "report.json"))

    assert f"{REPORT}/index.html: not what the ledger gives" in lines
    assert f"{REPORT}/table2.csv: missing" in lines
    assert f"{REPORT}/notes.txt: no part of the report" in lines
    assert "  tables/table1/rows/0/clean_accuracy/paper: 0.99 (computed: 0.1649)" in lines


def more_correct(folder: Path) -> None:
    path = folder / "rows.jsonl"
    first, *rest = path.read_text().splitlines()
    row = json.loads(first)
    row["num_correct"] += 40
    path.write_text("\n".join([json.dumps(row), *rest]) + "\n")


def test_an_edited_row_is_no_number_of_a_report(light: Path) -> None:
    more_correct(RUN)
    (line,) = verify(REPORT / "report.json")
    assert line.startswith(f"ledger: {RUN}/rows.jsonl")
    # Neither where the record is made to name the edited file: the report is of other numbers.
    reseal(RUN)
    assert verify(REPORT / "report.json")


def test_an_archive_that_is_not_the_committed_one_is_named(light: Path) -> None:
    """Though the report follows from it, as one that was built after the edit."""
    archive = "results/studies/seeds.jsonl.gz"
    lock = {"stages": {"study@seeds": {"outs": [{"path": archive, "md5": "0" * 32}]}}}
    Path("dvc.lock").write_text(json.dumps(lock))
    report_stage("mini")
    (line,) = verify(REPORT / "report.json")
    assert line.startswith(f"{archive}: not the file that is known to dvc.lock")
    with pytest.raises(LedgerError, match=r"1 problem.*\n  results/studies/seeds.jsonl.gz: not"):
        release("mini")


def test_a_file_that_is_no_report_is_a_finding_and_a_missing_one_an_error(copy: Path) -> None:
    path = copy / "report.json"
    for content in ("", "{", "[]", '{"profile": 3}'):
        path.write_text(content)
        assert len(verify(path)) == 1, content
    for name in ("nowhere/report.json", "."):
        with pytest.raises(LedgerError):
            verify(Path(name))


def test_every_run_of_a_profile_is_read(light: Path) -> None:
    assert verify_all("mini") == []
    more_correct(RUN)
    assert any(line.startswith(f"{RUN}/rows.jsonl") for line in verify_all("mini"))


@pytest.fixture
def trained(light: Path) -> RunSpec:
    """The report with weights of one trained model, and with others that no release has."""
    start = pretrain_runs(load_profile("mini"), "cc3m", "mmcl")[0]
    model = model_dir(start) / "model.safetensors"
    for path in (model, model.with_name("optimizer.safetensors"), model.parents[1] / "seed1/m.x"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights, or not to be packed")
    run = read_record(results_dir(start, RESULTS) / start.run_id / "run.json")
    files = {"files": {model.name: file_sha256(model)}}
    write_record(model.with_name("run.json"), run.model_copy(update=files))
    return start


def write_best_cleaned() -> tuple[Path, Row]:
    """Weights of the best cleaned MMCL model of CC3M: their file, and the row that is the best."""
    profile = load_profile("mini")
    runs = [of for of in clean_runs(profile, "cc3m", "mmcl") if of.keeps_cleaned]
    best = best_cleaned(runs, RESULTS)
    assert best is not None
    rank, record = best
    folder = results_dir(runs[0], RESULTS) / record.spec.run_id
    rows = read_run(folder)[1]
    (row,) = (row for row in rows if row.rank(runs[0]) == rank)

    file = cleaned_file(runs[0])
    file.parent.mkdir(parents=True)
    save_file({"weights": torch.zeros(1)}, file, {"row": row.model_dump_json()})
    edit_json(folder / "run.json", lambda of: of["files"].update({CLEANED: file_sha256(file)}))
    return file, row


def test_a_release_is_whole_and_says_how_to_cite_and_check_it(
    light: Path, trained: RunSpec
) -> None:
    model = model_dir(trained) / "model.safetensors"
    cleaned, row = write_best_cleaned()
    report_stage("mini")

    for name in BESIDE:
        shutil.copy2(ROOT / name, name)
    out = release("mini")

    files = [path for path in out.rglob("*") if path.is_file()]
    names = sorted(path.relative_to(out).as_posix() for path in files)
    sums = {}
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        sums[name] = digest
    assert sorted([*sums, "SHA256SUMS"]) == names
    for name, digest in sums.items():
        assert file_sha256(out / name) == digest
    written = {"index.html", "archive.csv", "CITATION.cff", "README.md", "models/README.md"}
    assert written <= set(names)
    assert "dvc.yaml" not in names

    models = [name for name in names if name.endswith("safetensors")]
    kinds = ("cleaned-100k", "poisoned")
    assert models == [f"models/cc3m-mmcl-seed0-{of}.safetensors" for of in kinds]
    assert released_model(out, trained) == out / models[1]
    with pytest.raises(LedgerError, match="--seed: 7: no model of it in models/"):
        release("mini", [0, 7])

    card = (out / "models/README.md").read_text()
    numbers = f"| {100 * row.accuracy:.1f} | {100 * row.asr('all'):.1f} |"
    assert f"{numbers} `{file_sha256(cleaned)}` |" in card
    for text in (file_sha256(model), "a backdoor on purpose", "`badnet`", "Apache-2.0"):
        assert text in card

    # Pages open from the disk and below any address: they link to the web or within the folder.
    for page in out.glob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"#]+)', page.read_text()):
            leads_out = re.match(r"(https?|data|mailto):", link)
            assert leads_out or (out / link).is_file(), link
    assert zipfile.is_zipfile(f"{out}.zip")

    readme = (out / "README.md").read_text()
    assert "mean of 3 seeds" in readme
    for path in out.rglob("*.md"):
        assert str(light) not in path.read_text()


def test_what_does_not_verify_is_not_released(light: Path) -> None:
    (REPORT / "table1.csv").write_text("better\n")
    with pytest.raises(LedgerError, match=r"table1\.csv: not what the ledger gives"):
        release("mini")
    assert not Path("report/publish").exists()
    shutil.rmtree(REPORT)
    with pytest.raises(LedgerError, match="`python -m repro report mini` builds it"):
        release("mini")


def test_a_lock_file_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in ("stages: [", "stages: 3", "- 1"):
        Path("dvc.lock").write_text(content)
        with pytest.raises(LedgerError, match=r"dvc\.lock: not a lock file of DVC"):
            locked_outputs()
    Path("dvc.lock").unlink()
    assert locked_outputs() == {}
