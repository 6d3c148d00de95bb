"""Which states of the code give the same digits: `results_version.json`.

A run's fingerprint holds `version`. Raise it when a change of the code is meant to change results:
every run is then made again. `accepted` maps digests of the code (`repro.unchanged.code_digest`) to
the reason why their digits are those of `version`; `python -m repro accept` adds the present one
after it has compared the rows, bits and weights of the profile `smoke`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from repro.files import file_sha256, replace_json
from repro.ledger import RunRecord
from repro.runs.layout import DATA, MODELS, RESULTS
from repro.spec import Dataset, Objective, SpecError
from repro.unchanged import CODE, code_digest

FILE = CODE / "runs" / "results_version.json"
PROFILE = "smoke"
UNCOMPARED = {"seconds", "fingerprint", "run", "schema_version"}
"""Fields of a row that may differ between equal results."""


def results_version() -> int:
    """Number that changes with the results of unchanged specifications."""
    return int(_content()["version"])


def accepted_codes() -> dict[str, str]:
    """Digest of the code to the reason why it gives the digits of `results_version()`."""
    return dict(_content()["accepted"])


def same_digits(code: str, other: str) -> bool:
    """Whether two states of the code are equal or both accepted."""
    return code == other or {code, other} <= accepted_codes().keys()


def unaccepted_runs(records: Iterable[RunRecord]) -> dict[str, int]:
    """Digests of code that is not accepted, each with its number of runs."""
    accepted = accepted_codes()
    return dict(Counter(record.code for record in records if record.code not in accepted))


def code_notice() -> str:
    """A line where the present code is not accepted; else empty."""
    if (code := code_digest()) in accepted_codes():
        return ""
    return (
        f"the code differs from every accepted state (digest {code}); finished runs count as up to "
        "date all the same. `python -m repro accept` shows whether the digits are equal; where "
        f"they are meant to differ, raise `version` in {FILE.relative_to(CODE.parent)}"
    )


def accept() -> None:
    """Add the present code to the accepted ones if `smoke` gives the same rows, bits and weights as
    at the last accepted commit; SpecError names what differs.
    """
    code = code_digest()
    if code in accepted_codes():
        print(f"{code}: accepted already")
        return

    root = CODE.parent
    commit = _git(root, "log", "-1", "--format=%h", "--", FILE.relative_to(root).as_posix())
    with tempfile.TemporaryDirectory(prefix="repro-accept-") as temporary:
        before, here = Path(temporary) / "before", Path(temporary) / "here"
        _git(root, "worktree", "add", "--detach", str(before), commit)
        try:
            old = code_digest(before / "repro")
            if old not in accepted_codes():
                raise SpecError(f"{commit}: its code ({old}) is not accepted; nothing to compare")
            here.mkdir()
            (here / "specs").symlink_to(root / "specs")
            for folder, package in ((before, before), (here, root)):
                _make(folder, package, root / DATA / "npm")
            differences = list(compare(before, here))
        finally:
            _git(root, "worktree", "remove", "--force", str(before))

    if differences:
        raise SpecError(
            f"{PROFILE} differs from {commit}:\n  " + "\n  ".join(differences[:10]) + "\nRaise "
            f"`version` in {FILE.relative_to(root)} if that is meant"
        )
    content = _content()
    content["accepted"][code] = f"{PROFILE} equal to that of {commit}"
    replace_json(FILE, content)
    print(f"{code}: rows, bits and weights of {PROFILE} are those of {commit}")


def compare(before: Path, after: Path) -> Iterator[str]:
    """A line for every result of PROFILE below two folders that differs; wall times may."""
    old, new = _results(before), _results(after)
    for name in sorted({*old, *new}):
        one, other = old.get(name, []), new.get(name, [])
        if len(one) != len(other):
            yield f"{name}: {len(one)} -> {len(other)} rows"
        for number, (row, now) in enumerate(zip(one, other, strict=False)):
            # Newer code may have more fields. As text, in which NaN equals NaN.
            for field in sorted(row.keys() & now.keys() - UNCOMPARED):
                if json.dumps(row[field]) != json.dumps(now[field]):
                    yield f"{name}, row {number}: {field}: {row[field]} -> {now[field]}"


def _results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows by file, and of bits and weights one row with their hash."""
    found = {}
    for part in (RESULTS, MODELS):
        for path in (folder / part / PROFILE).rglob("*"):
            name = path.relative_to(folder).as_posix()
            if path.suffix == ".jsonl":
                found[name] = [json.loads(line) for line in path.read_bytes().splitlines()]
            elif path.suffix in (".npz", ".safetensors"):
                found[name] = [{"content": file_sha256(path)}]
    return found


def _make(folder: Path, package: Path, npm: Path) -> None:
    """Run the stages of PROFILE in a folder with the code of `package`."""
    (folder / DATA).mkdir(exist_ok=True)
    if npm.exists():
        (folder / DATA / "npm").symlink_to(npm)
    environment = os.environ | {"PYTHONPATH": str(package)}
    datasets, objectives = get_args(Dataset), get_args(Objective)
    cells = [["--dataset", d, "--objective", o] for d in datasets for o in objectives]
    stages = [["data"], *(["poison", "--dataset", dataset] for dataset in datasets)]
    stages += [[stage, *cell] for stage in ("pretrain", "clean") for cell in cells]
    for stage, *options in stages:
        command = [sys.executable, "-m", "repro", stage, "--profile", PROFILE, *options]
        if subprocess.run(command, cwd=folder, env=environment, check=False).returncode:
            raise SpecError(f"{' '.join(command[2:])}: failed with the code of {package}")


def _content() -> dict[str, Any]:
    return dict(json.loads(FILE.read_bytes()))


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SpecError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
