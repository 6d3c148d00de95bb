"""Every file that the project reads, damaged at random: the documented error or a right result, in
bounded time and memory.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.faults import fault_cases

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
COPIES = 150
"""Damaged copies a reader; each set is the same every time."""
SLOW = {
    "specs": 25,
    "checkpoint-state": 40,
    "checkpoint-weights": 40,
    "foreign-pt": 60,
    "foreign-program": 80,
    "foreign-safetensors": 40,
    "study-archive": 60,
    "beside-results": 12,
    "project": 12,
    "report": 12,
}
"""Fewer where one copy takes longer."""


def readers() -> list[str]:
    """Names in both tables of readers, without importing them."""
    names = []
    for module in ("readers", "weight_readers"):
        tree = ast.parse((SUPPORT / f"{module}.py").read_text(encoding="utf-8"))
        (table,) = (
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "READERS"
        )
        assert isinstance(table, ast.Dict)
        names += [ast.literal_eval(key) for key in table.keys if key]
    return names


@pytest.mark.faults(31)
@pytest.mark.parametrize("name", readers())
def test_damaged_files_are_refused_or_read_right_within_time_and_memory(
    name: str, tmp_path: Path
) -> None:
    cap = fault_cases()["memory_cap_bytes"]
    command = [
        sys.executable,
        "-m",
        "tests.support.fuzz",
        name,
        "0",
        str(SLOW.get(name, COPIES)),
        str(cap),
        str(tmp_path),
    ]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    where = (
        f"copy {(tmp_path / 'seed').read_text()}"
        if (tmp_path / "seed").exists()
        else "the valid file"
    )
    assert done.returncode == 0, f"{where}: ended with {done.returncode}\n{done.stderr[-2000:]}"
    assert [json.loads(line)["finding"] for line in done.stdout.splitlines()] == []
