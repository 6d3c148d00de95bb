"""Passes of a download that is killed, repeated or called wrongly: no row is lost and none is
fetched twice.
"""

import json
from collections import Counter

import pytest

from repro.sources.download import url_list
from repro.sources.download.guard import FetchError
from repro.sources.download.url_list import fetch_pass

pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """`fetch_pass` over a list of seven rows in shards of two and files of four, with a stand-in
    for img2dataset that knows its layout.

    Rows whose URL holds a word of `failing` fail; after `shards_before_kill` shards it dies.
    Returns what to call, and the URLs asked.
    """
    monkeypatch.setattr(url_list, "SHARD_ROWS", 2)
    monkeypatch.setattr(url_list, "FILE_ROWS", 4)
    (tmp_path / "list.tsv").write_text(
        "".join(f"http://h/{number}\tcaption\n" for number in range(7)) + "no row\n"
    )
    asked: list[str] = []

    def call(failing=(), shards_before_kill=99, address_list="list.tsv"):
        def run_pass(pass_dir, processes):
            shard = written = 0
            for path in sorted((pass_dir / "list").glob("*.parquet")):
                rows = parquet.read_table(path).to_pylist()
                for start in range(0, len(rows), 2):
                    if not (pass_dir / f"{shard:05d}_stats.json").exists():
                        if written == shards_before_kill:
                            raise KeyboardInterrupt
                        part = rows[start : start + 2]
                        asked.extend(row["url"] for row in part)
                        fates = [
                            next((word for word in failing if word in row["url"]), None)
                            for row in part
                        ]
                        table = {
                            "list_row": [row["list_row"] for row in part],
                            "error_message": fates,
                        }
                        table["status"] = [
                            "failed_to_download" if fate else "success" for fate in fates
                        ]
                        parquet.write_table(pa.table(table), pass_dir / f"{shard:05d}.parquet")
                        (pass_dir / f"{shard:05d}_stats.json").write_text("{}")
                        written += 1
                    shard += 1

        monkeypatch.setattr(url_list, "run_pass", run_pass)
        asked.clear()
        fetch_pass(tmp_path / "in", "cc12m", tmp_path / address_list, 1)
        return json.loads((tmp_path / "in" / "accounting.json").read_text())

    return call, asked


def urls(*numbers):
    return [f"http://h/{number}" for number in numbers]


@pytest.mark.faults(1, 28)
def test_a_pass_that_was_killed_goes_on_with_its_next_shard(fetched):
    call, asked = fetched
    with pytest.raises(KeyboardInterrupt):
        call(shards_before_kill=1)
    assert asked == urls(0, 1)
    account = call()
    assert asked == urls(2, 3, 4, 5, 6)
    assert (account["listed"], account["obtained"], account["failed"], account["refused"]) == (
        8,
        7,
        {},
        {"malformed_line": 1},
    )


@pytest.mark.faults(1, 28)
def test_rows_that_failed_are_asked_for_again_until_none_is_left_even_over_a_kill(fetched):
    """Rows 1, 4 and 6 fail; the second pass is killed after a shard of 1 and 4, and row 6 comes
    with the third call.
    """
    call, asked = fetched
    account = call(failing=("1", "4", "6"))
    assert (account["obtained"], account["failed"]) == (4, {"1": 1, "4": 1, "6": 1})
    with pytest.raises(KeyboardInterrupt):
        call(failing=("4",), shards_before_kill=1)
    assert asked == urls(1, 4)
    account = call()
    assert asked == urls(6)
    assert (account["obtained"], account["failed"]) == (6, {"4": 1})
    assert call() == account | {"obtained": 7, "failed": {}, "passes": 3}
    assert asked == urls(4)
    assert call()["passes"] == 3
    assert asked == []


@pytest.mark.faults(1, 28)
@pytest.mark.parametrize("left", ["pass-0/list.partial", "pass-0/list"])
def test_a_list_whose_writing_was_killed_is_written_again(fetched, tmp_path, left):
    call, _ = fetched
    (tmp_path / "in" / left).mkdir(parents=True)
    (tmp_path / "in" / left / "00000.parquet").write_bytes(b"torn")
    assert call()["obtained"] == 7


def test_a_second_pass_whose_list_was_not_finished_is_begun_again(fetched, tmp_path):
    call, asked = fetched
    call(failing=("5",))
    (tmp_path / "in" / "pass-1" / "list.partial").mkdir(parents=True)
    assert call()["obtained"] == 7
    assert asked == urls(5)


@pytest.mark.faults(5, 28)
def test_another_list_is_refused(fetched, tmp_path):
    call, _ = fetched
    call()
    (tmp_path / "other.tsv").write_text("http://h/9\tcaption\n")
    with pytest.raises(FetchError, match="begun with another list"):
        call(address_list="other.tsv")


def test_rows_that_img2dataset_lost_and_words_of_servers_are_counted_too(fetched, tmp_path):
    call, _ = fetched
    with pytest.raises(KeyboardInterrupt):
        call(shards_before_kill=3)
    table = {
        "list_row": [0],
        "status": ["failed_to_download"],
        "error_message": ["Use of image disallowed by X-Robots-Tag directive"],
    }
    parquet.write_table(pa.table(table), tmp_path / "in" / "pass-0" / "00000.parquet")
    assert Counter(call()["failed"]) == {"disallowed_by_server": 1, "lost": 1}
