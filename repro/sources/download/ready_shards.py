"""Public mirrors of CC3M and CC12M as webdataset shards: pinned by revision in specs/mirrors.yaml,
checked shard by shard.

A mirror's hashes are in `specs/mirrors/<dataset>.sha256`, as `sha256sum` writes them. A shard that
is listed must match. One that is not is trusted on first use: its hash is added, and whoever
fetches with that file gets the same bytes or an error. Commit the file to pin what a study was run
on.
"""

from __future__ import annotations

import hashlib
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from repro.data.index import StoreError
from repro.profile import SPECS, check, read_yaml
from repro.spec import Spec

CHUNK_BYTES = 2**20
MAX_SHARD_BYTES = 4 * 2**30
SECONDS = 60.0
"""Longest silence of the server."""


class ReadyShards(Spec):
    """One entry of specs/mirrors.yaml."""

    url: Annotated[str, Field(pattern=r"^https?://[^{}]+(\{revision\}|\{shard:0[1-9]d\}|[^{}])*$")]
    """Address of a shard, with {revision} and {shard:04d}."""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    shards: PositiveInt


def fetch_mirror(dataset: str, folder: Path, specs: Path = SPECS) -> str:
    """Download all shards that are not in `folder` yet; what was done, in words.

    StoreError if a shard is not the listed one. A shard appears under its name when it is complete
    and checked; a part is gone on with.
    """
    path = specs / "mirrors.yaml"
    content = read_yaml(path)
    mirror = check(ReadyShards, content.get(dataset) if isinstance(content, dict) else None, path)
    hashes_path = specs / "mirrors" / f"{dataset}.sha256"
    hashes = read_hashes(hashes_path)
    verified = recorded = 0
    for shard in range(mirror.shards):
        url = mirror.url.format(revision=mirror.revision, shard=shard)
        target = folder / url.rpartition("/")[2]
        # Checked when it was fetched; not hashed again at every call.
        if target.exists() and target.name in hashes:
            continue

        # There but not listed: hashed where it lies, and recorded.
        partial = target if target.exists() else target.with_name(target.name + ".partial")
        if partial != target:
            _download(url, partial)

        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()

        if target.name not in hashes:
            hashes_path.parent.mkdir(exist_ok=True)
            with hashes_path.open("a", encoding="utf-8") as file:
                file.write(f"{digest}  {target.name}\n")
            recorded += 1
        elif digest != hashes[target.name]:
            partial.unlink()
            raise StoreError(
                f"{url}: SHA-256 {digest}, but {hashes_path} says {hashes[target.name]}; not used"
            )
        else:
            verified += 1

        partial.replace(target)
        print(f"\r{shard + 1} of {mirror.shards} shards", end="", file=sys.stderr, flush=True)
    text = f"{mirror.shards} shards in {folder}: {verified} fetched and equal to their listed hash"
    return text + (
        f", {recorded} trusted on first use: their hashes are now in {hashes_path}, commit it"
        if recorded
        else ""
    )


def read_hashes(path: Path) -> dict[str, str]:
    """File name to SHA-256 from the output of `sha256sum`; nothing if there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _download(url: str, partial: Path) -> None:
    """Append what is missing of `url` to `partial`."""
    begun = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})  # noqa: S310  # http(s) by `ReadyShards`
    try:
        response = urllib.request.urlopen(request, timeout=SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is missing
            raise StoreError(f"{url}: {error}") from None
        return
    # 206: the server honours the range and sends the rest; with 200 it sends all from the start.
    with response, partial.open("ab" if response.status == 206 else "wb") as file:
        remaining = response.length
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            remaining = remaining - len(chunk) if remaining is not None else None
            if file.tell() > MAX_SHARD_BYTES:
                raise StoreError(f"{url}: more than {MAX_SHARD_BYTES} bytes; not a shard")
        if remaining:
            raise StoreError(f"{url}: ended {remaining} bytes early; call again to go on")
