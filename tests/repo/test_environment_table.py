"""docs/design.md lists every environment variable of the package, and no other."""

from __future__ import annotations

import re
from pathlib import Path

OURS = re.compile(r"\b(?:REPRO_[A-Z_]*[A-Z]|MONGO_URL(?:_FILE)?)\b")


def names_in_code(root: Path) -> set[str]:
    """Variables that a module, a script or a container's description names."""
    files = [*(root / "repro").rglob("*.py"), root / "setup.sh", root / "compose.yaml"]
    return {name for file in files for name in OURS.findall(file.read_text(encoding="utf-8"))}


def names_in_table(root: Path) -> set[str]:
    page = (root / "docs" / "design.md").read_text(encoding="utf-8")
    section = page[page.index("## Environment") :].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_variable_of_the_package_stands_in_the_table(root: Path) -> None:
    # The launcher puts the stage's name behind this one.
    composed = {"REPRO_SBATCH_PRETRAIN", "REPRO_SBATCH_CLEAN"}
    assert names_in_table(root) - composed == names_in_code(root) - composed
