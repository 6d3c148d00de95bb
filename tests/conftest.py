"""Shared by all tests: the repository as working folder, and a loud list of what did not run."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.support.launch import launch as launch
from tests.support.launch import profile as profile
from tests.support.pipeline import project as project

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def here(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: nothing but a link to specs/, and no server of the user's."""
    (tmp_path / "specs").symlink_to(root / "specs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONGO_URL", raising=False)
    monkeypatch.delenv("MONGO_URL_FILE", raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def _environment_ends_with_the_test() -> Iterator[None]:
    """What a command called in this process sets in the environment, no later test sees."""
    with patch.dict(os.environ):
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update`."""
    parser.addoption("--update", action="store_true", help="write the files of tests/golden anew")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    # Files with slow tests first: begun last, the longest of them would keep one worker busy while
    # the others have nothing left. Sorting keeps the order within a file.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the results: each reason for which tests were skipped, and how many they were."""
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
