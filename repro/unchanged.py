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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import repro
from repro.files import read_json, replace_json
from repro.profile import differing, flat, graph_profile, resolved_profile
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
    sources = {file: file.read_bytes() for file in files if file.exists()}
    # By this module too, which says what a digest is.
    own = Path(__file__).read_bytes()
    hashes = {file: hashlib.sha256(own + source).hexdigest() for file, source in sources.items()}

    # Parsing all files takes most of a second, which every call and every stage would pay.
    cache = code / "__pycache__" / "syntax.json"
    known = read_json(cache) or {}
    new = {
        hashes[file]: _syntax_digest(source)
        for file, source in sources.items()
        if hashes[file] not in known
    }
    if new:
        known |= new
        with suppress(OSError):
            cache.parent.mkdir(exist_ok=True)
            replace_json(cache, known, sync=False)
    return {f"repro/{file.relative_to(code).as_posix()}": known[hashes[file]] for file in sources}


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


class Seen(NamedTuple):
    """What a stage depends on, at one moment."""

    profile: Profile
    files: dict[str, str]
    """Name to digest."""


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

    def look() -> Seen:
        every = [path for part in files for path in (part, *part.rglob("*")) if path.is_file()]
        read = {path.as_posix(): digest(path.read_bytes().hex()) for path in every}
        return Seen(load(profile_name), code_state(code) | read)

    def edits_since(before: Seen) -> str:
        """Files that differ, and fields where `settings` do."""
        now = look()
        names = differing(before.files, now.files)
        if settings(before.profile) != settings(now.profile):
            fields = [flat(seen.profile.model_dump(mode="json")) for seen in (before, now)]
            names += differing(*fields)
        return ", ".join(names)

    start = look()
    # At the start of the call, with the values that DVC has read and will record with the result.
    at_call = json.loads(os.environ[CALL]) if CALL in os.environ else start.files
    code_then = {name: at_call.get(name, "") for name in code_state(code)}
    call = Seen(resolved_profile(profile_name) or start.profile, start.files | code_then)
    if names := edits_since(call):
        raise SpecError(
            f"{names}: changed after the call began, so earlier stages may have had the state "
            "before; call again (where a stage is called alone, `dvc repro -s`, first "
            f"`dvc repro resolve@{profile_name}`)"
        )

    changed = "changed while the stage ran, so its output is that of the state before; run it again"
    try:
        yield start.profile
    except Exception as error:
        # A rank, for example, refuses to start with other code.
        if names := edits_since(start):
            raise SpecError(f"{names}: {changed} ({error})") from error
        raise
    if names := edits_since(start):
        raise SpecError(f"{names}: {changed}")
