"""Hashes of archives: what dvc.lock has, and what is there."""

import hashlib
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from repro.ledger import LedgerError

LOCK = Path("dvc.lock")


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


def file_md5(path: Path) -> str:
    """MD5 of a file, as DVC and MD5SUMS have it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
