"""img2dataset over a URL list, a pass at a time: first over all rows, then over those that failed,
and over nothing else.

Runs in an environment of its own (see repro/sources/download/fetch.py), as `python -m
repro.sources.download.url_list FOLDER ...`. img2dataset does the parallel downloading, the shards
and the record of every row; repro/sources/download/guard.py is its way to the network.

`FOLDER/pass-<n>/` holds the list of a pass in `list/` and img2dataset's output. A pass that was
cut short goes on at its first incomplete shard. `FOLDER/accounting.json` tells what became of
every row of the list.
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import itertools
import json
import re
import shutil
import socket
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from repro.sources.download.guard import SOCKET_SECONDS, FetchError, Opener, public_only

SHARD_ROWS = 10_000
"""Rows a shard: what a killed pass downloads again, at most, in each process."""
FILE_ROWS = 100 * SHARD_ROWS
"""Rows in one file of a pass's list: img2dataset reads a whole file into memory."""
THREADS = 64
COLUMNS = {"cc3m": ("caption", "url"), "cc12m": ("url", "caption")}
"""Order of the columns in the published lists, which have no header."""


class ListRow(NamedTuple):
    """One line of a URL list that can be asked for."""

    list_row: int
    """Line number from 0: the order of the list, whatever pass obtains the row."""
    url: str
    caption: str


def read_list(path: Path, dataset: str, refused: Counter[str]) -> Iterator[ListRow]:
    """Rows of a published list; lines that are none, and URLs that are not http or https, are
    counted in `refused`.
    """
    url_column = COLUMNS[dataset].index("url")
    with path.open("rb") as file:
        for number, line in enumerate(file):
            # Two columns by a tab; which of them is the URL differs between the collections.
            fields = line.decode(errors="replace").rstrip("\r\n").split("\t")
            if len(fields) != 2:
                refused["malformed_line"] += 1
            elif not fields[url_column].lower().startswith(("http://", "https://")):
                refused["scheme_not_http"] += 1
            else:
                yield ListRow(number, fields[url_column], fields[1 - url_column])


def write_list(folder: Path, rows: Iterable[ListRow]) -> int:
    """Write the list of a pass, as parquet because captions hold quotes and tabs; the number of
    rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    partial = folder.with_suffix(".partial")
    for unfinished in (partial, folder):
        shutil.rmtree(unfinished, ignore_errors=True)
    partial.mkdir(parents=True)
    schema = pa.schema([("list_row", pa.int64()), ("url", pa.string()), ("caption", pa.string())])
    count = 0
    batch: list[ListRow] = []

    def flush() -> None:
        nonlocal count, batch
        table = pa.table([list(column) for column in zip(*batch, strict=True)], schema=schema)
        pq.write_table(table, partial / f"{count // FILE_ROWS:05d}.parquet")
        count, batch = count + len(batch), []

    for row in rows:
        batch.append(row)
        if len(batch) == FILE_ROWS:
            flush()
    if batch:
        flush()
    partial.rename(folder)
    return count


def expected_shards(pass_dir: Path) -> int:
    """Shards of a complete pass."""
    import pyarrow.parquet as pq

    return sum(
        -(-pq.read_metadata(path).num_rows // SHARD_ROWS)
        for path in (pass_dir / "list").glob("*.parquet")
    )


def is_complete(pass_dir: Path) -> bool:
    """Whether every shard of the pass has its record, which img2dataset writes last."""
    return len(list(pass_dir.glob("*_stats.json"))) == expected_shards(pass_dir)


def failed_rows(pass_dir: Path, reasons: Counter[str]) -> Iterator[ListRow]:
    """Rows of a complete pass that were not obtained; their reasons are counted in `reasons`."""
    import pyarrow.parquet as pq

    shard = 0
    for path in sorted((pass_dir / "list").glob("*.parquet")):
        listed = pq.read_table(path).to_pydict()
        fates: dict[int, str] = {}
        # img2dataset numbers the shards through all list files; each file begins a new one.
        for number in range(shard, shard + -(-len(listed["list_row"]) // SHARD_ROWS)):
            told = pq.read_table(
                pass_dir / f"{number:05d}.parquet", columns=["list_row", "status", "error_message"]
            ).to_pydict()
            for row, status, message in zip(*told.values(), strict=True):
                fates[row] = "" if status == "success" else message
            shard = number + 1

        for fields in zip(*(listed[name] for name in ListRow._fields), strict=True):
            # Without a fate are rows that img2dataset lost on the way.
            if message := fates.get(fields[0], "lost"):
                reasons[
                    message if re.fullmatch(r"[a-z0-9_]+", message) else "disallowed_by_server"
                ] += 1
                yield ListRow(*fields)


def run_pass(pass_dir: Path, processes: int) -> None:
    """Download what the pass has no complete shard of."""
    import img2dataset

    img2dataset.download(
        url_list=str(pass_dir / "list"),
        input_format="parquet",
        url_col="url",
        caption_col="caption",
        save_additional_columns=["list_row"],
        output_folder=str(pass_dir),
        output_format="webdataset",
        number_sample_per_shard=SHARD_ROWS,
        processes_count=processes,
        thread_count=THREADS,
        timeout=int(SOCKET_SECONDS),
        # `ImageAnswer` hands over the final file; nothing is padded, and OpenCV sees no stranger's
        # bytes.
        resize_mode="no",
        disable_all_reencoding=True,
        encode_format="jpg",
        extract_exif=False,
        compute_hash=None,
        incremental_mode="incremental",
    )


def fetch_pass(folder: Path, dataset: str, url_list: Path, processes: int) -> None:
    """Run the next pass and write accounting.json, in which listed = obtained + refused + failed
    over all passes.

    Does nothing when every row is obtained. FetchError if `folder` was begun with another list, or
    if shards of the pass could not be written.
    """
    begun = _begin(folder, dataset, url_list)
    # A complete pass with failures is followed by one over these rows alone; a begun one goes on.
    last = len(list(folder.glob("pass-*/list"))) - 1
    if is_complete(folder / f"pass-{last}"):
        rows = failed_rows(folder / f"pass-{last}", Counter())
        if (first := next(rows, None)) is not None:
            last += 1
            write_list(folder / f"pass-{last}" / "list", itertools.chain([first], rows))

    pass_dir = folder / f"pass-{last}"
    if not is_complete(pass_dir):
        run_pass(pass_dir, processes)
    if not is_complete(pass_dir):
        raise FetchError(
            f"{pass_dir}: some shards could not be written; see the messages above, mend it and "
            "call again"
        )

    # Each pass asks for all rows still open: what the last one leaves open was never obtained.
    failed: Counter[str] = Counter()
    open_rows = sum(1 for _ in failed_rows(pass_dir, failed))
    asked = begun["listed"] - sum(begun["refused"].values())
    account = {
        "obtained": asked - open_rows,
        "failed": dict(sorted(failed.items())),
        "passes": last + 1,
    }
    _write_json(folder / "accounting.json", begun | account)


def _begin(folder: Path, dataset: str, url_list: Path) -> dict[str, Any]:
    """What was noted of the list when the folder was begun with it; writes the list of the first
    pass.
    """
    with url_list.open("rb") as file:
        source = {"dataset": dataset, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    path = folder / "list.json"
    if not path.exists():
        refused: Counter[str] = Counter()
        asked = write_list(folder / "pass-0" / "list", read_list(url_list, dataset, refused))
        _write_json(path, source | {"listed": asked + refused.total(), "refused": dict(refused)})

    begun: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if any(begun[name] != value for name, value in source.items()):
        raise FetchError(
            f"{folder}: begun with another list (SHA-256 {begun['sha256']}); give that one, or "
            "another folder"
        )
    return begun


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="One pass of img2dataset; called by `python -m repro fetch`."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("dataset", choices=COLUMNS)
    parser.add_argument("url_list", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--allow-network", type=ipaddress.ip_network, action="append", default=[])
    return parser.parse_args()


if __name__ in ("__main__", "__mp_main__"):  # in img2dataset's processes too
    arguments = _arguments()
    socket.getaddrinfo = public_only(socket.getaddrinfo, arguments.allow_network)
    urllib.request.install_opener(Opener(arguments.size))  # type: ignore[arg-type]  # all of an opener that urlopen uses

if __name__ == "__main__":
    try:
        fetch_pass(arguments.folder, arguments.dataset, arguments.url_list, arguments.processes)
    except FetchError as problem:
        sys.exit(f"repro: {problem}")
