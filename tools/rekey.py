"""Give archives of the first version of the package the fingerprints of this one:

    python tools/rekey.py results/studies/*.jsonl.gz

The first version put a hash of the code's syntax and other hashes of the inputs into fingerprints.
`rekey_inputs.json` maps its hashes of stores to hashes of their parts. It was made once, of the
stores that the first version built for every variant of every study. Archives that have been
converted stay as they are. Entries of dvc.lock follow where they were right.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from rekey_old_spec import new_spec

from repro.files import replace_file
from repro.ledger import Counts, Row, RunRecord, identity_of
from repro.runs.inputs import part_hash
from repro.runs.published import ROWS, rows_text
from repro.runs.run import fingerprint_of
from repro.study.archive import ArchivedRun, write_archive

LOCK = Path("dvc.lock")
STORES = json.loads(Path(__file__).with_name("rekey_inputs.json").read_bytes())


def main(paths: list[str]) -> None:
    """Convert the archives in place."""
    for path in map(Path, paths):
        items = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        if all("sha256" in item for item in items):
            before = _lock_entry(path)
            write_archive(path, [convert(item) for item in items])
            lock = LOCK.read_text(encoding="utf-8") if LOCK.exists() else ""
            if before in lock:
                replace_file(LOCK, lock.replace(before, _lock_entry(path)).encode())
            print(f"{path}: {len(items)} runs")


def _lock_entry(path: Path) -> str:
    """The lines of dvc.lock about an archive as it is."""
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return (
        f"{path.as_posix()}\n      hash: md5\n      md5: {md5}\n      size: {path.stat().st_size}\n"
    )


def convert(item: dict[str, Any]) -> ArchivedRun:
    """A run of the first version; ValueError for an input that is not in the map."""
    run = item["run"]
    spec = new_spec(run["spec"])
    inputs = {}
    for name, old in run["inputs"].items():
        # Hashes of models and of the synonyms are of their files, as they were.
        if name in ("pairs", "evaluation") and old not in STORES:
            raise ValueError(f"{spec.run_id}: {name}: {old} is not in rekey_inputs.json")
        inputs[name] = part_hash(spec, **STORES[old]) if old in STORES else old

    fingerprint = fingerprint_of(spec, inputs)
    names = identity_of(spec, fingerprint)
    validation = item.get("validation")
    rows = [
        Row.model_validate({**row, **names, "validation": _counts(validation, number)})
        for number, row in enumerate(item["rows"])
    ]
    changed = {
        "spec": spec,
        "fingerprint": fingerprint,
        "inputs": inputs,
        "made_by": run["fingerprint"],
        "files": run["files"] | {ROWS: hashlib.sha256(rows_text(rows)).hexdigest()},
    }
    kept = {name: value for name, value in run.items() if name in RunRecord.model_fields}
    return RunRecord.model_validate(kept | changed), rows


def _counts(validation: dict[str, Any] | None, row: int) -> Counts | None:
    """Counts of a row over the validation images, where the archive has them."""
    if validation is None:
        return None
    return Counts(**{n: v[row] if isinstance(v, list) else v for n, v in validation.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
