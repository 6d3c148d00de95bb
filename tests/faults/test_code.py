"""No way from data to execution in the package's syntax, and no secret in its files."""

from __future__ import annotations

import ast
import re
import subprocess
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


UNSAFE = """import pickle
from yaml import load
builtins.exec(x)
os.system(x)
tar.extractall(x)
subprocess.run(x, shell=y)
torch.load(x, weights_only=safe)
np.load(x)
YAML(typ='unsafe')
jinja2.Environment(loader=x)"""


def test_what_would_run_data_is_seen() -> None:
    assert [len(list(unsafe(ast.parse(line)))) for line in UNSAFE.splitlines()] == [1] * 10


SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22,})\b",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "a PyPI or npm token": r"\b(?:pypi-AgE[\w-]{50,}|npm_[A-Za-z0-9]{36})\b",
    "a Slack token": r"\bxox[abprs]-[\w-]{10,}",
    "a Google key": r"\bAIza[\w-]{35}\b",
    "a key by its name": r"(?i)\b\w*(?:api_?key|secret|token|passw(?:or)?d)\w*[\"']?\s*[:=]\s*[\"'](?=[^\"']*\d)[\w+/=-]{20,}[\"']",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@{}$<>\"']+:(?![\s@]*@)(?!\$)(?!\{)[^\s/@{}<>\"']{6,}@",
}
"""What a secret looks like.

The authors' repository has a key of the second last kind in two files.
"""
PLANTED = re.compile(r"USER:PASSWORD|s3cret|pl4nted|example|user:pass|:password@|:secret@")
"""Values that tests and documentation use on purpose."""


def secrets(text: str) -> list[str]:
    """Kinds of secrets in a text; planted ones do not count."""
    return [
        kind
        for kind, pattern in SECRETS.items()
        if any(not PLANTED.search(match[0]) for match in re.finditer(pattern, text))
    ]


def test_no_file_of_the_repository_holds_a_secret(root: Path) -> None:
    if (root / ".git").exists():
        command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        names = subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    else:  # an unpacked archive
        names = [
            str(path.relative_to(root))
            for folder in ("repro", "tests", "specs", "docs")
            for path in (root / folder).rglob("*")
        ]
    paths = [root / name for name in names if name and (root / name).is_file()]
    assert len(paths) > 100
    assert {
        path.name: found
        for path in paths
        if (found := secrets(path.read_bytes().decode("utf-8", "replace")))
    } == {}


def test_a_secret_would_be_seen() -> None:
    # In two parts, so that this file holds none.
    texts = [
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + "a1" * 18,
        "hf_" + "Ab1" * 11,
        "npm_" + "a1" * 18,
        "xoxb-" + "1234567890",
        "AIza" + "a" * 35,
        'WANDB_API_KEY = "' + "0a" * 20 + '"',
        "mongodb://me:" + "hunter22@db.local/x",
    ]
    assert [len(secrets(f"x = 1\n{text}\n")) for text in texts] == [1] * 9
