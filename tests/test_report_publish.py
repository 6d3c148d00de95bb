"""The folder to upload: complete, consistent, and refused while report and ledger differ."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from repro.ledger import LedgerError
from repro.report import publish


@pytest.fixture(scope="module")
def study(built: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publish") / "study"
    shutil.copytree(built, folder)
    for name in ("pyproject.toml", "dvc.yaml", "LICENSE", "README.md"):
        shutil.copy2(root / name, folder / name)
    return folder


def test_four_vocabularies_say_the_same(study: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(study)
    out = publish("mini")
    zenodo, codemeta, crate = (json.loads((out / n).read_bytes()) for n in (".zenodo.json", "codemeta.json", "ro-crate-metadata.json"))
    citation = YAML(typ="safe").load((out / "CITATION.cff").read_text())
    root_entity = next(e for e in crate["@graph"] if e["@id"] == "./")
    assert zenodo["title"] == codemeta["name"] == citation["title"] == root_entity["name"]
    assert zenodo["version"] == codemeta["version"] == citation["version"]
    assert [c["name"] for c in zenodo["creators"]] == [a["name"] for a in codemeta["author"]] == [a["name"] for a in citation["authors"]]


def test_the_crate_lists_every_file_and_nothing_else(study: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(study)
    out = publish("mini")
    crate = json.loads((out / "ro-crate-metadata.json").read_bytes())
    entities = {e["@id"]: e for e in crate["@graph"]}
    parts = {part["@id"] for part in entities["./"]["hasPart"]}
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert parts == files - {"ro-crate-metadata.json"}
    assert parts <= entities.keys()
    assert {e["@id"] for e in entities["#run"]["result"]} >= {"index.html", "report.json"}
    assert entities["#run"]["instrument"] == {"@id": "dvc.yaml"}


@pytest.mark.faults(21)
def test_a_report_that_differs_from_its_ledger_is_not_published(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(study, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    shutil.rmtree("results/mini/clean/cc3m-mmcl")
    with pytest.raises(LedgerError, match="difference"):
        publish("mini")
    with pytest.raises(LedgerError, match=r"paper/report\.json: missing"):
        publish("paper")


def test_a_validator_accepts_the_crate(study: Path, monkeypatch: pytest.MonkeyPatch):
    """The RO-Crate project's own validator, offline, at the level of what a crate must and should have."""
    validator = shutil.which("rocrate-validator")
    if validator is None:
        pytest.skip("rocrate-validator is not installed (pip install roc-validator)")
    monkeypatch.chdir(study)
    out = publish("mini")
    for profile in ("ro-crate-1.1", "workflow-ro-crate-1.0", "workflow-run-crate-0.5"):
        command = [validator, "-y", "validate", "--no-paging", "--profile-identifier", profile, "-l", "required", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
