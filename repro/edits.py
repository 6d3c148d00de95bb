"""Edits while a stage runs.

DVC hashes the dependencies of a stage when its command has ended, and would take an edit during the
command for the state that made the output. A stage therefore refuses it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import repro
from repro.files import file_sha256
from repro.profile import differing
from repro.spec import SpecError, digest

CODE = Path(repro.__file__).resolve().parent
DIGITS = ("data", "evaluate", "train", "ledger.py", "names.py", "spec.py", "worker.py")
"""Packages and modules of `repro` that compute rows and weights from stores."""


@contextmanager
def unedited(*read: Path) -> Iterator[None]:
    """SpecError at the end of the block if a file of the package, or in what else the stage `read`,
    was changed in it; what the stage has made stays where it is.
    """
    before = _contents(CODE, *read)
    try:
        yield
    finally:
        if edited := differing(before, _contents(CODE, *read)):
            raise SpecError(
                f"{', '.join(edited)}: changed while the stage ran, so its output may be of two "
                "states; run it again"
            )


def code_digest() -> str:
    """Digest of DIGITS, 16 hex digits: one run is of one state of them, from its first step on."""
    return digest(_contents(*(CODE / name for name in DIGITS)))


def _contents(*places: Path) -> dict[str, str]:
    """SHA-256 of every file at the places by its path; that of the package begins with `repro/`."""
    files = [file for place in places for file in (place, *place.rglob("*")) if file.is_file()]
    names = [file.relative_to(CODE.parent) if file.is_relative_to(CODE) else file for file in files]
    return {
        name.as_posix(): file_sha256(file)
        for name, file in zip(names, files, strict=True)
        if file.suffix != ".pyc"
    }
