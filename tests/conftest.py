"""What every test shares: the repository as working folder, a loud list of what did not run, and the table of faults.

A test that provokes a fault carries `@pytest.mark.faults(N, ...)` with the numbers of tests/faults/cases.yaml.
`pytest -m faults --fault-table=FILE` writes their outcomes as JSON, which the report shows.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT / "tests" / "faults" / "cases.yaml"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


def fault_cases() -> dict[str, Any]:
    """The content of tests/faults/cases.yaml."""
    return dict(YAML(typ="safe", pure=True).load(CASES.read_text(encoding="utf-8")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fault-table`."""
    parser.addoption(
        "--fault-table",
        type=Path,
        metavar="FILE",
        help="write the outcomes of the tests marked `faults` to FILE",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect outcomes only where they are asked for."""
    if config.getoption("--fault-table"):
        config.pluginmanager.register(FaultTable(config.getoption("--fault-table")))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a complete synthetic study at profile `mini` and its report; tests that change it copy it first."""
    from ledger_fixture import write_study

    from repro.report.build import report_stage

    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("REPRO_AUTHORS_DIR", raising=False)
        report_stage("mini")
    return folder


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let reports carry the numbers of their cases."""
    known = {case["case"] for case in fault_cases()["cases"]}
    for item in items:
        numbers = sorted(
            {number for marker in item.iter_markers("faults") for number in marker.args}
        )
        if unknown := set(numbers) - known:
            raise pytest.UsageError(
                f"{item.nodeid}: faults{tuple(unknown)}: no such case in {CASES.relative_to(ROOT)}"
            )
        item.user_properties += [("fault", number) for number in numbers]


class FaultTable:
    """Outcomes of the marked tests by case and test function."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.cases: dict[int, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one outcome a test: of its call, or of whatever else went wrong or kept it from running."""
        if report.when == "call" or report.outcome != "passed":
            name = report.nodeid.partition("[")[0]
            self.outcomes[name][report.outcome] += 1
            for _, number in (entry for entry in report.user_properties if entry[0] == "fault"):
                self.cases[int(str(number))].add(name)

    def pytest_sessionfinish(self) -> None:
        """Write the table."""
        table = fault_cases()
        rows = []
        for case in table["cases"]:
            counts = {name: self.outcomes[name] for name in sorted(self.cases[case["case"]])}
            total = sum(counts.values(), Counter())
            outcome = next(
                (word for word in ("failed", "passed", "skipped") if total[word]), "not run"
            )
            tests = [
                {"name": name, **{word: count[word] for word in ("passed", "failed", "skipped")}}
                for name, count in counts.items()
            ]
            rows.append({**case, "outcome": outcome, "tests": tests})
        commit, changed = (
            _git("rev-parse", "HEAD"),
            _git("status", "--porcelain", "-uno", "--", ".", ":(exclude)report/faults.json"),
        )
        content = {
            "commit": commit or None,
            "dirty": bool(changed),
            "date": datetime.now(UTC).date().isoformat(),
            "python": platform.python_version(),
            "memory_cap_bytes": table["memory_cap_bytes"],
            "cases": rows,
        }
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After the results: each reason for which tests were skipped, and how many they were."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = (
            report.longrepr[2].removeprefix("Skipped: ")
            if isinstance(report.longrepr, tuple)
            else str(report.longrepr)
        )
        reasons[reason] = reasons.get(reason, 0) + 1
    deselected = len(terminalreporter.stats.get("deselected", []))
    if deselected:
        reasons["left out by -m, -k or FAST=1"] = deselected
    if reasons:
        terminalreporter.section("NOT RUN", sep="!", red=True, bold=True)
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count:5d}  {reason}", yellow=True)
