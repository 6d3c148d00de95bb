"""`python -m repro verify --all`: is everything that a profile's study left behind whole?

Three witnesses are asked, since each knows what another does not: dvc.lock for every output of a
stage, the hashes that lie with stores, models and runs, and the report, which is computed again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from repro.integrity.locked import LOCK, Locked, changed_outputs, locked_outputs
from repro.integrity.whole import (
    damaged_folders,
    damaged_models,
    damaged_runs,
    damaged_stores,
)
from repro.ledger import LedgerError
from repro.profile import read_yaml
from repro.report.build import DOCUMENT
from repro.report.numbers.cells import DATASETS
from repro.report.verify import verify
from repro.spec import SpecError
from repro.study.archive import read_archive

STUDIES = Path("results/studies")
PARAMS = Path("params.yaml")


def verify_command(report: Path | None, everything: bool, profile: str | None) -> int:
    """Print what is wrong with a report, or with everything of a profile; 1 if anything is.

    Without either, with the report of the profile that params.yaml names.
    """
    name = profile or current_profile()
    if everything:
        lines = verify_all(name)
        done = f"profile {name}: data, pairs, models, results and report are whole"
    else:
        path = report or report_folder(name) / DOCUMENT
        lines = verify(path)
        done = f"{path}: every number follows from the ledger"
    print("\n".join(lines) or done)
    return int(bool(lines))


def verify_all(profile: str) -> list[str]:
    """One line a file of the profile that is not whole, or place of its report that is not true."""
    found = [*damaged_files(profile)]
    try:
        found += [f"report: {line}" for line in verify(report_folder(profile) / DOCUMENT)]
    except LedgerError as error:
        found.append(str(error))
    return list(dict.fromkeys(found))


def damaged_files(profile: str) -> Iterator[str]:
    """A line for each file that is not as its hashes say: data, pairs, models, results, report."""
    outputs = _outputs_of(profile)
    if not outputs:
        note = (
            f"verify: {LOCK} knows nothing of profile {profile}; records and lists are asked only"
        )
        print(note, file=sys.stderr)
    yield from changed_outputs(outputs)

    data, poisoned = Path("data") / profile, Path("poisoned") / profile
    yield from damaged_folders([data, *(poisoned / dataset for dataset in DATASETS)])
    yield from damaged_stores([data, poisoned])
    yield from damaged_models(Path("models") / profile)
    yield from damaged_results(profile)


def damaged_results(profile: str) -> Iterator[str]:
    """A line for each run of the profile and each archive of a study that is not whole."""
    yield from damaged_runs(Path("results") / profile)
    for archive in sorted(STUDIES.glob("*.jsonl.gz")):
        try:
            read_archive(archive)
        except LedgerError as error:
            yield str(error)


def current_profile() -> str:
    """The profile that params.yaml names."""
    name = read_yaml(PARAMS).get("profile")
    if not isinstance(name, str):
        raise SpecError(f"{PARAMS}: profile: {name!r} (allowed: a folder of specs/)")
    return name


def report_folder(profile: str) -> Path:
    """Where the report of a profile is built."""
    return Path("report/build") / profile


def _outputs_of(profile: str) -> list[Locked]:
    """The outputs of the profile's stages, and of the studies once the profile has any."""
    outputs = locked_outputs()
    rooms = ("data", "poisoned", "models", "results", "report/build")
    roots = [Path(room) / profile for room in rooms]
    own = [output for output in outputs if any(_is_below(output.path, root) for root in roots)]
    studies = [output for output in outputs if _is_below(output.path, STUDIES)]
    return [*own, *studies] if own else []


def _is_below(path: Path, root: Path) -> bool:
    return path == root or root in path.parents
