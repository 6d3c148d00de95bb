"""Files that appear whole or not at all, locks on them, and their hashes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repro.spec import SpecError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What `flock` raises on a file system that keeps no locks, such as Lustre mounted without them."""

_hashes: dict[tuple[str, int, int, int], str] = {}
"""What `file_sha256` remembers: path, size, modification time and inode to hash."""


@contextmanager
def held(path: Path, message: str = "", *, wait: bool = False) -> Iterator[int]:
    """Hold the lock file `path` inside the block; gives its descriptor.

    While another process holds it: SpecError with `message`, or with `wait` the message is printed, if there is one, and
    the block begins when the other one lets go. The lock ends with the last process that has the descriptor open.
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
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old or the new content, never a part (fsync, then rename)."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits.

    Read once in a process as long as path, size, modification time and inode stay; remembered nowhere else, for a
    failing disk or a restored backup may change bytes and keep all of these.
    """
    state = path.stat()
    key = (os.fspath(path.absolute()), state.st_size, state.st_mtime_ns, state.st_ino)
    if key not in _hashes:
        with path.open("rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]
