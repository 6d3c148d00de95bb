"""Every number of the kept tables stays: of the real archives, and of the synthetic ledger."""

import csv
import io
from contextlib import chdir, redirect_stdout
from pathlib import Path

import pytest

from repro.cli import main
from repro.profile import load_profile
from repro.report.build import build
from repro.report.studies import evidence_of
from tests.support.digits import Digits, of_markdown, of_report

GOLDEN = Path(__file__).parents[1] / "golden/digits.csv"
PUBLISHED = ("specs", "results/studies", "results/replicates", "docs", "dvc.lock", "pyproject.toml")
"""What a fresh checkout has of what a report is made of."""


@pytest.fixture(scope="module")
def archived(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Digits]:
    """Of reports from the archives alone, and of the texts beside them."""
    folder = tmp_path_factory.mktemp("archived")
    (folder / "results").mkdir()
    for name in PUBLISHED:
        (folder / name).symlink_to(root / name)
    found = []
    with chdir(folder):
        for profile in ("mini", "midi"):
            build(evidence_of(load_profile(profile)), folder / profile, latex_too=False)
            found += of_report(profile, folder / profile)
    for name in ("README.md", "docs/findings.md"):
        found += of_markdown(name, (root / name).read_text(encoding="utf-8"))
    return found


def of_synthetic(folder: Path) -> list[Digits]:
    """Of a report whose own run stands beside archived seeds."""
    found = list(of_report("synthetic", folder / "report/build/mini"))
    printed = io.StringIO()
    with redirect_stdout(printed):
        main(["check", "mini"])
    return [*found, *of_markdown("synthetic", printed.getvalue())]


def test_no_number_of_a_kept_table_moves(
    archived: list[Digits], copy: Path, request: pytest.FixtureRequest
) -> None:
    found = [*archived, *of_synthetic(copy)]
    if request.config.getoption("--update"):
        with GOLDEN.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerows([Digits._fields, *sorted(set(found))])
    with GOLDEN.open(newline="", encoding="utf-8") as file:
        known = {Digits(*row) for row in list(csv.reader(file))[1:]}
    assert set(found) - known == set(), "run pytest with --update if it is meant"
    assert known - set(found) == set()
