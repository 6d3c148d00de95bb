"""dvc.yaml tells the truth: a stage depends on the code that its entry imports, on all of it and on
nothing else.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.imports import closure

ENTRIES = {
    "data": "repro.sources.stage",
    "poison": "repro.data.stages",
    "pretrain": "repro.worker",
    "clean": "repro.worker",
    "report": "repro.report.build",
}
"""Stage -> the module that makes its content.

Where a run goes (repro/launch) changes no result, so the launcher is no entry.
"""
BESIDE = {"report": {"repro/report/pages/templates"}}
"""What a stage reads of the package besides modules."""


def folded(files: set[Path], package: Path) -> list[str]:
    """The files as the shortest list of paths: a folder stands for its modules where all of them
    are among the files.
    """
    root = package.parent
    paths = {file for file in files if file.name != "__init__.py"}
    folders = sorted(
        {parent for file in paths for parent in file.parents if package in parent.parents},
        key=lambda folder: len(folder.parts),
    )
    for folder in folders:
        inside = {file for file in folder.rglob("*.py") if file.name != "__init__.py"}
        if inside and inside <= paths:
            paths = (paths - inside) | {folder}

    return sorted(path.relative_to(root).as_posix() for path in paths)


@pytest.mark.parametrize("stage", ENTRIES)
def test_a_stage_depends_on_the_import_closure_of_its_entry(root: Path, stage: str) -> None:
    graph = YAML(typ="safe", pure=True).load((root / "dvc.yaml").read_text(encoding="utf-8"))
    listed = {path for path in graph["stages"][stage]["deps"] if path.startswith("repro")}
    beside = BESIDE.get(stage, set())

    assert beside <= listed
    assert sorted(listed - beside) == folded(
        closure(ENTRIES[stage], root / "repro"), root / "repro"
    )


def test_a_folder_stands_for_its_modules_only_where_all_are_reached(tmp_path: Path) -> None:
    """`whole` is imported in all its parts, `half` in one of two."""
    package = tmp_path / "repro"
    for name, text in {
        "__init__": "",
        "entry": "import repro.whole.a\nfrom repro.half import x\n",
        "whole/__init__": "",
        "whole/a": "def f():\n    from repro.whole import b\n",
        "whole/b": "",
        "half/__init__": "",
        "half/x": "",
        "half/y": "",
    }.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    found = folded(closure("repro.entry", package), package)
    assert found == ["repro/entry.py", "repro/half/x.py", "repro/whole"]
