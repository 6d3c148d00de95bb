"""The tracking server: the embedded one with its folder and port, a team's with users, and what is
said when neither can be used.
"""

from __future__ import annotations

import os
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import bson
import pytest

from repro.tracking.server import copies, embedded
from repro.tracking.server import database as connection
from repro.tracking.server.address import (
    TrackingError,
    embedded_state,
    mongo_url,
    server_url,
    with_database,
)
from repro.tracking.server.database import connect
from repro.tracking.server.process import require_free
from tests.support.tracking import (
    copying,
    database,
    free_port,
    here,
    kill_server,
    needs_server,
    port_of,
    record,
    steps_on,
    team_server,
    url,
)

__all__ = ["database", "here", "url"]  # fixtures
pytestmark = pytest.mark.faults(30)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("mongodb://user:s3cret@127.0.0.1:1/x", "does not answer"),
        ("postgres://user:s3cret@host", "not a valid address"),
        ("mongodb://user:s3cret:x@host/?a", "not a valid address"),
        ("s3cret", "does not answer"),
    ],
)
def test_a_wrong_address_is_explained_without_the_password(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.3)
    with pytest.raises(TrackingError, match=message) as caught, connect(address):
        pass
    assert "s3cret" not in str(caught.value)


class OldServer(socketserver.BaseRequestHandler):
    """Answers every message as MongoDB 4.0 answers `hello`."""

    def handle(self) -> None:
        while header := self.request.recv(16, socket.MSG_WAITALL):
            length, number, _, _ = struct.unpack("<iiii", header)
            self.request.recv(length - 16, socket.MSG_WAITALL)
            reply = bson.encode(
                {
                    "ok": 1,
                    "ismaster": True,
                    "minWireVersion": 0,
                    "maxWireVersion": 7,
                    "maxBsonObjectSize": 1 << 24,
                }
            )
            body = struct.pack("<iB", 0, 0) + reply  # OP_MSG: flags, one section of one document
            self.request.sendall(struct.pack("<iiii", 16 + len(body), 0, number, 2013) + body)


def test_a_server_of_an_unsupported_version_is_named_as_such() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OldServer) as old:
        threading.Thread(target=old.serve_forever, daemon=True).start()
        with (
            pytest.raises(TrackingError, match=r"version is not supported.*MongoDB 4\.2 or later"),
            connect(f"mongodb://127.0.0.1:{old.server_address[1]}/x"),
        ):
            pass
        old.shutdown()


def test_the_address_comes_from_a_file_where_one_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "secret").write_text("mongodb://host/x\n")
    monkeypatch.setenv("MONGO_URL_FILE", "secret")
    assert mongo_url() == "mongodb://host/x" == server_url()
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
        listening = [
            line.split()[1]
            for line in Path("/proc/net/tcp").read_text().splitlines()
            if line.split()[3] == "0A"
        ]
        assert [address for address in listening if address.endswith(f":{port_of(url):04X}")] == [
            f"0100007F:{port_of(url):04X}"
        ]
        assert embedded.HOME.stat().st_mode & 0o77 == 0

    def test_a_second_call_finds_it_and_a_second_owner_is_refused(self, url: str) -> None:
        assert embedded.up(free_port()) == url
        state = (embedded.HOME / "server.json").read_bytes()
        (embedded.HOME / "server.json").unlink()
        assert embedded_state() is None
        with pytest.raises(TrackingError, match="another server has work/tracking/data open"):
            embedded.up(free_port())
        (embedded.HOME / "server.json").write_bytes(state)

    def test_a_folder_of_another_version_and_a_taken_port_are_refused(self, url: str) -> None:
        port = port_of(url)
        embedded.down()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
            with pytest.raises(
                TrackingError,
                match=f"port {port} on 127.0.0.1: Address already in use; choose another with --port",
            ):
                embedded.up(port)
        (embedded.HOME / "version").write_text("0.6.0b17")
        with pytest.raises(TrackingError, match=r"written by SecantusDB 0\.6\.0b17"):
            embedded.up(port)
        with pytest.raises(TrackingError, match=r"--port: 99999 \(allowed: 1 to 65535\)"):
            require_free(99999)

    def test_a_server_that_took_the_port_in_the_meantime_is_not_taken_for_ours(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two folders find the same port free at once; one of them gets it."""
        other = Path("other")
        other.mkdir()
        monkeypatch.setattr(embedded, "require_free", lambda port: None)
        with monkeypatch.context() as there:
            there.chdir(other)
            with pytest.raises(TrackingError, match=r"the server did not start: .*in use"):
                embedded.up(port_of(url))
            assert server_url() is None
        assert server_url() == url

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
    def test_a_folder_of_another_owner_is_refused(self, here: Path) -> None:
        embedded.HOME.mkdir(parents=True)
        os.chown(embedded.HOME, 12345, 12345)
        with pytest.raises(TrackingError, match="work/tracking belongs to user number 12345"):
            embedded.up(free_port())

    @pytest.mark.faults(18)
    def test_a_killed_server_comes_back_on_its_port_with_its_data(
        self, url: str, database: object
    ) -> None:
        record()
        copies.backfill(database)  # type: ignore[arg-type]
        kill_server()
        assert server_url() is None
        assert embedded.up(port_of(url)) == url
        assert steps_on(database) == [list(range(5))]


USER, SECRET = "someone", "pl4nted-s3cret"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with team_server(tmp_path_factory.mktemp("team") / "server", USER, SECRET) as place:
        yield place


@needs_server
class TestTeam:
    """A server with users, by its address alone."""

    def test_runs_are_copied_to_it(self, here: Path, team: str) -> None:
        address = f"mongodb://{USER}:{SECRET}@{team}/sacred?authSource=admin"
        copies = copying(address)
        record(watch=copies.watch)
        copies.close()
        with connect(address) as database:
            assert steps_on(database) == [list(range(5))]

    @pytest.mark.parametrize(
        ("user", "message"),
        [
            (f"{USER}:wr0ng@", "refuses the user name or password"),
            ("", "wants a user"),
            (f"reader:{SECRET}@", "may read and write"),
        ],
    )
    def test_it_refuses_others_in_words(
        self, here: Path, team: str, user: str, message: str
    ) -> None:
        with (
            pytest.raises(TrackingError, match=message) as caught,
            connect(f"mongodb://{user}{team}/sacred?authSource=admin"),
        ):
            pass
        assert "wr0ng" not in str(caught.value) and SECRET not in str(caught.value)
