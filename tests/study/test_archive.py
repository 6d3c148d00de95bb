"""Archives of studies are what they were made from: whoever edits one is found out."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro.ledger import LedgerError
from repro.profile import load_profile, pretrain_runs
from repro.report.pages.findings import findings_block, stale_findings
from repro.report.verify import verify
from repro.runs.published import read_results
from repro.study.archive import read_archive, write_archive
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


def rehash(item: dict[str, Any]) -> None:
    """What a careful editor would do after a change."""
    content = json.dumps([item["run"], item["rows"]])
    item["sha256"] = hashlib.sha256(content.encode()).hexdigest()


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


def test_an_archive_carries_the_hashes_of_the_rows_and_bits_that_it_was_made_from(
    archive: Path,
) -> None:
    for record, _ in read_archive(archive):
        assert record.files.keys() == {"rows.jsonl", "bits.npz"}
        assert all(len(digest) == 64 for digest in record.files.values())


def test_a_count_edited_in_an_archive_is_refused_by_line(archive: Path) -> None:
    edit(archive, more_correct)
    with pytest.raises(LedgerError, match=r"again\.jsonl\.gz:1: changed after it was written"):
        read_archive(archive)


def test_rows_that_the_run_did_not_hand_on_are_refused_though_the_line_bears_its_hash(
    archive: Path,
) -> None:
    edit(archive, lambda item: (more_correct(item), rehash(item)))
    with pytest.raises(LedgerError, match=r":1: rows are not those that the run handed on"):
        read_archive(archive)


def test_findings_and_verify_name_an_archive_that_dvc_lock_does_not_know(archive: Path) -> None:
    """A record's time is changed and the line hashed again: only dvc.lock can tell."""
    lock(archive)
    Path("docs").mkdir()
    block = findings_block("mini")
    Path("docs/findings.md").write_text(
        f"<!-- findings:start -->\n{block}\n<!-- findings:end -->\n"
    )
    assert stale_findings("mini") == []

    edit(archive, lambda item: (item["run"].update(seconds=1.0), rehash(item)))
    with pytest.raises(LedgerError, match=r"not the file that is known to dvc\.lock"):
        findings_block("mini")
    (line,) = stale_findings("mini")
    assert line.startswith("results/studies/again.jsonl.gz: not the file that is known to dvc.lock")
    assert "dvc repro study@again" in line

    # `verify` asks for these lines wherever a report shows studies.
    Path("report.json").write_text(json.dumps({"profile": "mini", "studies": [{}]}))
    assert line in verify(Path("report.json"))


def test_git_knows_an_archive_that_dvc_lock_does_not_name(archive: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    git("init")
    git("add", archive.as_posix())
    git("commit", "-m", "results")
    assert "again" in findings_block("mini")

    edit(archive, lambda item: (item["run"].update(seconds=1.0), rehash(item)))
    with pytest.raises(LedgerError, match="not the file that is known to git"):
        findings_block("mini")


def test_where_nobody_knows_better_an_archive_counts_as_it_is(archive: Path) -> None:
    edit(archive, lambda item: (item["run"].update(seconds=1.0), rehash(item)))
    assert "again" in findings_block("mini")
