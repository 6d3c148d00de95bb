"""`verify` recomputes the report from the ledger and names what differs."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from repro.__main__ import main
from repro.ledger import LedgerError
from repro.profile import load_profile
from repro.report.build import checksums, report_stage
from repro.report.differences import document_differences
from repro.report.material import read_material
from repro.report.numbers.evidence import read_evidence
from repro.report.pages.html import runs_page
from repro.report.pages.sacred import read_records
from repro.report.verify import expected_files, made_again, page_differences, verify
from tests.support.ledger import reseal

REPORT = Path("report/build/mini/report.json")


@dataclass(frozen=True)
class Pages:
    """A report's folder, and what its report.json makes of it."""

    folder: Path
    names: list[str]
    digest: str
    made: dict[str, bytes]

    def differences(self, folder: Path) -> list[str]:
        """What differs in a copy of the folder."""
        return page_differences(folder, self.names, self.digest, self.made)


@pytest.fixture
def study(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a built study as working folder."""
    root = tmp_path / "study"
    shutil.copytree(built, root)
    monkeypatch.chdir(root)
    return root


def test_an_untouched_report_agrees_with_its_ledger(study: Path):
    assert verify(REPORT) == []


@pytest.mark.faults(21)
def test_one_changed_count_of_the_ledger_names_the_cell(study: Path):
    run = json.loads(REPORT.read_bytes())["tables"]["table2"]["rows"][0]["accuracy"]["run"]
    folder = study / run
    bits = dict(np.load(folder / "bits.npz"))
    right = np.unpackbits(bits["correct"][-1])
    right[np.flatnonzero(right)[0]] = 0
    bits["correct"][-1] = np.packbits(right)
    np.savez_compressed(folder / "bits.npz", **bits)
    lines = (folder / "rows.jsonl").read_text().splitlines()
    row = json.loads(lines[-1])
    lines[-1] = json.dumps(row | {"num_correct": row["num_correct"] - 1})
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    reseal(folder)
    found = verify(REPORT)
    assert any(
        line.startswith(
            "tables.table2.rows[cc3m mmcl].accuracy.reproduced: 0.4 in the report, 0.3975 "
        )
        for line in found
    )


@pytest.mark.faults(21)
@pytest.mark.parametrize("name", ["rows.jsonl", "bits.npz", "run.json"])
def test_any_changed_byte_of_a_run_is_found(study: Path, name: str):
    path = study / "results/mini/pretrain/cc3m-mmcl/seed0" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = verify(REPORT)
    assert found
    assert any("cc3m-mmcl/seed0" in line for line in found)


@pytest.mark.faults(21)
def test_a_number_edited_on_the_page_is_named(study: Path):
    page = REPORT.with_name("index.html")
    text = page.read_text()
    place = 'data-path="tables/table2/rows/0/accuracy/reproduced">40.0<'
    assert text.count(place) == 1
    page.write_text(text.replace(place, place.replace("40.0", "41.0")))
    assert verify(REPORT) == [
        "index.html: tables/table2/rows/0/accuracy/reproduced: 41.0 on the page, 40.0 in report.json"
    ]


@pytest.mark.faults(21)
def test_a_number_edited_in_the_report_is_named_and_the_pages_no_longer_belong_to_it(study: Path):
    document = json.loads(REPORT.read_bytes())
    document["tables"]["table1"]["rows"][3]["clean_accuracy"]["reproduced"] = 0.99
    REPORT.write_text(json.dumps(document))
    found = verify(REPORT)
    assert any(
        line.startswith(
            "tables.table1.rows[cc6m 100k mmcl_ssl].clean_accuracy.reproduced: 0.99 in the report"
        )
        for line in found
    )
    assert any(line.startswith("index.html: built from another report.json") for line in found)
    assert "report.tex: built from another report.json" in found


@pytest.mark.faults(21)
def test_a_vanished_run_is_named(study: Path):
    shutil.rmtree("results/mini/clean/cc3m-mmcl")
    assert any("cc3m-mmcl" in line for line in verify(REPORT))


@pytest.mark.faults(21)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path):
    (tmp_path / "report.json").write_text("{")
    assert "not JSON" in verify(tmp_path / "report.json")[0]
    (tmp_path / "report.json").write_text("{}")
    assert verify(tmp_path / "report.json") == ["report.json: 'profile' is missing"]


def test_last_digits_of_other_libraries_are_no_difference():
    assert document_differences({"a": [0.1]}, {"a": [0.1 + 1e-14]}) == []
    assert document_differences({"a": [0.1]}, {"a": [0.1 + 1e-6]}) != []
    assert document_differences({"a": 1}, {"a": True}) != []
    assert document_differences({"a": 1}, {}) == ['a: 1 in the report, "nothing" from the ledger']


@pytest.fixture(scope="module")
def pages(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """A built study with a Sacred record, and its pages as report.json gives them."""
    root = tmp_path_factory.mktemp("pages") / "study"
    shutil.copytree(built, root)
    record = root / "sacred/mini/1"
    record.mkdir(parents=True)
    run = {"experiment": {"name": "pretrain"}, "status": "COMPLETED", "start_time": "2026-01-02"}
    (record / "run.json").write_text(json.dumps(run))
    config = {"dataset": "cc3m", "schedule": {"learning_rate": 0.001}, "seed": 17}
    (record / "config.json").write_text(json.dumps(config))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        folder = REPORT.parent
        page = runs_page("mini", read_records(Path("sacred/mini")))
        (folder / "runs.html").write_text(page)
        document = json.loads(REPORT.read_bytes())
        names = expected_files(folder, document)
        (folder / "SHA256SUMS").write_text(checksums(folder, names))
        evidence = read_evidence(load_profile("mini"))
        digest = hashlib.sha256(REPORT.read_bytes()).hexdigest()
        made = made_again(folder, names, document, digest, read_material(evidence, Path()))
    return Pages(root / folder, names, digest, made)


def visible_digits(name: str, text: str) -> list[int]:
    """Places of digits that a reader sees: in HTML those outside of tags, style and script."""
    if name.endswith(".html"):
        hidden = r"<style>.*?</style>|<script.*?</script>|<[^>]*>"
        text = re.sub(hidden, lambda match: "." * len(match[0]), text, flags=re.DOTALL)
    return [match.start() for match in re.finditer(r"\d", text)]


@pytest.mark.faults(21)
@pytest.mark.parametrize(
    "name", ["index.html", "runs.html", "report.tex", "metrics.json", "table1.csv", "points.csv"]
)
def test_every_edit_of_one_visible_digit_is_found(pages: Pages, tmp_path: Path, name: str):
    """200 digits, drawn with a fixed seed, each replaced by another one, and the hashes made to
    fit.
    """
    assert pages.differences(pages.folder) == []
    folder = tmp_path / "report"
    shutil.copytree(pages.folder, folder)
    text = (folder / name).read_text()
    draw = random.Random(4)
    places = visible_digits(name, text)
    missed = []
    for place in draw.choices(places, k=200):
        digit = draw.choice([d for d in "0123456789" if d != text[place]])
        (folder / name).write_text(text[:place] + digit + text[place + 1 :])
        (folder / "SHA256SUMS").write_text(checksums(folder, pages.names))
        found = pages.differences(folder)
        if not found or not all(line.startswith(f"{name}:") for line in found):
            missed.append((place, found))
    assert missed == []


def test_runs_since_the_report_was_built_are_no_difference(pages: Pages):
    """A later study's, killed or not, for which nobody builds the report anew."""
    root = pages.folder.parents[2]
    later = shutil.copytree(root / "sacred/mini/1", root / "sacred/mini/2")
    document = json.loads((pages.folder / "report.json").read_bytes())
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            material = read_material(read_evidence(load_profile("mini")), Path())
            made = made_again(REPORT.parent, ["runs.html"], document, pages.digest, material)
    finally:
        shutil.rmtree(later)
    assert made["runs.html"] == (pages.folder / "runs.html").read_bytes()


@pytest.mark.faults(21)
def test_every_lost_page_is_named(pages: Pages, tmp_path: Path):
    for name in [*pages.names[1:], "SHA256SUMS"]:
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(pages.folder, folder)
        (folder / name).unlink()
        assert f"{name}: missing" in pages.differences(folder)


@pytest.mark.faults(21)
def test_pages_lost_together_with_what_tells_of_them_are_still_a_difference(study: Path):
    """SHA256SUMS edited too: the page links to what is gone."""
    folder = REPORT.parent
    for name in ("runs.html", "report.tex"):
        (folder / name).unlink()
    shutil.rmtree(folder / "figures")
    sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    kept = [line for line in sums if line.split()[1] in ("index.html", "report.json", "report.pdf")]
    (folder / "SHA256SUMS").write_text("".join(kept))
    found = verify(REPORT)
    assert {"runs.html: missing", "report.tex: missing", "figures/figure1.pdf: missing"} <= set(
        found
    )


@pytest.mark.faults(21)
def test_a_changed_verdict_swapped_figures_a_plain_number_and_a_foreign_pdf_are_found(study: Path):
    folder = REPORT.parent
    page = folder / "index.html"
    text = page.read_text()
    lead = '<span class="verdict reproduced">holds here</span>'
    place = text.index(lead, text.index('class="lead"'))
    number = re.search(r"<data [^>]*>([^<]*)</data>", text[place:])
    assert number is not None
    changed = text[:place] + lead.replace("holds here", "undecided") + text[place + len(lead) :]
    page.write_text(changed.replace(number[0], number[1], 1))
    figure = folder / "figures/figure1.pdf"
    figure.write_bytes((folder / "figures/figure2.pdf").read_bytes())
    pdf = folder / "report.pdf"
    if pdf.exists():  # where there is a TeX
        pdf.write_bytes(pdf.read_bytes() + b"\n")

    found = verify(REPORT)
    assert "figures/figure1.pdf: not the drawing of report.json" in found
    assert not pdf.exists() or "report.pdf: not as SHA256SUMS says" in found
    on_page = [line for line in found if line.startswith("index.html:")]
    assert any("undecided" in line for line in on_page)
    assert len(on_page) == 2


@pytest.mark.faults(21)
def test_context_that_differs_from_its_files_is_named_even_with_hashes_put_right(
    study: Path, monkeypatch: pytest.MonkeyPatch
):
    """report.json says 80 where the accounting says 8, and pages and hashes were made to fit."""
    accounting = study / "data/mini/accounting.json"
    accounting.parent.mkdir(parents=True)
    accounting.write_text('{"poisoned": 80}')
    report_stage("mini")
    accounting.write_text('{"poisoned": 8}')
    assert verify(REPORT) == [
        "context.accounting.data.poisoned: 80 in the report, 8 from the ledger"
    ]


def test_a_report_that_is_not_there_says_what_to_do(tmp_path: Path):
    with pytest.raises(LedgerError, match="missing; build the report first"):
        verify(tmp_path / "report.json")
    with pytest.raises(LedgerError, match="a folder"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "report/build/smoke/report.json: missing; build the report first"),
        (["--profile", "midi"], "report/build/midi/report.json: missing; build the report first"),
        (["nope.json"], "nope.json: missing; build the report first"),
        (["specs"], "specs: a folder (allowed: a report.json)"),
    ],
)
def test_without_a_report_the_one_of_params_is_meant_and_what_is_missing_told(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
):
    monkeypatch.chdir(tmp_path)
    Path("specs").symlink_to(root / "specs")
    Path("params.yaml").write_text("profile: smoke\n")
    assert main(["verify", *arguments]) == 1
    assert capsys.readouterr().err == f"repro: LedgerError: {expected}\n"
