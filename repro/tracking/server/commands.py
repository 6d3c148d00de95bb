"""`python -m repro tracking ACTION`: the server of MONGO_URL, else the embedded one."""

from __future__ import annotations

from pymongo.errors import PyMongoError

from repro.tracking.server import copies, embedded
from repro.tracking.server.address import TrackingError, embedded_state, embedded_url, server_url


def tracking(action: str, port: int = embedded.PORT) -> None:
    """`up` or `down`: the embedded server; `backfill`: copy all records; `status`: overview."""
    copies.reap()
    if action == "up":
        print(f"tracking server: {embedded.up(port)}")
    elif action == "down":
        print("stopped" if embedded.down() else "no embedded server runs")
    elif action == "status":
        _status()
    else:
        _backfill()


def _backfill() -> None:
    url = server_url()
    if url is None:
        raise TrackingError(
            "no tracking server: set MONGO_URL,"
            " or start the embedded one by `python -m repro tracking up`"
        )
    try:
        with copies.connect(url) as database:
            problems = copies.backfill(database)
    except PyMongoError as error:
        raise TrackingError(
            f"backfill: the server was lost ({type(error).__name__}); run it again"
        ) from None
    copied = len(copies.records()) - len(problems)
    print("\n".join([*problems, f"{copied} records are on the server"]))


def _status() -> None:
    state = embedded_state()
    print(f"embedded server: {embedded_url(state['port']) if state else 'not running'}")
    if url := server_url():
        with copies.connect(url) as database:
            print(f"runs on the server: {database.runs.count_documents({})}")
    print(f"records on disk: {len(copies.records())}")
