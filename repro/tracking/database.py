"""The tracking server as an address: where it comes from, how it is reached, and what is wrong with it, in words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError

DATABASE = "sacred"
TIMEOUT_SECONDS = 3.0
"""Wait for a server that does not answer; training does not wait with it."""


class TrackingError(RuntimeError):
    """A tracking server that cannot be used; the message says why and what to do, without its password."""


@contextmanager
def connect(url: str) -> Iterator[Database[dict[str, Any]]]:
    """The tracking database of a server, its indexes made. TrackingError if it is not usable.

    `url`: a mongodb:// address; the database is the one in its path, or `sacred`.
    """
    milliseconds = int(TIMEOUT_SECONDS * 1000)
    with ExitStack() as stack:
        try:
            client: MongoClient[dict[str, Any]] = stack.enter_context(
                MongoClient(url, serverSelectionTimeoutMS=milliseconds, connectTimeoutMS=milliseconds, socketTimeoutMS=20_000)
            )
            database = client.get_default_database(DATABASE)
            database.command("ping")
            database.metrics.create_index([("run_id", 1), ("name", 1)])
            database.runs.create_index("meta.record", unique=True, sparse=True)
        except (PyMongoError, ValueError) as error:
            raise TrackingError(f"MONGO_URL: {_explain(error)}") from None
        yield database


def _explain(error: Exception) -> str:
    """Why a server cannot be used, without repeating its address."""
    if isinstance(error, OperationFailure) and error.code == 18:
        return "the server refuses the user name or password (check both, and authSource)"
    if isinstance(error, OperationFailure) and error.code == 13:
        return "the server wants a user who may read and write the database (check the user's roles, and that the address names one)"
    if isinstance(error, OperationFailure):
        return f"the server refuses: {error.details.get('codeName', error.code) if error.details else error.code}"
    if isinstance(error, ConfigurationError) and "wire version" in str(error):
        return "the server's version is not supported by this pymongo (use MongoDB 4.2 or later)"
    if isinstance(error, (ConfigurationError, ValueError)):
        return "not a valid address (allowed: mongodb://USER:PASSWORD@HOST:PORT/DATABASE?authSource=admin)"
    return f"the server does not answer ({type(error).__name__}); records are kept on disk, `python -m repro tracking backfill` copies them"


def mongo_url() -> str | None:
    """Address of the tracking server: MONGO_URL, or the content of the file that MONGO_URL_FILE names."""
    if path := os.environ.get("MONGO_URL_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise TrackingError(f"MONGO_URL_FILE: {path}: {reason} (allowed: a file that holds one mongodb:// address)") from None
    return os.environ.get("MONGO_URL") or None


def with_database(url: str) -> str:
    """The address with the database in its path, for programs that look nowhere else."""
    base, _, options = url.partition("?")
    scheme, _, rest = base.partition("://")
    servers, _, name = rest.partition("/")
    if not name and "@" in servers and "authSource=" not in options:  # the path would change where the user is looked for
        options = "&".join(filter(None, (options, "authSource=admin")))
    return f"{scheme}://{servers}/{name or DATABASE}" + (f"?{options}" if options else "")
