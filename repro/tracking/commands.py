"""What `python -m repro tracking ACTION` does."""

from __future__ import annotations

from pathlib import Path

from repro.tracking import mirror, server
from repro.tracking.mirror import TrackingError


def tracking(action: str, file: Path | None = None, port: int = server.PORT) -> None:
    """One action on the tracking server: the one of MONGO_URL, else the embedded one."""
    if action in ("dump", "restore") and file is None:
        raise TrackingError(f"{action}: name a file")
    if action == "up":
        print(f"tracking server: {server.up(port)}")
    elif action == "down":
        print("stopped" if server.down() else "no embedded server runs")
    elif action == "reap":
        dead = mirror.reap()
        print("\n".join(f"{folder}: its process is gone, marked DEAD" for folder in dead) or "no killed runs")
    elif action == "status":
        print(f"embedded server: {server.running() or 'not running'}")
        url = mirror.mongo_url() or server.running()
        if url:
            with mirror.connect(url) as database:
                print(f"runs on the server: {database.runs.count_documents({})}")
        print(f"records on disk: {len(list(mirror.records()))}")
    else:
        url = mirror.mongo_url() or server.running()
        if url is None:
            raise TrackingError("no tracking server: set MONGO_URL, or start the embedded one by `python -m repro tracking up`")
        with mirror.connect(url) as database:
            if action == "backfill":
                mirror.reap()
                print(f"{mirror.backfill(database)} records are on the server")
            elif action == "dump":
                assert file is not None
                print(f"{server.dump(database, file)} documents in {file}")
            elif action == "restore":
                assert file is not None
                print(f"{server.restore(database, file)} documents restored")
