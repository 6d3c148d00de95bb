"""Files that appear whole or not at all, locks on them, and hashes that tell whether they still
are.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repro.spec import SpecError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What `flock` raises on a file system that keeps no locks, such as Lustre mounted without them."""

_hashes: dict[tuple[str, int, int, int], str] = {}
"""What `file_sha256` remembers: path, size, modification time and inode to hash."""


@contextmanager
def held(path: Path, message: str = "", *, wait: bool = False) -> Iterator[int]:
    """Hold the lock file `path` inside the block; gives its descriptor.

    While another process holds it: SpecError with `message`, or with `wait` the message is printed,
    if there is one, and the block begins when the other one lets go. The lock ends with the last
    process that has the descriptor open.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise SpecError(message) from None
            if message:
                print(message, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise SpecError(
                f"{path}: the file system grants no locks ({error.strerror}); mount it with them "
                "(Lustre: option `flock`) or move the checkout to one that has them"
            ) from None

        yield lock.fileno()


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out`; rename it to `out` when the block ends well.

    SpecError if another process builds it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    busy = f"{out}: another process is building it; wait for it to end"

    with held(out.with_name(f".{out.name}.lock"), busy):
        # What an earlier build left that was cut short.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial

        replace_folder(out, partial)


def replace_folder(path: Path, partial: Path) -> None:
    """Put the folder `partial` where another one may be, so that readers see one of them or none,
    never a part.
    """
    # Moved away before it is deleted: a kill in between must not leave a part of it.
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old or the new content, never a part (fsync, then
    rename).
    """
    # In the same folder, for a rename is atomic only within one file system.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits.

    Read once in a process as long as path, size, modification time and inode stay; remembered
    nowhere else, for a failing disk or a restored backup may change bytes and keep all of these.
    """
    state = path.stat()
    key = (os.fspath(path.absolute()), state.st_size, state.st_mtime_ns, state.st_ino)
    if key not in _hashes:
        with path.open("rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


SEAL = "seal"
"""Last field of a sealed JSON file: the SHA-256 of the file with zeros in its place."""
_BLANK = "0" * 64


def sealed(content: Mapping[str, object]) -> bytes:
    """JSON text of an object that carries its own hash, so that one changed byte shows without a
    second file.
    """
    text = json.dumps({**content, SEAL: _BLANK}, indent=1) + "\n"
    head, _, tail = text.rpartition(_BLANK)
    return (head + hashlib.sha256(text.encode()).hexdigest() + tail).encode()


def unsealed(data: bytes) -> dict[str, Any]:
    """The object in a sealed JSON text, without its seal; ValueError if a byte is not as it was
    written.
    """
    # The hash is that of the file with zeros where the hash stands.
    head, mark, tail = data.rpartition(f'"{SEAL}": "'.encode())
    told, rest = tail[:64], tail[64:]
    blank = head + mark + _BLANK.encode() + rest
    if not mark or hashlib.sha256(blank).hexdigest().encode() != told:
        raise ValueError("does not bear its own hash")

    content: dict[str, Any] = json.loads(data)
    del content[SEAL]
    return content


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The object in a sealed file; None if there is none, or if it is damaged, which one printed
    line says.
    """
    try:
        return unsealed(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        print(f"warning: {path} is damaged and counts as absent: {error}", flush=True)
        return None
