"""Shared by all tests: the repository as working folder, time limits, a loud list of what did not run."""

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.support.launch import launch as launch
from tests.support.launch import profile as profile
from tests.support.pipeline import project as project
from tests.support.smoke import trained_study

LAUNCHER = re.compile(
    "MONGO_URL|SLURM_|REPRO_(SBATCH|LAUNCHER|RANKS|SLOTS|NODES|LOADER_WORKERS|MEMORY_BYTES)"
)
"""Variables of the user's cluster and database: no test submits, or records, anything there."""
for variable in filter(LAUNCHER.match, list(os.environ)):
    del os.environ[variable]

ROOT = Path(__file__).resolve().parents[1]
NIGHTLY_SECONDS = 1800
"""Time limit of a nightly test that names none; that of others is in pyproject.toml."""
STARTED = time.monotonic()


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


@pytest.fixture(scope="session")
def smoke(root: Path, pytestconfig: pytest.Config) -> Path:
    """A checkout at profile `smoke` after `dvc repro`, trained once; not to be changed."""
    return trained_study(root, pytestconfig.cache.mkdir("smoke"))  # type: ignore[union-attr]


@pytest.fixture
def smoke_copy(smoke: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(smoke, tmp_path / "a copy", symlinks=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update` and `--begin-within`."""
    parser.addoption("--update", action="store_true", help="write the files of tests/golden anew")
    parser.addoption(
        "--begin-within", type=float, metavar="SECONDS", help="name the tests that are left then"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longer limits for nightly tests alone; one file has `smoke` trained, the others wait."""
    for item in items:
        limit = item.get_closest_marker("timeout")
        is_nightly = item.get_closest_marker("nightly") is not None
        if limit and not is_nightly:
            raise pytest.UsageError(f"{item.nodeid}: a time limit of its own, but not nightly")
        if is_nightly and not limit:
            item.add_marker(pytest.mark.timeout(NIGHTLY_SECONDS))

    users = [item.path for item in items if "smoke" in getattr(item, "fixturenames", ())]
    first = users[:1]
    items.sort(key=lambda item: (item.path not in first) + (item.path in users))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin no test after the time that `--begin-within` gives."""
    most = item.config.getoption("--begin-within")
    if most is not None and time.monotonic() - STARTED > most:
        pytest.skip(f"no time left for {item.nodeid}")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the results: each reason for which tests were skipped, and how many they were."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        place = report.longrepr
        reasons[str(place[2] if isinstance(place, tuple) else place).removeprefix("Skipped: ")] += 1
    deselected = len(terminalreporter.stats.get("deselected", []))
    if deselected:
        reasons["left out by -m or -k"] = deselected
    if reasons:
        terminalreporter.section("NOT RUN", sep="!", red=True, bold=True)
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count:5d}  {reason}", yellow=True)
