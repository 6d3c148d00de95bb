"""Which states of the code give the same digits: `results_version.json`.

A run's fingerprint holds `version`. Raise it when a change of the code is meant to change results:
every run is then made again. `accepted` maps digests of the code (`repro.unchanged.code_digest`) to
the reason why their digits are those of `version`; `python -m repro accept` adds the present one
after it has compared the rows, bits and weights of the profile `smoke`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from repro.files import file_sha256, replace_json
from repro.ledger import RunRecord
from repro.runs.layout import DATA, MODELS, RESULTS
from repro.runs.machine import git
from repro.spec import SpecError
from repro.unchanged import CODE, code_digest

FILE = CODE / "runs" / "results_version.json"
PROFILE = "smoke"
CALLS = (
    "data",
    "poison --dataset cc3m",
    "poison --dataset cc6m",
    "pretrain --dataset cc3m --objective mmcl",
    "pretrain --dataset cc6m --objective mmcl",
    "clean --dataset cc3m --objective mmcl",
    "clean --dataset cc6m --objective mmcl",
)
"""Commands that make all results of PROFILE: one objective's makes those of the other too."""
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


def unaccepted_runs(records: Iterable[RunRecord]) -> list[str]:
    """Digest of the code of each run whose code is not accepted."""
    accepted = accepted_codes()
    return [record.code for record in records if record.code not in accepted]


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
    commit = git("log", "-1", "--format=%h", "--", str(FILE))
    with tempfile.TemporaryDirectory(prefix="repro-accept-") as temporary:
        before = Path(temporary) / "before"
        here = Path(temporary) / "here"
        git("worktree", "add", "--detach", str(before), commit)
        try:
            old = code_digest(before / "repro")
            if old not in accepted_codes():
                raise SpecError(f"{commit}: its code ({old}) is not accepted; nothing to compare")
            here.mkdir()
            (here / "specs").symlink_to(root / "specs")
            _make(before, before)
            _make(here, root)
            if code_digest() != code:
                raise SpecError("the code changed while it was compared; call this again")
            differences = list(compare(before, here))
        finally:
            git("worktree", "remove", "--force", str(before))

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
    old = _results(before)
    new = _results(after)
    for name in sorted({*old, *new}):
        # Newer code may have more fields in a row.
        both = name in old and name in new
        if old.get(name) != new.get(name) and (both or ", row " not in name):
            yield f"{name}: {old.get(name)} -> {new.get(name)}"


def _results(folder: Path) -> dict[str, str]:
    """By file: its number of rows and each field of a row, or the hash of bits or weights."""
    found = {}
    for part in (RESULTS, MODELS):
        for path in (folder / part / PROFILE).rglob("*"):
            name = path.relative_to(folder).as_posix()
            if path.suffix == ".jsonl":
                rows = [json.loads(line) for line in path.read_bytes().splitlines()]
                found[f"{name}: length"] = str(len(rows))
                for number, row in enumerate(rows):
                    # As text, in which NaN equals NaN.
                    for field in row.keys() - UNCOMPARED:
                        found[f"{name}, row {number}: {field}"] = json.dumps(row[field])
            elif path.suffix in (".npz", ".safetensors"):
                found[f"{name}: content"] = file_sha256(path)
    return found


def _make(folder: Path, package: Path) -> None:
    """Run CALLS in a folder with the code of `package`, and the npm packages of this checkout."""
    packages = CODE.parent / DATA / "npm"
    packages.mkdir(parents=True, exist_ok=True)
    (folder / DATA).mkdir(exist_ok=True)
    (folder / DATA / "npm").symlink_to(packages)
    environment = os.environ | {"PYTHONPATH": str(package)}
    for call in CALLS:
        command = [sys.executable, "-m", "repro", *call.split(), "--profile", PROFILE]
        if subprocess.run(command, cwd=folder, env=environment).returncode:
            raise SpecError(f"{call}: failed with the code of {package}")


def _content() -> dict[str, Any]:
    return dict(json.loads(FILE.read_bytes()))
