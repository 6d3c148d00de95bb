"""`python -m repro publish`: the folder to upload, `report/publish/<profile>`.

It holds the report, the ledger that it is computed from, the specifications and, in five
vocabularies, what it is. Nothing goes in that `verify` finds fault with.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.files import replace_file
from repro.ledger import LedgerError
from repro.report.build import SUMS, checksums
from repro.report.crate import METADATA, WORKFLOW, crate
from repro.report.verify import verify
from repro.report.verify_all import STUDIES, damaged_results, report_folder
from repro.report.vocabularies import citation, codemeta, describe, rescience, zenodo

BESIDE = (WORKFLOW, "pyproject.toml", "LICENSE", "NOTICE", "README.md")
"""Files of the repository that go along where they are there."""
LINK = re.compile(r"\[(?P<text>[^]]+)\]\((?P<file>[^)#:]+)(?:#[^)]*)?\)")
"""A link of Markdown to another file, not to an address."""
SHOWN = 10
"""Problems that the message of a refusal lists."""


def release(profile: str) -> Path:
    """Pack the built report of a profile; returns the folder.

    LedgerError if the report is not built, or if it or a result is not what it should be.
    """
    report = report_folder(profile)
    _refuse_what_is_wrong(report, profile)

    # Of the checked report, so that what describes the folder says what its pages say.
    document = json.loads((report / "report.json").read_bytes())
    out = Path("report/publish") / profile

    # From nothing: what an earlier release held must not stay among the files.
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    _copy_report(report, out)

    # What the report is computed from, so that a reader can compute it again; a scale that lies in
    # its archive alone has no results beside it.
    results = Path("results") / profile
    if results.is_dir():
        shutil.copytree(results, out / results)
    if STUDIES.is_dir():
        shutil.copytree(STUDIES, out / STUDIES)
    shutil.copytree("specs", out / "specs")
    for name in BESIDE:
        if Path(name).is_file():
            shutil.copy2(name, out / name)
    _unlink_absent(out)

    # The sums come last, over all files but their own.
    _describe(out, document)
    replace_file(
        out / SUMS, checksums(out, [name for name in _files(out) if name != SUMS]).encode()
    )
    return out


def _refuse_what_is_wrong(report: Path, profile: str) -> None:
    """LedgerError that lists what is wrong with the report or with what is packed beside it."""
    # The report against its ledger, then the ledger's files against their own hashes.
    problems = [*verify(report / "report.json"), *damaged_results(profile)]
    if problems:
        told = "\n  ".join(problems[:SHOWN])
        raise LedgerError(
            f"{report}: {len(problems)} difference(s) between report and ledger\n  {told}"
        )


def _copy_report(report: Path, out: Path) -> None:
    """Copy the files that SHA256SUMS names, which are those that were checked."""
    # A line is the hash, two spaces and the name.
    names = [line.partition("  ")[2] for line in (report / SUMS).read_text().splitlines()]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(report / name, out / name)


def _unlink_absent(out: Path) -> None:
    """Leave of each link in README.md to a file of the repository that is not released the text."""
    readme = out / "README.md"
    if not readme.is_file():
        return

    def kept(link: re.Match[str]) -> str:
        return link[0] if (out / link["file"]).exists() else link["text"]

    text = LINK.sub(kept, readme.read_text(encoding="utf-8"))
    replace_file(readme, text.encode())


def _describe(out: Path, document: dict[str, Any]) -> None:
    """Write what the folder is; the crate comes last, for it names every other file."""
    # Name, version, licence and authors are those of pyproject.toml, said once.
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    subject = describe(project, document)
    _write(out / ".zenodo.json", zenodo(subject))
    _write(out / "codemeta.json", codemeta(subject))
    replace_file(out / "CITATION.cff", citation(subject).encode())
    replace_file(out / "metadata.yaml", rescience(subject).encode())

    # The crate lists the sums too, so their file is there before its content is.
    (out / SUMS).touch()
    _write(out / METADATA, crate(subject, document, _files(out)))


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    replace_file(path, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
