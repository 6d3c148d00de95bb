"""Files that appear whole or not at all, locks, and hashes of files."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from repro.spec import SpecError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a file system without locks answers."""


@contextmanager
def held(path: Path, message: str = "", *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` inside the block.

    While another process holds it: SpecError with `message`, or with `wait` the message is printed,
    if there is one, and the block begins when the other one lets go.
    """
    lock = _lock(path)
    try:
        try:
            # Not at once: `is_held` holds it for a moment to see whether anybody does.
            lock.acquire(timeout=0.5)
        except Timeout:
            if not wait:
                raise SpecError(message) from None
            if message:
                print(message, flush=True)
            lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise SpecError(
            f"{path}: the file system grants no locks ({error.strerror}); mount it with them "
            "(Lustre: option `flock`) or move the checkout to one that has them"
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file, on this node or on one that shares its locks; False
    where there is no such file.
    """
    try:
        if path.exists():
            _lock(path).acquire(blocking=False).lock.release()
    except Timeout:
        return True
    except OSError:
        pass
    return False


def _lock(path: Path) -> FileLock:
    # A lock that is a file's existence would outlive its process.
    return FileLock(path, fallback_to_soft=False)


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out`; rename it to `out` when the block ends well.

    SpecError if another process builds it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{out}: another process is building it; wait for it to end"
    with held(out.with_name(f".{out.name}.lock"), busy), replacing(out) as partial:
        yield partial


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out`, and rename it to `out` when the block ends well: readers
    see the old folder or the new one, or for a moment none, never a part.
    """
    partial = out.with_name(f".{out.name}.partial")
    # What an earlier build left that was cut short.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial

    # Moved away before it is deleted: a kill in between must not leave a part of it.
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def replace_file(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file so that readers see the old or the new content, never a part.

    Without `sync` (fsync) a power cut may lose both; for files that nobody resumes from.
    """
    # In the same folder, for a rename is atomic only within one file system.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        # On a full disk nothing is left behind.
        partial.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits.

    A process reads a file once as long as path, size, modification time and inode stay.
    """
    state = path.stat()
    return _sha256(path.absolute(), state.st_size, state.st_mtime_ns, state.st_ino)


@cache
def _sha256(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is none, or, with a warning, if it is torn."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("not an object")
        return content
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        print(f"warning: {path} is damaged and counts as absent: {error}", flush=True)
        return None


def replace_json(path: Path, content: Mapping[str, object], *, sync: bool = True) -> None:
    """`replace_file` with the JSON text of an object."""
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode(), sync=sync)
