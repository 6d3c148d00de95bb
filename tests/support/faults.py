"""The table of faults: which cases there are, and how the tests that provoke them ended."""

from __future__ import annotations

import json
import platform
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from repro.runs.machine import commit_state

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests" / "faults" / "cases.yaml"


def fault_cases() -> dict[str, Any]:
    """The content of tests/faults/cases.yaml."""
    return dict(YAML(typ="safe", pure=True).load(CASES.read_text(encoding="utf-8")))


class FaultTable:
    """Outcomes of the marked tests by case and test function."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.cases: dict[int, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one outcome a test: of its call, or of whatever else went wrong or kept it from
        running.
        """
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
        commit, dirty = commit_state()
        content = {
            "commit": commit,
            "dirty": dirty,
            "date": datetime.now(UTC).date().isoformat(),
            "python": platform.python_version(),
            "memory_cap_bytes": table["memory_cap_bytes"],
            "cases": rows,
        }
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
