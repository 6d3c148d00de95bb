"""What `python -m repro tracking ACTION` does."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from pymongo.errors import PyMongoError

from repro.tracking.observer import RECORDS
from repro.tracking.server import copies, embedded
from repro.tracking.server.address import TrackingError, embedded_state, embedded_url, server_url
from repro.tracking.server.database import connect


def tracking(action: str, file: Path | None = None, port: int = embedded.PORT) -> None:
    """One action on the tracking server: the one of MONGO_URL, else the embedded one."""
    if action == "up":
        print(f"tracking server: {embedded.up(port)}")
    elif action == "down":
        print("stopped" if embedded.down() else "no embedded server runs")
    elif action == "reap":
        lines = [f"{folder}: its process is gone, marked DEAD" for folder in copies.reap()]
        print("\n".join(lines) or "no killed runs")
    elif action == "status":
        _status()
    else:
        _with_server(action, file)


def _with_server(action: str, file: Path | None) -> None:
    """Actions that need a server that runs."""
    url = server_url()
    if url is None:
        raise TrackingError(
            "no tracking server: set MONGO_URL,"
            " or start the embedded one by `python -m repro tracking up`"
        )
    if action != "backfill" and file is None:
        raise TrackingError(f"{action}: name a file")
    try:
        with connect(url) as database:
            if action == "backfill":
                copies.reap()
                problems = copies.backfill(database)
                copied = len(list(copies.records())) - len(problems)
                print("\n".join([*problems, f"{copied} records are on the server"]))
            elif file is not None and action == "dump":
                print(f"{embedded.dump(database, file)} documents in {file}")
            elif file is not None:
                print(f"{embedded.restore(database, file)} documents restored")
    except PyMongoError as error:
        raise TrackingError(
            f"{action}: the server was lost ({type(error).__name__}); run it again"
        ) from None


def _status() -> None:
    """Servers, records, and what tracking cost the runs."""
    state = embedded_state()
    print(f"embedded server: {embedded_url(state['port']) if state else 'not running'}")
    if url := server_url():
        with connect(url) as database:
            print(f"runs on the server: {database.runs.count_documents({})}")
    print(f"records on disk: {len(list(copies.records()))}")
    for profile, shares in overhead().items():
        total = sum(spent for spent, _ in shares) / sum(seconds for _, seconds in shares)
        worst = max(spent / seconds for spent, seconds in shares)
        print(
            f"tracking took {total:.2%} of one core during {len(shares)} runs of {profile};"
            f" at most {worst:.2%}"
        )


def overhead(root: Path = RECORDS) -> dict[str, list[tuple[float, float]]]:
    """By profile: processor seconds that tracking took for each run, and the run's wall seconds."""
    found = defaultdict(list)
    for folder in copies.records(root):
        try:
            run = json.loads((folder / "run.json").read_bytes())
            info = json.loads((folder / "info.json").read_bytes())
            spent, seconds = float(info["tracking_seconds"]), float(run["result"]["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            # It goes on, failed, or its worker told nothing.
            continue

        if seconds > 0:
            found[folder.parent.name].append((spent, seconds))
    return dict(found)
