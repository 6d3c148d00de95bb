"""The edits that docs/extend.md shows, made in a copy of the package."""

import ast
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^# (\S+)\n")
"""First line of a block: the file that it belongs to."""
ENTRY = re.compile(r"^(\w+) = (?:Literal\[|\{|\()\.\.\., (.*)[\]})]$", re.MULTILINE)
"""An entry beside those that a list has, for instance `TRIGGERS = {..., "checkerboard": ...}`."""


def copy_of_package(root: Path, copy: Path) -> None:
    """What the stages read of the repository, without results; large files are links."""
    ignored = shutil.ignore_patterns("__pycache__", "classnames")
    for name in ("repro", "specs"):
        shutil.copytree(root / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "params.yaml"):
        shutil.copy(root / name, copy / name)
    (copy / "specs/classnames").symlink_to(root / "specs/classnames")
    if (root / "data/npm").is_dir():  # verified before use like a download
        (copy / "data").mkdir()
        (copy / "data/npm").symlink_to(root / "data/npm")


def sections(page: Path) -> dict[str, list[tuple[str, str]]]:
    """Heading of every extension with its blocks: file and text."""
    found = {}
    for part in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, content = part.partition("\n")
        blocks = [textwrap.dedent(match[3]) for match in BLOCK.finditer(content)]
        if named := [
            (match[1], text[match.end() :]) for text in blocks if (match := FILE.match(text))
        ]:
            found[heading] = named
    return found


def extend(copy: Path, blocks: list[tuple[str, str]]) -> set[str]:
    """Make the edits; the files that they changed."""
    before = contents(copy)
    for name, text in blocks:
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(_edited(old, text), encoding="utf-8")
    after = contents(copy)
    return {name for name in after if after[name] != before.get(name)}


def contents(copy: Path) -> dict[str, bytes]:
    """Every file that an extension may change."""
    files = [path for name in ("repro", "specs") for path in (copy / name).rglob("*")]
    return {
        path.relative_to(copy).as_posix(): path.read_bytes()
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }


def _edited(old: str, text: str) -> str:
    return _with_entries(old, text) if old else text


def _with_entries(old: str, text: str) -> str:
    """Imports come first, other definitions before the list that has the entry."""
    entries = list(ENTRY.finditer(text))
    rest = ENTRY.sub("", text).strip()
    imports = "".join(
        f"{line}\n" for line in re.findall(r"^(?:from|import) .*$", rest, re.MULTILINE)
    )
    rest = re.sub(r"^(?:from|import) .*\n*", "", rest, flags=re.MULTILINE)
    for number, entry in enumerate(entries):
        *_, (start, end) = _statement(old, entry[1])
        listed = old[start : end - 1].rstrip()
        comma = " " if listed.endswith(",") else ", "
        definitions = f"{rest}\n\n\n" if rest and number == 0 else ""
        old = old[:start] + definitions + listed + comma + entry[2] + old[end - 1 :]
    assert entries, text
    lines = old.splitlines(keepends=True)
    first = next(n for n in ast.parse(old).body if isinstance(n, ast.Import | ast.ImportFrom))
    return "".join([*lines[: first.end_lineno], imports, *lines[first.end_lineno :]])


def _statement(source: str, name: str) -> Iterator[tuple[int, int]]:
    """Where the class, or the assignment, of this name begins and ends."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = {getattr(node, "name", None), *(getattr(of, "id", None) for of in targets)}
        if name in names and node.end_lineno and node.end_col_offset is not None:
            yield starts[node.lineno - 1], starts[node.end_lineno - 1] + node.end_col_offset
