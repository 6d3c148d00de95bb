"""Records of runs, and their copies on servers: embedded, a team's, and through outages."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from repro.files import replace_file
from repro.tracking import observer
from repro.tracking.server import copies, embedded
from repro.tracking.server.copies import connect, tracking
from repro.tracking.server.embedded import (
    TrackingError,
    embedded_state,
    mongo_url,
    server_url,
    with_database,
)
from tests.support.processes import wait_for
from tests.support.tracking import (
    free_port,
    kill_server,
    needs_server,
    port_of,
    read,
    record,
    steps_on,
    team_server,
)


def test_a_write_that_fails_costs_no_point_of_the_record(here: Path, monkeypatch, capsys) -> None:
    """Sacred's own observer is dropped at the first error; here also an artifact is missing."""
    calls = 0

    def fails_at_first(path: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if 3 < calls < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(path, content)

    monkeypatch.setattr(observer, "replace_file", fails_at_first)
    folder = record(points=20, pause=0.05)
    assert read(folder / "metrics.json")["loss"]["steps"] == list(range(20))
    assert read(folder / "run.json")["status"] == "COMPLETED"
    assert (folder / "spec.json").exists()
    messages = capsys.readouterr().err
    assert "No space left on device" in messages
    assert "missing.json not written" in messages


def test_points_are_appended_until_the_run_ends(here: Path) -> None:
    """A record of days would be megabytes at every flush; a torn last line costs its points."""
    writer = observer.FileObserver(here)
    writer.dir = str(here)

    def log(step: int) -> None:
        points = {"values": [step / 2], "steps": [step], "timestamps": [datetime(2026, 1, 1)]}
        writer.log_metrics({"loss": points}, {})

    log(1)
    first = (here / observer.POINTS).read_bytes()
    log(2)
    both = (here / observer.POINTS).read_bytes()
    assert both.startswith(first)
    assert both.count(b"\n") == 2
    (here / observer.POINTS).write_bytes(both + b'{"loss": {"val')
    assert observer.points_of(here)["loss"]["steps"] == [1, 2]
    writer.save_json({"status": "COMPLETED"}, "run.json")
    assert not (here / observer.POINTS).exists()
    assert observer.points_of(here)["loss"]["values"] == [0.5, 1.0]


def test_on_a_disk_that_stays_full_the_points_stay_where_they_are(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = observer.FileObserver(here)
    writer.dir = str(here)
    points = {"values": [0.5], "steps": [1], "timestamps": [datetime(2026, 1, 1)]}
    writer.log_metrics({"loss": points}, {})
    monkeypatch.setattr(observer, "replace_file", fails)
    writer.save_json({"status": "COMPLETED"}, "run.json")
    assert observer.points_of(here)["loss"]["values"] == [0.5]


def test_only_records_without_a_process_are_dead_whatever_their_clock(here: Path, capsys) -> None:
    folder = record(watch=lambda folder: copies.reap())
    assert read(folder / "run.json")["status"] == "COMPLETED"
    assert "DEAD" not in capsys.readouterr().out, "the process lives"
    run = read(folder / "run.json") | {"status": "RUNNING", "heartbeat": "1999-01-01T00:00:00"}
    (folder / "run.json").write_text(json.dumps(run))
    copies.reap()
    assert read(folder / "run.json")["status"] == "DEAD"


def test_status_counts_records(here: Path, capsys) -> None:
    record()
    tracking("status", embedded.PORT)
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert lines == ["embedded server: not running", "records on disk: 1"]


@needs_server
class TestCopies:
    """With the embedded server."""

    def test_a_run_is_copied_while_it_goes_on_through_an_outage(self, url, database) -> None:
        """By its files alone: what a lost server missed, the next copy brings."""
        copied: dict[Path, object] = {}

        def outage(folder: Path) -> None:
            copied[folder] = None
            copies.backfill(database, copied)
            assert database.runs.find_one({})["status"] == "RUNNING"
            kill_server()

        folder = record(points=40, watch=outage)
        embedded.up(port_of(url))
        copied[record(profile="next")] = None
        copies.backfill(database, copied)
        assert all(copies.state_of(path) == state for path, state in copied.items())
        run = database.runs.find_one({})
        assert run["status"] == "COMPLETED"
        assert run["config"]["learning_rate"] == 1e-3
        assert run["result"] == {"accuracy": 0.5}
        assert "training" in run["captured_out"]
        assert run["meta"]["folder"] == folder.as_posix()
        assert {item["name"] for item in run["info"]["metrics"]} == {"loss", "accuracy"}
        assert steps_on(database) == [list(range(40)), list(range(5))]

    def test_backfill_brings_all_to_a_new_server_once_and_keeps_notes(self, url, capsys) -> None:
        for points in (3, 4, 5):
            record(points=points)
        broken = record()
        (broken / "config.json").write_text("{torn")
        kill_server()
        shutil.rmtree(embedded.HOME)
        with copies.connect(embedded.up(free_port())) as database:
            sizes = []
            for notes in ("odd", None):
                tracking("backfill", embedded.PORT)
                names = database.list_collection_names()
                sizes.append({name: database[name].count_documents({}) for name in names})
                if notes:
                    database.runs.update_one({"_id": 2}, {"$set": {"omniboard": {"notes": notes}}})
            assert sizes[0] == sizes[1]
            assert steps_on(database) == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
            assert database.runs.find_one({"_id": 2})["omniboard"] == {"notes": "odd"}
        output = capsys.readouterr().out
        assert f"{broken}: cannot be read" in output
        assert "3 records are on the server" in output

    def test_a_killed_run_is_dead_with_its_points(self, root: Path, database) -> None:
        code = (
            "from tests.support.tracking import record\n"
            "record(points=10_000, pause=0.05, watch=lambda folder: print(folder, flush=True))\n"
        )
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(root)},
        ) as process:
            assert process.stdout is not None
            folder = Path(process.stdout.readline().strip())
            wait_for((folder / observer.POINTS).exists)
            copies.backfill(database)
            assert database.runs.find_one({})["status"] == "RUNNING"
            process.kill()
        copies.reap()
        copies.backfill(database)
        assert database.runs.find_one({})["status"] == "DEAD"
        assert steps_on(database)[0][0] == 0


USER, SECRET = "someone", "pl4nted-s3cret"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("mongodb://user:s3cret@127.0.0.1:1/x", "does not answer"),
        ("postgres://user:s3cret@host", "not a valid address"),
        ("mongodb://user:s3cret:x@host/?a", "not a valid address"),
        ("s3cret", "does not answer"),
    ],
)
def test_a_wrong_address_is_explained_without_the_password(address, message, monkeypatch) -> None:
    monkeypatch.setattr(copies, "TIMEOUT_MILLISECONDS", 300)
    with pytest.raises(TrackingError, match=message) as caught, connect(address):
        pass
    assert "s3cret" not in str(caught.value)


def test_the_address_comes_from_a_file_where_one_is_named(here: Path, monkeypatch) -> None:
    (here / "secret").write_text("mongodb://host/x\n")
    monkeypatch.setenv("MONGO_URL_FILE", "secret")
    assert mongo_url() == "mongodb://host/x" == server_url()
    monkeypatch.setenv("MONGO_URL_FILE", os.devnull)
    with pytest.raises(TrackingError, match="MONGO_URL_FILE: /dev/null: empty"):
        mongo_url()
    monkeypatch.setenv("MONGO_URL_FILE", "absent")
    with pytest.raises(TrackingError, match="MONGO_URL_FILE: absent: No such file"):
        mongo_url()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("mongodb://host:1/x", "mongodb://host:1/x"),
        ("mongodb://host:1", "mongodb://host:1/sacred"),
        (
            "mongodb://a:b@host:1,other:2/?tls=true",
            "mongodb://a:b@host:1,other:2/sacred?tls=true&authSource=admin",
        ),
        ("mongodb://a:b@host/?authSource=x", "mongodb://a:b@host/sacred?authSource=x"),
        ("mongodb://a:b@host/y?authSource=x", "mongodb://a:b@host/y?authSource=x"),
    ],
)
def test_a_database_is_added_to_an_address_without_one(given: str, named: str) -> None:
    assert with_database(given) == named


@needs_server
class TestEmbedded:
    def test_it_listens_on_loopback_alone_and_keeps_its_files_to_itself(self, url: str) -> None:
        port = f":{port_of(url):04X}"
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        listening = [fields[1] for fields in lines if fields[3] == "0A"]
        assert [one for one in listening if one.endswith(port)] == [f"0100007F{port}"]
        assert embedded.HOME.stat().st_mode & 0o77 == 0

    def test_a_killed_one_comes_back_with_its_data(self, url: str, database) -> None:
        assert embedded.up(free_port()) == url
        record()
        copies.backfill(database)
        kill_server()
        assert server_url() is None
        assert embedded.up(port_of(url)) == url
        assert steps_on(database) == [list(range(5))]

    def test_a_folder_of_another_version_and_a_taken_port_are_refused(self, url: str) -> None:
        port = port_of(url)
        embedded.down()
        assert embedded_state() is None
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            said = f"port {port} on 127.0.0.1: Address already in use; choose another"
            with pytest.raises(TrackingError, match=said):
                embedded.up(port)
        (embedded.HOME / "version").write_text("0.6.0b17")
        with pytest.raises(TrackingError, match=r"written by SecantusDB 0\.6\.0b17"):
            embedded.up(port)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with team_server(tmp_path_factory.mktemp("team") / "server", USER, SECRET) as place:
        yield place


@needs_server
class TestTeam:
    """A server with users, by its address alone."""

    def test_runs_are_copied_to_it(self, here: Path, team: str) -> None:
        address = f"mongodb://{USER}:{SECRET}@{team}/sacred?authSource=admin"
        record()
        with connect(address) as database:
            copies.backfill(database)
            assert steps_on(database) == [list(range(5))]

    @pytest.mark.parametrize(
        ("user", "message"),
        [
            (f"{USER}:wr0ng@", "refuses: AuthenticationFailed"),
            ("", "refuses: Unauthorized"),
            (f"reader:{SECRET}@", "refuses: Unauthorized"),
        ],
    )
    def test_it_refuses_others_in_words(self, here: Path, team: str, user, message) -> None:
        with (
            pytest.raises(TrackingError, match=message) as caught,
            connect(f"mongodb://{user}{team}/sacred?authSource=admin"),
        ):
            pass
        assert "wr0ng" not in str(caught.value)
        assert SECRET not in str(caught.value)
