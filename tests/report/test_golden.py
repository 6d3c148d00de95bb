"""A report of a ledger made by hand, compared with files in git: `--update` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.visible import visible_text

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = (
    *("table1.csv", "table2.csv", "verdicts.csv", "metrics.json"),
    *("index.html", "studies.html", "mechanism.html", "bench.html", "evidence.html"),
)


def as_text(path: Path) -> str:
    """A file of the report, without what depends on the day, the machine or the code alone."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        text = visible_text(text)
    if path.suffix in (".csv", ".json"):
        # The last digits depend on the processor.
        text = re.sub(r"-?\d+\.\d+(e-\d+)?", lambda number: f"{float(number[0]):.5g}", text)
        text = re.sub(r"-?\d[\d.]*e-\d\d", "0", text)
    # Fingerprints and hashes name runs; commit of a dirty tree and paths of TeX do not matter here.
    return re.sub(r"\b[0-9a-f]{16,64}\b", "HASH", text)


@pytest.mark.parametrize("name", FILES)
def test_the_report_of_the_synthetic_ledger_is_as_in_git(
    whole: Path, name: str, request: pytest.FixtureRequest
) -> None:
    built = as_text(whole / "report/build/mini" / name)
    golden = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(built, encoding="utf-8")
    assert built == golden.read_text(encoding="utf-8"), "run pytest with --update if it is meant"
