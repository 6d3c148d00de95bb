"""Addresses of tracking servers, the embedded one, and a team's with users."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro.tracking.server import copies, embedded
from repro.tracking.server.address import (
    TrackingError,
    embedded_state,
    mongo_url,
    server_url,
    with_database,
)
from repro.tracking.server.copier import Copier
from repro.tracking.server.copies import connect
from tests.support.tracking import (
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

    def test_a_second_call_finds_it_and_a_killed_one_comes_back_with_its_data(
        self, url: str, database
    ) -> None:
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
            with pytest.raises(
                TrackingError,
                match=f"port {port} on 127.0.0.1: Address already in use; choose another",
            ):
                embedded.up(port)
        (embedded.HOME / "version").write_text("0.6.0b17")
        with pytest.raises(TrackingError, match=r"written by SecantusDB 0\.6\.0b17"):
            embedded.up(port)
        with pytest.raises(TrackingError, match=r"--port: 99999 \(allowed: 1 to 65535\)"):
            embedded.require_free(99999)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with team_server(tmp_path_factory.mktemp("team") / "server", USER, SECRET) as place:
        yield place


@needs_server
class TestTeam:
    """A server with users, by its address alone."""

    def test_runs_are_copied_to_it(self, here: Path, team: str) -> None:
        address = f"mongodb://{USER}:{SECRET}@{team}/sacred?authSource=admin"
        Copier(address).copy(record())
        with connect(address) as database:
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
        assert "wr0ng" not in str(caught.value) and SECRET not in str(caught.value)
