"""The code hash follows what the worker reaches: edits of a copy of the package change it, or do
not.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from repro.runs.code import code_version, labels_of, reached_definitions

LOSSES = "repro/train/losses.py"


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the package."""
    ignored = shutil.ignore_patterns("__pycache__", "node_modules")
    shutil.copytree(root / "repro", tmp_path / "repro", ignore=ignored)
    return tmp_path


def edit(root: Path, name: str, old: str, new: str) -> None:
    path = root / name
    text = path.read_text(encoding="utf-8")
    assert text.count(old) >= 1, f"{name} no longer has {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def write(root: Path, **modules: str) -> Path:
    """A package whose worker is given; `a__b` is the module `repro.a.b`."""
    for name, text in {"__init__": "", **modules}.items():
        path = root / "repro" / (name.replace("__", "/") if name != "__init__" else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(text, encoding="utf-8")
    return root


def version(folder: Path, **modules: str) -> str:
    """Hash of a package of these modules."""
    shutil.rmtree(folder / "repro", ignore_errors=True)
    return code_version(write(folder, **modules))


def test_a_copy_of_the_package_has_its_hash(copy: Path) -> None:
    assert code_version(copy) == code_version()


def test_moving_and_renaming_a_reached_module_changes_nothing(copy: Path) -> None:
    before = code_version(copy)
    (copy / "repro/objective").mkdir()
    (copy / LOSSES).rename(copy / "repro/objective/terms.py")
    users = 0
    for path in (copy / "repro").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        moved = re.sub(r"\brepro\.train\.losses\b", "repro.objective.terms", text)
        users += moved != text
        path.write_text(moved, encoding="utf-8")
    assert users >= 2
    assert code_version(copy) == before


def test_editing_what_training_does_not_reach_changes_nothing(copy: Path) -> None:
    before = code_version(copy)
    # A validator of data sources, a published record and the module that writes stores.
    edit(copy, "repro/spec.py", "if self.poison.trigger.patch_size > self.image_size", "if False")
    edit(copy, "repro/runs/published.py", "partial.mkdir(parents=True)", "partial.mkdir()")
    edit(copy, "repro/data/images.py", '"""', '"""Another text. ')
    (copy / "repro/report/new.py").write_text("VALUE = 1\n")
    assert code_version(copy) == before


def test_editing_a_reached_line_changes_the_hash(copy: Path) -> None:
    seen = [code_version(copy)]
    for name, old, new in (
        (LOSSES, "return", "1 + 1\n    return"),
        ("repro/train/schedule.py", "/ 2", "/ 3"),
        ("repro/spec.py", 'weights["ssl"] * self', 'weights["ssl"] + self'),
        ("repro/ledger.py", "SAMPLES = 8", "SAMPLES = 9"),
        ("repro/train/views/text.py", "ALPHA = ", "ALPHA = 2 * "),
    ):
        edit(copy, name, old, new)
        seen.append(code_version(copy))
    assert len(set(seen)) == len(seen)


def test_comments_docstrings_and_layout_change_nothing(tmp_path: Path) -> None:
    plain = version(tmp_path, worker="def main(x):\n    return x + 1\n")
    told = '"""Text."""\n\ndef main(x):\n    """More."""\n    # why\n    return (\n        x + 1)\n'
    assert version(tmp_path, worker=told) == plain
    assert version(tmp_path, worker="def main(x):\n    return x + 2\n") != plain


HELPER = "LIMIT = 3\ndef f():\n    return LIMIT\ndef g():\n    return 0\n"


@pytest.mark.parametrize(
    "worker",
    [
        "from repro.helper import f\ndef main():\n    return f()\n",
        "from repro.helper import f as other\ndef main():\n    return other()\n",
        "from repro import helper\ndef main():\n    return helper.f()\n",
        "import repro.helper\ndef main():\n    return repro.helper.f()\n",
        "import repro.helper as h\ndef main():\n    return h.f()\n",
        "def main():\n    from repro.helper import f\n    return f()\n",
        "def main():\n    from repro import helper as h\n    return h.f()\n",
    ],
)
def test_however_a_definition_is_imported_it_is_followed_and_the_hash_is_one(
    tmp_path: Path, worker: str
) -> None:
    first = "from repro.helper import f\ndef main():\n    return f()\n"
    assert version(tmp_path, worker=worker, helper=HELPER) == version(
        tmp_path, worker=first, helper=HELPER
    )
    changed = HELPER.replace("LIMIT = 3", "LIMIT = 4")
    assert version(tmp_path, worker=worker, helper=changed) != version(
        tmp_path, worker=worker, helper=HELPER
    )
    unreached = HELPER.replace("return 0", "return 1")
    assert version(tmp_path, worker=worker, helper=unreached) == version(
        tmp_path, worker=worker, helper=HELPER
    )


WAYS = {
    "a decorator": ("@deco\ndef main(): pass\ndef deco(f): return 1\n", "2"),
    "a default": ("X = 1\ndef main(a=X): pass\n", "2"),
    "a base class": ("class B: x = 1\nclass A(B): pass\ndef main(): A()\n", "2"),
    "a class body": ("def f(): return 1\nclass A:\n    x = f()\ndef main(): A()\n", "2"),
    "an annotation": ("T = 1\nclass A:\n    x: T\ndef main(): A()\n", "2"),
    "a global assigned": ("N = 1\ndef main():\n    global N\n    N = 0\n", "2"),
    "a branch": ("if len('a'):\n    A = 0\nelse:\n    A = 1\ndef main(): return A\n", "2"),
    "an effect of import": ("import os\ndef main(): pass\nos.environ['A'] = '1'\n", "'2'"),
    "another package": ("import p1 as m\ndef main(): return m.f\n", "p2"),
    "beside a comprehension": ("K = 1\ndef main(): return [0 for K in range(3)], K\n", "2"),
}
"""A worker in which what stands for 1 is changed to another value."""


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_reach_a_definition_is_followed(tmp_path: Path, way: str) -> None:
    source, other = WAYS[way]
    one = {"'2'": "'1'", "p2": "p1"}.get(other, "1")
    assert source.count(one) == 1
    changed = source.replace(one, other)
    assert version(tmp_path, worker=source) != version(tmp_path, worker=changed)


def test_a_name_of_a_functions_own_reaches_nothing(tmp_path: Path) -> None:
    worker = "def rows(): return 1\ndef main(rows):\n    return rows\n"
    changed = worker.replace("return 1", "return 2")
    assert version(tmp_path, worker=worker) == version(tmp_path, worker=changed)


def test_helpers_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Two modules with a helper `_read` each: which one is called matters."""
    modules = {
        "a": "def _read(): return 1\ndef fa(): return _read()\n",
        "b": "def _read(): return 2\ndef fb(): return _read()\n",
    }
    first = (
        "from repro.a import _read, fa\n"
        "from repro.b import fb\n"
        "def main(): return _read(), fa(), fb()\n"
    )
    second = first.replace("import _read, fa", "import fa").replace("import fb", "import _read, fb")
    assert version(tmp_path, worker=first, **modules) != version(tmp_path, worker=second, **modules)


def test_every_reached_definition_has_a_label_of_its_own() -> None:
    """Names may occur twice in the package, in two rooms; what they stand for is told apart."""
    reached = reached_definitions()
    labels = labels_of(reached)
    assert len(set(labels.values())) == len(reached) > 200
    assert {"main", "train", "training_step", "total_loss", "Row", "RunSpec"} <= set(
        labels.values()
    )


def test_a_module_used_as_a_value_counts_whole(tmp_path: Path) -> None:
    worker = "from repro import helper\ndef main(): return getattr(helper, 'g')()\n"
    changed = HELPER.replace("return 0", "return 1")
    assert version(tmp_path, worker=worker, helper=HELPER) != version(
        tmp_path, worker=worker, helper=changed
    )
