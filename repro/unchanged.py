"""State of code and settings, so that no result is credited to an edit made while a stage ran.

DVC hashes the dependencies of a stage when its command has ended. An edit during the command would
be taken for the state that made the output. Every stage therefore runs inside `unchanged`.

An edit between two stages would join results of two states. `reproduce` therefore writes the state
of the code at its start into a file, which the environment variable CALL names.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import repro
from repro.profile import load_profile, resolved_profile
from repro.spec import Profile, SpecError, digest

CODE = Path(repro.__file__).resolve().parent
DIGITS = ("data", "evaluate", "train", "ledger.py", "names.py", "spec.py", "worker.py")
"""Packages and modules of `repro` that compute rows, bits and weights from stores."""
CALL = "REPRO_CODE_AT_CALL"


def code_digest(code: Path = CODE) -> str:
    """Digest of DIGITS, 16 hex digits; `code` is the folder of the package."""
    return digest(sorted(code_state(DIGITS, code).items()))


def code_state(names: Sequence[str], code: Path = CODE) -> dict[str, str]:
    """File name to digest, for the Python files of packages and modules of `repro`."""
    files = []
    for name in names:
        files += [code / name] if name.endswith(".py") else sorted((code / name).rglob("*.py"))
    return {
        f"repro/{file.relative_to(code).as_posix()}": _syntax_digest(file.read_bytes())
        for file in files
        if file.exists()
    }


@lru_cache(maxsize=1024)
def _syntax_digest(source: bytes) -> str:
    """Digest of a module without comments, docstrings and layout; equal in all Python versions."""
    try:
        tree = _syntax(ast.parse(source))
    except (SyntaxError, ValueError):
        # A file in the middle of an edit is another file.
        return hashlib.sha256(source).hexdigest()[:16]
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()[:16]


def _syntax(node: Any) -> Any:
    if isinstance(node, list):
        return [_syntax(item) for item in node if not _is_text(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    # Newer versions of Python have more fields, which are empty in code for older ones.
    fields = [[name, _syntax(v)] for name, v in ast.iter_fields(node) if v not in (None, [])]
    return [type(node).__name__, *fields]


def _is_text(node: Any) -> bool:
    """Whether a statement is a bare string, such as a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@contextmanager
def unchanged(
    profile_name: str,
    settings: Callable[[Profile], object],
    code: Sequence[str],
    files: Sequence[Path] = (),
) -> Iterator[Profile]:
    """Load the profile for a stage, and raise SpecError at the end of the block if an edit changed
    what the stage depends on, or at its start if the code is not that at the start of `reproduce`.

    `settings` selects what the stage depends on of a profile, `code` names packages and modules of
    `repro`, `files` other files, or folders of files. The output of the stage stays where it is.
    """

    def state() -> dict[str, str]:
        found = code_state(code)
        for path in files:
            inner = sorted(path.rglob("*")) if path.is_dir() else [path]
            found |= {f.as_posix(): digest(f.read_bytes().hex()) for f in inner if f.is_file()}
        return found

    profile, before = load_profile(profile_name), state()
    read_by_dvc = resolved_profile(profile_name)
    if read_by_dvc is not None and settings(read_by_dvc) != settings(profile):
        raise SpecError(
            f"specs of {profile_name} changed after DVC had read them: "
            f"{', '.join(_changes(read_by_dvc, profile))}; call DVC again"
        )
    if CALL in os.environ:
        at_call = json.loads(Path(os.environ[CALL]).read_bytes())
        if newer := [name for name in code_state(code) if before[name] != at_call.get(name)]:
            raise SpecError(
                f"{', '.join(newer)}: changed after the call began, so earlier stages may have "
                "run the code before; call again"
            )

    def edited() -> str:
        now, after = load_profile(profile_name), state()
        changed = [
            name for name in sorted({*before, *after}) if before.get(name) != after.get(name)
        ]
        if settings(now) != settings(profile):
            changed += _changes(profile, now)
        if not changed:
            return ""
        return (
            f"{', '.join(changed)}: changed while the stage ran, so its output is that of the "
            "state before; run the stage again"
        )

    try:
        yield profile
    except Exception as error:
        # A rank, for example, refuses to start with other code.
        if message := edited():
            raise SpecError(f"{message} ({error})") from error
        raise
    if message := edited():
        raise SpecError(message)


def _changes(before: Profile, after: Profile) -> list[str]:
    """Dotted names of the values that differ, with both values."""
    old, new = (_leaves(each.model_dump(mode="json")) for each in (before, after))
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return [f"{name} ({old.get(name)} -> {new.get(name)})" for name in names]


def _leaves(content: Any, name: str = "") -> dict[str, str]:
    """Dotted name to value, as JSON."""
    if not isinstance(content, dict):
        return {name: json.dumps(content)}
    found: dict[str, str] = {}
    for key, value in content.items():
        found |= _leaves(value, f"{name}.{key}" if name else key)
    return found
