"""The folder to upload: complete, consistent, and refused while report and ledger differ."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from repro.ledger import LedgerError
from repro.report.pages.summary import report_title
from repro.report.release import release


@pytest.fixture(scope="module")
def study(built: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publish") / "study"
    shutil.copytree(built, folder)
    for name in ("pyproject.toml", "dvc.yaml", "LICENSE", "README.md"):
        shutil.copy2(root / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def released(study: Path) -> Path:
    """The folder to upload."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(study)
        return study / release("mini")


READ = {
    "title": None,
    "abstract": None,
    "keywords": None,
    "type": None,
    "domain": None,
    "language": None,
    "bibliography": None,
    "dates": ["received", "accepted", "published"],
    "authors": ["name", "affiliations"],
    "affiliations": ["code", "name"],
    "contributors": ["role", "name"],
    "code": ["url", "doi", "swh"],
    "data": ["url", "doi"],
    "review": ["url", "doi"],
    "replication": ["cite", "bib", "url", "doi"],
    "article": ["number", "doi", "url"],
    "journal": ["name", "issn", "volume", "issue"],
}
"""What ReScience C's article.py and yaml-to-latex.py (ReScience/template at 0978d0e) read of
metadata.yaml: fields, and what the entries of each list have."""
PEOPLE = ("authors", "affiliations", "contributors")
"""Lists whose entries have all their fields each; of the others each entry has one."""
DESCRIBING = (
    "metadata.yaml",
    "CITATION.cff",
    ".zenodo.json",
    "codemeta.json",
    "ro-crate-metadata.json",
)
"""Files that say what a release is."""


def test_the_metadata_have_every_field_that_the_journals_tools_read(released: Path):
    metadata = YAML(typ="safe").load((released / "metadata.yaml").read_text())
    assert metadata.keys() == READ.keys()
    for field, parts in READ.items():
        if parts is None:
            assert isinstance(metadata[field], str)
        elif field in PEOPLE:
            assert metadata[field] and all(entry.keys() >= set(parts) for entry in metadata[field])
        else:
            assert [name for entry in metadata[field] for name in entry] == parts

    # A mark of success or failure only where the report has one.
    document = json.loads((released / "report.json").read_bytes())
    assert metadata["title"] == report_title(document) and "Re]" not in metadata["title"]
    assert metadata["abstract"].endswith("The paper's answer: holds here.")

    # Somebody to write to, and places for the editor and two reviewers.
    assert metadata["authors"][0]["name"] and metadata["authors"][0]["affiliations"] == "1,*"
    roles = [entry["role"] for entry in metadata["contributors"]]
    assert roles == ["editor", "reviewer", "reviewer"]
    assert metadata["replication"][2]["url"].startswith("https://arxiv.org/")


def test_no_link_of_the_released_readme_leads_to_a_file_that_stays_behind(
    root: Path, released: Path
):
    before = (root / "README.md").read_text()
    assert "[docs/design.md](docs/design.md)" in before
    text = (released / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#:]+)[^)]*\)", text)
    assert "dvc.yaml" in targets
    assert [name for name in targets if not (released / name).exists()] == []
    assert re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", text) == re.sub(
        r"\[([^]]+)\]\([^)]*\)", r"\1", before
    )


def test_four_vocabularies_say_the_same(released: Path):
    zenodo, codemeta, crate = (
        json.loads((released / n).read_bytes())
        for n in (".zenodo.json", "codemeta.json", "ro-crate-metadata.json")
    )
    citation = YAML(typ="safe").load((released / "CITATION.cff").read_text())
    root_entity = next(e for e in crate["@graph"] if e["@id"] == "./")
    assert zenodo["title"] == codemeta["name"] == citation["title"] == root_entity["name"]
    assert zenodo["version"] == codemeta["version"] == citation["version"]
    assert (
        [c["name"] for c in zenodo["creators"]]
        == [a["name"] for a in codemeta["author"]]
        == [a["name"] for a in citation["authors"]]
    )


def test_the_crate_lists_every_file_and_nothing_else(released: Path):
    crate = json.loads((released / "ro-crate-metadata.json").read_bytes())
    entities = {e["@id"]: e for e in crate["@graph"]}
    parts = {part["@id"] for part in entities["./"]["hasPart"]}
    files = {p.relative_to(released).as_posix() for p in released.rglob("*") if p.is_file()}
    assert parts == files - {"ro-crate-metadata.json"}
    assert parts <= entities.keys()
    assert {e["@id"] for e in entities["#run"]["result"]} >= {"index.html", "report.json"}
    assert entities["#run"]["instrument"] == {"@id": "dvc.yaml"}


@pytest.mark.faults(21)
def test_a_report_that_differs_from_its_ledger_is_not_published(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(study, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    shutil.rmtree("results/mini/clean/cc3m-mmcl")
    with pytest.raises(LedgerError, match="difference"):
        release("mini")
    with pytest.raises(LedgerError, match=r"paper/report\.json: missing"):
        release("paper")


@pytest.mark.faults(21)
def test_a_page_or_figure_that_says_else_than_the_report_is_not_published(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(study, tmp_path / "study", ignore=shutil.ignore_patterns("publish"))
    monkeypatch.chdir(tmp_path / "study")
    folder = Path("report/build/mini")
    page = folder / "index.html"
    text = page.read_text()
    lead = text.index('<span class="verdict ', text.index('class="lead"'))
    page.write_text(text[:lead] + text[lead:].replace(">holds here<", ">undecided<", 1))
    shutil.copy(folder / "figures/figure2.pdf", folder / "figures/figure1.pdf")
    with pytest.raises(LedgerError) as refused:
        release("mini")
    said = str(refused.value)
    assert re.search(r"index\.html:\d+: '.*\">undec.*' from report\.json", said)
    assert "figures/figure1.pdf: not the drawing of report.json" in said
    assert not Path("report/publish").exists()


@pytest.mark.faults(21)
def test_every_digit_edited_in_what_describes_a_release_is_told_by_its_sums(released: Path):
    """40 digits of each file, drawn with a fixed seed."""
    draw = random.Random(4)
    for name in DESCRIBING:
        path = released / name
        text = path.read_text()
        places = [match.start() for match in re.finditer(r"\d", text)]
        for place in draw.choices(places, k=40):
            digit = draw.choice([d for d in "0123456789" if d != text[place]])
            path.write_text(text[:place] + digit + text[place + 1 :])
            assert unlike_sums(released) == [f"{name}: FAILED"], place
        path.write_text(text)
    assert unlike_sums(released) == []


def unlike_sums(folder: Path) -> list[str]:
    """What `sha256sum` finds wrong with a released folder."""
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    done = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the RO-Crate validator: its pins are not ours."""
    folder = tmp_path_factory.mktemp("validator")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "roc-validator==0.13.0",
        "rocrate==0.16.0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"roc-validator cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.mark.slow
def test_the_validator_of_ro_crate_accepts_the_crate_and_refuses_a_broken_one(
    validator: Path, released: Path, tmp_path: Path
):
    out = Path(shutil.copytree(released, tmp_path / "released"))
    profiles = (
        "ro-crate-1.1",
        "process-run-crate-0.5",
        "workflow-ro-crate-1.0",
        "workflow-run-crate-0.5",
    )

    def violations() -> str:
        command = [
            validator,
            Path(__file__).parents[1] / "support" / "crate_validator.py",
            out,
            *profiles,
        ]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=True
        ).stdout

    assert violations() == ""
    crate = json.loads((out / "ro-crate-metadata.json").read_bytes())
    for entity in crate["@graph"]:
        entity.pop("instrument", None)
    (out / "ro-crate-metadata.json").write_text(json.dumps(crate))
    assert "workflow-run-crate-0.5" in violations()
