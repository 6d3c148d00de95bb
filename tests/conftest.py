"""Shared by all tests: the repository as working folder, and a loud list of what did not run."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.support.launch import launch as launch
from tests.support.launch import profile as profile
from tests.support.pipeline import project as project

LAUNCHER = re.compile(
    "MONGO_URL|SLURM_|REPRO_(SBATCH|LAUNCHER|RANKS|SLOTS|NODES|LOADER_WORKERS|MEMORY_BYTES)"
)
"""Variables of the user's cluster and database: no test submits, or records, anything there."""
for variable in filter(LAUNCHER.match, list(os.environ)):
    del os.environ[variable]

ROOT = Path(__file__).resolve().parents[1]
SECONDS = ROOT / "tests/seconds.json"
"""Seconds of each file of tests when it was last measured, by which they begin: longest first."""


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def here(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: nothing but a link to specs/."""
    (tmp_path / "specs").symlink_to(root / "specs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _environment_ends_with_the_test() -> Iterator[None]:
    """What a command called in this process sets in the environment, no later test sees."""
    with patch.dict(os.environ):
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update` and `--measure`."""
    parser.addoption("--update", action="store_true", help="write the files of tests/golden anew")
    parser.addoption(
        "--measure", action="store_true", help=f"note what took how long in {SECONDS.name}"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    # Begun last, the longest of them would keep one worker busy while the others have nothing left.
    # A file that nobody has measured is long if it has slow tests. Sorting keeps the order within.
    seconds = json.loads(SECONDS.read_bytes())
    slow = {file_of(item.nodeid) for item in items if item.get_closest_marker("slow")}
    unknown = dict.fromkeys(slow - seconds.keys(), math.inf)
    items.sort(key=lambda item: -(seconds | unknown).get(file_of(item.nodeid), 0))


def file_of(test: str) -> str:
    """The file of a test, by the name that pytest gives it."""
    return test.partition("::")[0]


def write_seconds(tests: Iterable[Any]) -> None:
    """Note in SECONDS what the files of these reports took; others keep what is there."""
    found: Counter[str] = Counter()
    for test in tests:
        found[file_of(test.nodeid)] += test.duration
    seconds = json.loads(SECONDS.read_bytes()) | {name: round(s, 1) for name, s in found.items()}
    present = {name: s for name, s in seconds.items() if (ROOT / name).exists()}
    SECONDS.write_text(json.dumps(present, indent=0, sort_keys=True) + "\n")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the results: each reason for which tests were skipped, and how many they were."""
    if terminalreporter.config.option.measure:
        ends = chain.from_iterable(terminalreporter.stats.values())
        write_seconds(end for end in ends if isinstance(end, pytest.TestReport))
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        place = report.longrepr
        reasons[str(place[2] if isinstance(place, tuple) else place).removeprefix("Skipped: ")] += 1
    deselected = len(terminalreporter.stats.get("deselected", []))
    if deselected:
        reasons["left out by -m, -k or FAST=1"] = deselected
    if reasons:
        terminalreporter.section("NOT RUN", sep="!", red=True, bold=True)
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count:5d}  {reason}", yellow=True)
