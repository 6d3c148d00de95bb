"""Files of a profile that are not as dvc.lock says.

DVC keeps of a folder the MD5 of a list, and in its cache the list itself, `[{"md5": ..., "relpath":
...}]` in the order of the paths. Where the cache lacks the list, only the folder can be named. Read
here and not by `dvc data status`, which knows the profile of params.yaml only.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from repro.ledger import LedgerError

LOCK = Path("dvc.lock")
CACHE = Path(".dvc/cache/files/md5")
FOLDER = ".dir"
"""End of the MD5 of a folder."""


def locked_outputs() -> dict[Path, str]:
    """MD5 of every output in dvc.lock, if it is there; LedgerError if it is damaged."""
    if not LOCK.is_file():
        return {}
    try:
        content = YAML(typ="safe", pure=True).load(LOCK.read_text(encoding="utf-8"))
        outputs = [out for stage in content["stages"].values() for out in stage.get("outs", [])]
        return {Path(out["path"]): out["md5"] for out in outputs}
    except (YAMLError, UnicodeDecodeError, LookupError, TypeError, AttributeError) as error:
        raise LedgerError(f"{LOCK}: not a lock file of DVC ({error})") from None


def changed_outputs(outputs: Mapping[Path, str]) -> Iterator[str]:
    """A line for each file of these outputs that is not as dvc.lock says."""
    for path, md5 in outputs.items():
        if not path.exists():
            yield f"{path}: missing"
        elif md5.endswith(FOLDER):
            yield from _changed_files(path, md5)
        elif file_md5(path) != md5:
            yield f"{path}: not the file that {LOCK} names"


def _changed_files(folder: Path, md5: str) -> Iterator[str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    present = {path.relative_to(folder).as_posix(): file_md5(path) for path in paths}
    if _list_md5(present) == md5:
        return

    # DVC files its cache by the first two digits of the hash.
    path = CACHE / md5[:2] / md5[2:]
    try:
        locked = {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_bytes())}
    except (OSError, ValueError, LookupError, TypeError):
        locked = {}
    # The cache may be damaged too: a wrong list would accuse whole files.
    if _list_md5(locked) != md5:
        yield (
            f"{folder}: not the folder that {LOCK} names; which of its {len(present)} files "
            f"differs cannot be told, for {CACHE} lacks its list"
        )
        return

    for name in sorted({*present, *locked}):
        if name not in present:
            yield f"{folder / name}: missing"
        elif name not in locked:
            yield f"{folder / name}: no part of what the stage made"
        elif present[name] != locked[name]:
            yield f"{folder / name}: not the file that {LOCK} names"


def file_md5(path: Path) -> str:
    """MD5 of a file, as DVC and MD5SUMS have it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _list_md5(files: Mapping[str, str]) -> str:
    """The MD5 that DVC gives a folder with these files, name to MD5."""
    # Order and spelling are DVC's: its MD5 is over exactly these bytes.
    entries = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    content = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(content, usedforsecurity=False).hexdigest() + FOLDER
