"""Archives of studies are what they were made from: whoever edits one is found out."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro.ledger import LedgerError
from repro.profile import load_profile, pretrain_runs
from repro.report.pages.findings import write_findings
from repro.report.studies.results import archive_problems, evidence_of
from repro.runs.published import read_results, read_run
from repro.study.archive import archive_problem, read_archive, unpack_run, write_archive
from tests.support.ledger import write_run, write_specs, write_study_spec

NAME = "again"
ARCHIVE = Path(f"results/studies/{NAME}.jsonl.gz")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of a study of two models, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_specs(tmp_path)
    write_study_spec(tmp_path, NAME, {"default": {}})
    profile = load_profile("mini", tmp_path / "specs")
    for spec in pretrain_runs(profile, "cc3m", variant="default"):
        write_run(tmp_path / "made", spec, [(0.1, 0.2), (0.4, 0.9)])
    write_archive(ARCHIVE, ((record, rows) for _, record, rows in read_results(Path("made"))))
    return ARCHIVE


def edit(archive: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the first run of an archive."""
    first, *others = gzip.decompress(archive.read_bytes()).decode().splitlines()
    item = json.loads(first)
    change(item)
    lines = [json.dumps(item), *others]
    archive.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0))


def more_correct(item: dict[str, Any]) -> None:
    item["rows"][-1]["num_correct"] += 30


def lock(archive: Path) -> None:
    """A dvc.lock that knows the archive as it is, and a stage before and after its own."""
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    Path("dvc.lock").write_text(
        "schema: '2.0'\nstages:\n"
        f"  study@before:\n    cmd: x\n    outs:\n    - path: other\n      md5: {'0' * 32}\n"
        f"  study@{NAME}:\n    cmd: y\n    deps:\n    - path: {archive}\n      md5: {'1' * 32}\n"
        f"    outs:\n    - path: {archive}\n      hash: md5\n      md5: {md5}\n      size: 3\n"
        f"  study@{NAME}_after:\n    cmd: z\n    outs:\n    - path: last\n      md5: {'2' * 32}\n"
    )


def test_a_count_edited_in_an_archive_is_refused_by_line(archive: Path) -> None:
    edit(archive, more_correct)
    with pytest.raises(LedgerError, match=r"again\.jsonl\.gz:1: its rows do not have the hash"):
        read_archive(archive)


def test_an_archive_of_the_first_version_is_refused_with_the_remedy(archive: Path) -> None:
    edit(archive, lambda item: item.update(sha256="0" * 64))
    with pytest.raises(LedgerError, match=r"convert it with tools/rekey\.py"):
        read_archive(archive)


def test_an_unpacked_run_has_the_rows_of_the_one_that_was_archived(archive: Path) -> None:
    made = {record.fingerprint: folder for folder, record, _ in read_results(Path("made"))}
    for record, rows in read_archive(archive):
        unpack_run(record, rows, Path("unpacked", record.fingerprint))
        folder = Path("unpacked", record.fingerprint)
        source = made[record.fingerprint]
        assert (folder / "rows.jsonl").read_bytes() == (source / "rows.jsonl").read_bytes()
        assert read_run(folder) == (record, rows)


def test_an_unreadable_run_of_an_older_version_gives_way_to_the_archive(archive: Path) -> None:
    record, rows = read_archive(archive)[0]
    folder = Path("unpacked")
    folder.mkdir()
    (folder / "run.json").write_text('{"seal": "0"}')
    unpack_run(record, rows, folder)
    assert read_run(folder) == (record, rows)


def test_an_edited_archive_is_named_and_no_table_is_written_from_it(archive: Path) -> None:
    """A record's time is changed: only dvc.lock can tell."""
    lock(archive)
    assert archive_problems("mini") == []
    edit(archive, lambda item: item["run"].update(seconds=1.0))
    (line,) = archive_problems("mini")
    assert line.startswith("results/studies/again.jsonl.gz: not the file that is known to dvc.lock")
    assert "dvc repro study@again" in line
    with pytest.raises(LedgerError, match=r"known to dvc\.lock"):
        write_findings("mini")
    # A report has the line among its notices.
    assert line in evidence_of(load_profile("mini")).notices


def test_where_nobody_knows_better_an_archive_counts_as_it_is(archive: Path) -> None:
    edit(archive, lambda item: item["run"].update(seconds=1.0))
    assert archive_problem(NAME) is None
