"""Generators of committed pages leave them alone for a profile that these are not about."""

from collections.abc import Callable
from pathlib import Path

import pytest

from repro.report.pages.findings import write_findings
from repro.report.readme import write_blocks
from repro.spec import SpecError


@pytest.mark.parametrize("generator", [write_findings, write_blocks])
def test_another_profile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: Callable[[str], None]
) -> None:
    """`smoke`, which has no result that means anything."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"'smoke' \(allowed: mini\)"):
        generator("smoke")
