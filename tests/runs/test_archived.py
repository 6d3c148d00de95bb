"""A run that comes out of an archive of git is held to the hashes of the rows that it was made
from.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.ledger import LedgerError
from repro.profile import pretrain_runs
from repro.runs.published import read_run
from repro.study.archive import read_archive, unpack_run, write_archive
from tests.support.ledger import write_run, write_specs


def test_an_unpacked_run_has_the_rows_of_the_one_that_was_archived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = pretrain_runs(write_specs(tmp_path))[0]
    folder = write_run(tmp_path, spec, [(0.1, 0.1), (0.4, 0.97)])
    record, rows = read_run(folder)
    write_archive(Path("study.jsonl.gz"), [(record, rows)])
    ((again, same),) = read_archive(Path("study.jsonl.gz"))

    unpack_run(again, same, Path("unpacked"))
    assert Path("unpacked/rows.jsonl").read_bytes() == (folder / "rows.jsonl").read_bytes()
    assert read_run(Path("unpacked")) == (record, rows)

    # Another digit in the archive is not the row that the record tells of.
    other = same[1].model_copy(update={"num_correct": same[1].num_correct - 1})
    unpack_run(again, [same[0], other], Path("other"))
    with pytest.raises(LedgerError, match=r"other/rows\.jsonl: not the file whose hash is in"):
        read_run(Path("other"))
