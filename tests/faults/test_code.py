"""No way from data to execution in the package's syntax."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

RUN_WHAT_THEY_READ = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "jsonpickle",
    "marshal",
    "shelve",
    "yaml",
    "xml",
}
"""Modules that the package must not import."""
RUN_WHAT_THEY_GET = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "runpy.run_path",
    "importlib.import_module",
    "torch.jit.load",
    "torch.hub.load",
    "pd.read_pickle",
    "pandas.read_pickle",
    "shutil.unpack_archive",
    "tempfile.mktemp",
}
"""Calls that it must not make, besides any `.extractall`, which writes where an archive says."""
SAFE_BY: dict[str, tuple[str, object]] = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "YAML": ("typ", "safe"),
}
"""Calls that need one argument, written out."""


def unsafe(tree: ast.Module) -> Iterator[str]:
    """What in a module could run data, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            yield from (
                f"{node.lineno}: import {name}"
                for name in names
                if name.partition(".")[0] in RUN_WHAT_THEY_READ
            )
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {
                word.arg: word.value.value if isinstance(word.value, ast.Constant) else ...
                for word in node.keywords
            }
            if name.removeprefix("builtins.") in RUN_WHAT_THEY_GET or name.endswith(".extractall"):
                yield f"{node.lineno}: {name}"
            if given.get("shell", False) is not False:
                yield f"{node.lineno}: {name} with shell"
            # The round-trip loader makes no objects either, and knows the lines of what it reads.
            lines_too = name == "YAML" and given.get("typ") == "rt"
            if (
                name in SAFE_BY
                and given.get(SAFE_BY[name][0]) != SAFE_BY[name][1]
                and not lines_too
            ):
                yield f"{node.lineno}: {name} without {SAFE_BY[name][0]}={SAFE_BY[name][1]!r}"
            escaped = given.get("autoescape") is True or "finalize" in given
            passed_on = None in given  # **options: the callers are looked at instead
            environments = ("jinja2.Environment", "jinja_environment")
            if name in environments and not escaped and not passed_on:
                yield f"{node.lineno}: {name} without autoescape=True, or a filter of all that it prints"


def test_nothing_in_the_package_runs_data(root: Path) -> None:
    trees = {
        path.relative_to(root): ast.parse(path.read_bytes())
        for path in (root / "repro").rglob("*.py")
    }
    assert trees

    found = {path.as_posix(): list(unsafe(tree)) for path, tree in trees.items()}
    assert {path: lines for path, lines in found.items() if lines} == {}
