"""The connection to the tracking server, and what is wrong with it in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError

from repro.tracking.server.address import DATABASE, TrackingError

TIMEOUT_SECONDS = 3.0
"""Wait for a server that does not answer; training does not wait with it."""


@contextmanager
def connect(url: str) -> Iterator[Database[dict[str, Any]]]:
    """The tracking database of a server, its indexes made. TrackingError if it is not usable.

    `url`: a mongodb:// address; the database is the one in its path, or `sacred`.
    """
    milliseconds = int(TIMEOUT_SECONDS * 1000)
    with ExitStack() as stack:
        try:
            client: MongoClient[dict[str, Any]] = stack.enter_context(
                MongoClient(
                    url,
                    serverSelectionTimeoutMS=milliseconds,
                    connectTimeoutMS=milliseconds,
                    socketTimeoutMS=20_000,
                )
            )
            database = client.get_default_database(DATABASE)
            database.command("ping")
            make_indexes(database)
        except (PyMongoError, ValueError) as error:
            raise TrackingError(f"MONGO_URL: {_explain(error)}") from None
        yield database


def make_indexes(database: Database[dict[str, Any]]) -> None:
    """The indexes without which pushes and joins get slow, and those that keep copies single."""
    database.metrics.create_index([("run_id", 1), ("name", 1)])
    database.runs.create_index("meta.record", unique=True, sparse=True)
    database["fs.chunks"].create_index([("files_id", 1), ("n", 1)], unique=True)
    database["fs.files"].create_index([("filename", 1), ("uploadDate", 1)])


def _explain(error: Exception) -> str:
    """Why a server cannot be used, without repeating its address."""
    if isinstance(error, OperationFailure) and error.code == 18:
        return "the server refuses the user name or password (check both, and authSource)"
    if isinstance(error, OperationFailure) and error.code == 13:
        return (
            "the server wants a user who may read and write the database"
            " (check the user's roles, and that the address names one)"
        )
    if isinstance(error, OperationFailure):
        details = error.details or {}
        return f"the server refuses: {details.get('codeName', error.code)}"
    if isinstance(error, ConfigurationError) and "wire version" in str(error):
        return "the server's version is not supported by this pymongo (use MongoDB 4.2 or later)"
    if isinstance(error, (ConfigurationError, ValueError)):
        return "not a valid address (allowed: mongodb://USER:PASSWORD@HOST:PORT/DATABASE?authSource=admin)"
    return (
        f"the server does not answer ({type(error).__name__}); records are kept on disk,"
        " `python -m repro tracking backfill` copies them"
    )
