"""Every number of the kept tables stays: of the real archives, and of the synthetic ledger."""

import csv
import io
from contextlib import redirect_stdout
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


def of_archives(root: Path, folder: Path) -> list[Digits]:
    """Of reports from the archives alone, and of the texts beside them."""
    (folder / "results").mkdir()
    for name in PUBLISHED:
        (folder / name).symlink_to(root / name)
    found = []
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


@pytest.mark.slow
def test_no_number_of_a_kept_table_moves(
    root: Path,
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    found = of_synthetic(copy)
    monkeypatch.chdir(tmp_path)
    found += of_archives(root, tmp_path)

    if request.config.getoption("--update"):
        with GOLDEN.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerows([Digits._fields, *sorted(set(found))])
    with GOLDEN.open(newline="", encoding="utf-8") as file:
        known = {Digits(*row) for row in list(csv.reader(file))[1:]}
    assert set(found) - known == set(), "run pytest with --update if it is meant"
    assert known - set(found) == set()
