"""`python -m repro verify`: builds the report again and compares; `--all` also reads every run.

run.json has the hashes of its run's files, and the report follows from them: an edited row is
refused where it is read, so it never becomes a number of a report that verifies. `dvc status`
compares every output of a stage with dvc.lock.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.ledger import LedgerError
from repro.profile import graph_profile
from repro.report.authors import authors_points
from repro.report.build import DOCUMENT, build, report_folder
from repro.report.prose import stale
from repro.report.studies import archive_problems, evidence_of
from repro.runs.layout import RESULTS
from repro.runs.published import RECORD, read_run
from repro.spec import SpecError
from repro.study.archive import read_archive

STUDIES = RESULTS / "studies"
SHOWN = 20
"""Differing values of report.json that are listed."""


def verify_command(report: Path | None, everything: bool, name: str, as_json: bool) -> int:
    """Print what is wrong with a report, or also with all results of a profile; 1 if anything is.

    Without either, the report of the profile.
    """
    if everything:
        lines = verify_all(name)
        done = f"profile {name}: results, archives and report are whole"
    else:
        path = report or report_folder(name) / DOCUMENT
        lines = verify(path)
        done = f"{path.parent}: every file follows from ledger, specifications and claims"
    if as_json:
        print(json.dumps({"profile": name, "problems": lines}, indent=1))
    else:
        print("\n".join(lines) or done)
    return int(bool(lines))


def verify(path: Path) -> list[str]:
    """Build the report of `path`, a report.json, again; one line a file or value that differs.

    Reads ledger, specifications and claims below the working directory. LedgerError if there is no
    report.
    """
    if not path.is_file():
        raise LedgerError(f"{path}: missing; `python -m repro report {path.parent.name}` builds it")
    try:
        document = json.loads(path.read_bytes())
        profile = str(document["profile"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return [f"{path}: no report.json ({error!r})"]
    with tempfile.TemporaryDirectory() as again:
        try:
            _build_again(profile, bool(document.get("authors_files")), path.parent, Path(again))
        except (LedgerError, SpecError) as error:
            return [f"ledger: {error}"]
        lines = list(_differences(path.parent, Path(again)))
    return [*lines, *archive_problems(profile), *stale(profile)]


def _build_again(profile: str, shows_authors: bool, folder: Path, out: Path) -> None:
    authors = authors_points() if shows_authors else ((), ())
    evidence = evidence_of(graph_profile(profile), authors)
    # Their files have no licence and so are not in the repository: the reader has to supply them.
    if shows_authors and not evidence.files:
        raise LedgerError(
            "authors_files: set REPRO_AUTHORS_DIR to the folder that was read for this report; "
            "nothing was compared without it"
        )
    # Where there is no TeX the PDF cannot be made again, and stands for itself.
    if (folder / "report.pdf").is_file():
        shutil.copy2(folder / "report.pdf", out)
    build(evidence, out, latex_too=(folder / "report.tex").is_file())


def _differences(folder: Path, again: Path) -> Iterator[str]:
    """Yield a line for each file that is in one folder only, or differs."""
    here, there = (
        {path.relative_to(base).as_posix(): path for path in base.rglob("*") if path.is_file()}
        for base in (folder, again)
    )
    for name in sorted(here | there):
        if name not in here:
            yield f"{folder / name}: missing"
        elif name not in there:
            yield f"{here[name]}: no part of the report"
        elif here[name].read_bytes() != there[name].read_bytes():
            yield f"{here[name]}: not what the ledger gives"
            if name == DOCUMENT:
                texts = (json.loads(of[name].read_bytes()) for of in (here, there))
                changed = list(_changed_values(*texts))
                yield from changed[:SHOWN]
                if len(changed) > SHOWN:
                    yield f"  and {len(changed) - SHOWN} more values"


def _changed_values(here: Any, there: Any, place: str = "") -> Iterator[str]:
    """Yield the path of each value that differs, with the value here and the one computed."""
    if isinstance(here, dict) and isinstance(there, dict):
        for key in here | there:
            yield from _changed_values(here.get(key), there.get(key), f"{place}/{key}")
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for index, values in enumerate(zip(here, there, strict=True)):
            yield from _changed_values(*values, f"{place}/{index}")
    elif here != there:
        yield f"  {place[1:]}: {str(here)[:80]} (computed: {str(there)[:80]})"


def verify_all(profile: str) -> list[str]:
    """One line a file of the profile that is not what it was made as: results to report."""
    lines: list[str] = []
    report = report_folder(profile) / DOCUMENT
    checks = damaged_results, archive_problems
    for check in (*checks, lambda _: verify(report)):
        # What one of them cannot read at all hides nothing of the others.
        try:
            lines += check(profile)
        except LedgerError as error:
            lines.append(str(error))
    return list(dict.fromkeys(lines))


def damaged_results(profile: str) -> Iterator[str]:
    """Yield what is wrong with each run of the profile and each archive that is not whole."""
    runs = [record.parent for record in (RESULTS / profile).rglob(RECORD)]
    for read, paths in ((read_run, runs), (read_archive, STUDIES.glob("*.jsonl.gz"))):
        for path in sorted(paths):
            try:
                read(path)
            except LedgerError as error:
                yield str(error)
