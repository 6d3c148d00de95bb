"""Address of the tracking server: MONGO_URL or MONGO_URL_FILE, else the embedded server if it runs.

No database driver is imported here, so that a batch of runs without a server starts faster.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

DATABASE = "sacred"
LOOPBACK = "127.0.0.1"
HOME = Path("work/tracking")
"""Folder of the embedded server."""


class TrackingError(RuntimeError):
    """A server that cannot be used; the message has reason and remedy, and no password."""


def server_url() -> str | None:
    """Address of the server for copies of records; None if there is none."""
    if url := mongo_url():
        return url
    state = embedded_state()
    return embedded_url(state["port"]) if state else None


def mongo_url() -> str | None:
    """MONGO_URL, or the content of the file in MONGO_URL_FILE."""
    if path := os.environ.get("MONGO_URL_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise TrackingError(
                f"MONGO_URL_FILE: {path}: {reason}"
                " (allowed: a file that holds one mongodb:// address)"
            ) from None
    return os.environ.get("MONGO_URL") or None


def embedded_state() -> dict[str, int] | None:
    """`pid` and `port` of the embedded server of this folder, if it lives."""
    try:
        state = json.loads((HOME / "server.json").read_bytes())
        command = Path(f"/proc/{state['pid']}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return dict(state) if str((HOME / "data").resolve()).encode() in command else None


def embedded_url(port: int) -> str:
    """Address of an embedded server."""
    return f"mongodb://{LOOPBACK}:{port}/{DATABASE}"


def with_database(url: str) -> str:
    """The address with the database in its path, as Omniboard needs it."""
    base, _, options = url.partition("?")
    scheme, _, rest = base.partition("://")
    servers, _, name = rest.partition("/")
    # A database in the path would change the database that holds the users.
    if not name and "@" in servers and "authSource=" not in options:
        options = "&".join(filter(None, (options, "authSource=admin")))
    address = f"{scheme}://{servers}/{name or DATABASE}"
    return f"{address}?{options}" if options else address
