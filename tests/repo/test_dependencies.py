"""dvc.yaml: a stage depends on all code that its entry imports."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.imports import closure

ENTRIES = {
    "resolve": "repro.profile",
    "data": "repro.sources.stage",
    "poison": "repro.data.stages",
    "pretrain": "repro.worker",
    "clean": "repro.worker",
    "report": "repro.report.build",
}
"""Stage -> the module that makes its content. Where a run goes (repro/launch) changes no result."""


@pytest.mark.parametrize("stage", ENTRIES)
def test_a_stage_depends_on_every_package_that_its_entry_imports(root: Path, stage: str) -> None:
    graph = YAML(typ="safe", pure=True).load((root / "dvc.yaml").read_text(encoding="utf-8"))
    listed = {path for path in graph["stages"][stage]["deps"] if path.startswith("repro/")}
    assert not [path for path in listed if not (root / path).exists()]
    reached = {path.relative_to(root) for path in closure(ENTRIES[stage], root / "repro")}
    parts = {Path(*path.parts[:2]).as_posix() for path in reached}
    assert parts - {"repro/__init__.py"} <= listed
