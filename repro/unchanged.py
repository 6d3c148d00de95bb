"""State of code and settings, so that no result is credited to an edit made while a stage ran.

DVC hashes the dependencies of a stage when its command has ended. An edit during the command would
be taken for the state that made the output. Every stage therefore runs inside `unchanged`.

An edit between two stages would join results of two states. `reproduce` therefore writes the state
of the code at its start into the environment variable CALL.
"""

import ast
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import repro
from repro.profile import graph_profile, resolved_profile
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
    """Digest of a module without comments, docstrings, layout and the texts of `names.label`; equal
    in all Python versions.
    """
    # A file in the middle of an edit counts as it is.
    with suppress(SyntaxError, ValueError):
        source = json.dumps(_syntax(ast.parse(source))).encode()
    return hashlib.sha256(source).hexdigest()[:16]


def _syntax(node: Any) -> Any:
    if isinstance(node, list):
        return [_syntax(item) for item in node if not _is_text(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    match node:
        case ast.Call(ast.Name("label"), [ast.Constant(str())]):
            return "label"
    # Newer versions of Python have more fields, which are empty in code for older ones.
    fields = [[name, _syntax(v)] for name, v in ast.iter_fields(node) if v not in (None, [])]
    return [type(node).__name__, *fields]


def _is_text(node: Any) -> bool:
    """Whether a statement is a bare string, such as a docstring."""
    match node:
        case ast.Expr(ast.Constant(str())):
            return True
    return False


@contextmanager
def unchanged(
    profile_name: str,
    settings: Callable[[Profile], object],
    code: Sequence[str],
    files: Sequence[Path] = (),
    load: Callable[[str], Profile] = graph_profile,
) -> Iterator[Profile]:
    """Load the profile for a stage, and raise SpecError at the end of the block if an edit changed
    what the stage depends on, or at its start if the code is not that at the start of `reproduce`.

    `settings` selects what the stage depends on of a profile, `code` names packages and modules of
    `repro`, `files` other files, or folders of files. `load` reads the profile: a study takes no
    overrides of params.yaml. The output of the stage stays where it is.
    """

    def state() -> dict[str, str]:
        found = code_state(code)
        for path in files:
            found |= {
                file.as_posix(): digest(file.read_bytes().hex())
                for file in (path, *path.rglob("*"))
                if file.is_file()
            }
        return found

    def edits(profile: Profile, then: Mapping[str, str]) -> str:
        """Files that differ from `then`, and fields from those of `profile` if `settings` do."""
        present = load(profile_name)
        names = _different(then, state())
        if settings(present) != settings(profile):
            names += _different(*(leaves(p.model_dump(mode="json")) for p in (profile, present)))
        return ", ".join(names)

    profile, before = load(profile_name), state()
    at_call = json.loads(os.environ[CALL]) if CALL in os.environ else before
    # With the values that DVC has read, and will record with the result.
    began = before | {name: at_call.get(name, "") for name in code_state(code)}
    if names := edits(resolved_profile(profile_name) or profile, began):
        raise SpecError(
            f"{names}: changed after the call began, so earlier stages may have had the state "
            "before; call again (where a stage is called alone, `dvc repro -s`, first "
            f"`dvc repro resolve@{profile_name}`)"
        )
    said = "changed while the stage ran, so its output is that of the state before; run it again"
    try:
        yield profile
    except Exception as error:
        # A rank, for example, refuses to start with other code.
        if names := edits(profile, before):
            raise SpecError(f"{names}: {said} ({error})") from error
        raise
    if names := edits(profile, before):
        raise SpecError(f"{names}: {said}")


def _different(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Names whose values differ, or that one of both lacks."""
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def leaves(content: Any, name: str = "") -> dict[str, str]:
    """Dotted name to value, as JSON."""
    if not isinstance(content, dict):
        return {name: json.dumps(content)}
    found: dict[str, str] = {}
    for key, value in content.items():
        found |= leaves(value, f"{name}.{key}" if name else key)
    return found
