"""Links of README and docs lead somewhere, and the table of environment variables is whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
VARIABLE = re.compile(r"\b(?:REPRO_[A-Z_]*[A-Z]|MONGO_URL(?:_FILE)?)\b")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    problems = []
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue

        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page.resolve()
        if not target.exists():
            problems.append(f"{page}: {link}: no such file")
        elif fragment and fragment not in anchors(target):
            problems.append(f"{page}: {link}: no such heading")

    assert problems == []


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings}


def test_the_table_has_every_environment_variable_of_the_package(root: Path) -> None:
    page = (root / "docs/design.md").read_text(encoding="utf-8")
    section = page[page.index("## Environment") :].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    files = [*(root / "repro").rglob("*.py"), root / "setup.sh", root / "compose.yaml"]
    named = {name for file in files for name in VARIABLE.findall(file.read_text("utf-8"))}
    # The launcher puts the stage's name behind this one.
    composed = {"REPRO_SBATCH_PRETRAIN", "REPRO_SBATCH_CLEAN"}
    assert {name for row in rows for name in VARIABLE.findall(row)} - composed == named - composed
