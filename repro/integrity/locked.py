"""What dvc.lock says of the files of a profile, and which files are not as it says.

DVC keeps of a folder the MD5 of a list, and in its cache the list itself, `[{"md5": ..., "relpath":
...}]` in the order of the paths. Where the cache lacks the list, that a folder changed can be told,
but not which file. MD5 finds accidents; against intent stand the SHA-256 of records and the report,
which is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from repro.ledger import LedgerError

LOCK = Path("dvc.lock")
CACHE = Path(".dvc/cache/files/md5")
FOLDER = ".dir"
"""End of the MD5 of a folder."""
READERS = 4
"""Files read at once; hashing lets other threads run."""


@dataclass(frozen=True, slots=True)
class Locked:
    """An output of a stage: a file, or a folder whose MD5 is that of its list of files."""

    path: Path
    md5: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.md5.endswith(FOLDER)


def locked_outputs(lock: Path = LOCK) -> list[Locked]:
    """All outputs that dvc.lock knows; none if it is not there. LedgerError if it is damaged."""
    if not lock.is_file():
        return []
    try:
        content = YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8"))
        outputs = [out for stage in content["stages"].values() for out in stage.get("outs", [])]
        return [Locked(Path(out["path"]), out["md5"]) for out in outputs]
    except (YAMLError, UnicodeDecodeError, LookupError, TypeError, AttributeError) as error:
        raise LedgerError(f"{lock}: not a lock file of DVC ({error})") from None


def changed_outputs(outputs: Iterable[Locked]) -> Iterator[str]:
    """A line for each file of these outputs that is not as dvc.lock says."""
    for output in outputs:
        if not output.path.exists():
            yield f"{output.path}: missing"
        elif not output.is_folder:
            if file_md5(output.path) != output.md5:
                yield f"{output.path}: not the file that {LOCK} names"
        else:
            yield from _changed_files(output)


def file_md5(path: Path) -> str:
    """MD5 of a file's bytes, as DVC has it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _changed_files(output: Locked) -> Iterator[str]:
    # One hash settles the usual case; file by file only where it differs.
    there = _listing(output.path)
    if _listing_md5(there) == output.md5:
        return
    wanted = _wanted(output)

    if wanted is None:
        yield (
            f"{output.path}: not the folder that {LOCK} names; which of its {len(there)} files "
            f"differs cannot be told, for {CACHE} lacks its list"
        )
        return

    for name in sorted({*there, *wanted}):
        path = output.path / name
        if name not in there:
            yield f"{path}: missing"
        elif name not in wanted:
            yield f"{path}: no part of what the stage made"
        elif there[name] != wanted[name]:
            yield f"{path}: not the file that {LOCK} names"


def _listing(folder: Path) -> dict[str, str]:
    """Relative path and MD5 of every file below a folder."""
    if not folder.is_dir():
        return {}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(READERS) as pool:
        hashes = pool.map(file_md5, paths)
    names = [path.relative_to(folder).as_posix() for path in paths]
    return dict(zip(names, hashes, strict=True))


def _listing_md5(listing: Mapping[str, str]) -> str:
    """The MD5 that DVC gives a folder with these files."""
    # Order and spelling are DVC's: its MD5 is over exactly these bytes.
    entries = [{"md5": listing[name], "relpath": name} for name in sorted(listing)]
    content = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(content, usedforsecurity=False).hexdigest() + FOLDER


def _wanted(output: Locked) -> dict[str, str] | None:
    """The list of a folder's files from the cache; None if it is not there, or not the one."""
    # DVC files its cache by the first two digits of the hash.
    path = CACHE / output.md5[:2] / output.md5[2:]
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_bytes())
        wanted = {entry["relpath"]: entry["md5"] for entry in entries}
    except (OSError, ValueError, LookupError, TypeError):
        return None

    # The cache may be damaged too: a list that is not the one would accuse whole files.
    return wanted if _listing_md5(wanted) == output.md5 else None
