"""Mirrors: shards arrive whole and as listed, in whatever pieces; another shard than the listed one
is refused.
"""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from repro.data.index import StoreError
from repro.sources.download.ready_shards import fetch_mirror, read_hashes
from repro.spec import SpecError

SHARDS = {"/r1/x-0000.tar": b"first" * 1000, "/r1/x-0001.tar": b"second" * 1000}


class Mirror(BaseHTTPRequestHandler):
    """Serves SHARDS with ranges; every request is noted, and an answer to a whole one may be cut
    short.
    """

    asked: list[tuple[str, str | None]]
    cut: int

    def do_GET(self) -> None:
        body, begin = SHARDS[self.path], self.headers["Range"]
        self.asked.append((self.path, begin))
        start = int(begin.removeprefix("bytes=").removesuffix("-")) if begin else 0
        self.send_response(416 if start == len(body) else 206 if begin else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : start + (len(body) if begin else self.cut)])

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def mirror(tmp_path):
    """The server's handler; `tmp_path` holds specs for it and an empty folder."""
    handler = type("Handler", (Mirror,), {"asked": [], "cut": 10**6})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    write_spec(tmp_path, f"http://127.0.0.1:{server.server_port}/{{revision}}/x-{{shard:04d}}.tar")
    (tmp_path / "in").mkdir()
    yield handler
    server.shutdown()
    server.server_close()


def write_spec(folder, url):
    (folder / "mirrors.yaml").write_text(f"cc3m:\n  url: {url}\n  revision: r1\n  shards: 2\n")


def test_the_first_fetch_records_hashes_and_the_second_asks_for_nothing(mirror, tmp_path):
    assert "2 trusted on first use" in fetch_mirror("cc3m", tmp_path / "in", tmp_path)
    hashes = read_hashes(tmp_path / "mirrors" / "cc3m.sha256")
    assert hashes == {
        path.rpartition("/")[2]: hashlib.sha256(body).hexdigest() for path, body in SHARDS.items()
    }
    assert [(tmp_path / "in" / name).read_bytes() for name in hashes] == list(SHARDS.values())
    mirror.asked.clear()
    fetch_mirror("cc3m", tmp_path / "in", tmp_path)
    assert not mirror.asked


@pytest.mark.faults(28)
def test_a_shard_that_breaks_off_is_gone_on_with_where_it_ended(mirror, tmp_path):
    mirror.cut = 700
    with pytest.raises(
        StoreError, match=r"x-0000.tar: ended 4300 bytes early; call again to go on"
    ):
        fetch_mirror("cc3m", tmp_path / "in", tmp_path)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["x-0000.tar.partial"]
    mirror.cut = 10**6
    fetch_mirror("cc3m", tmp_path / "in", tmp_path)
    assert mirror.asked == [
        ("/r1/x-0000.tar", None),
        ("/r1/x-0000.tar", "bytes=700-"),
        ("/r1/x-0001.tar", None),
    ]
    assert (tmp_path / "in" / "x-0000.tar").read_bytes() == SHARDS["/r1/x-0000.tar"]


@pytest.mark.faults(28)
def test_another_shard_than_the_listed_one_is_refused(mirror, tmp_path):
    (tmp_path / "mirrors").mkdir()
    (tmp_path / "mirrors" / "cc3m.sha256").write_text(f"{'0' * 64}  x-0001.tar\n")
    with pytest.raises(
        StoreError, match=r"x-0001.tar: SHA-256 \w{64}, but .*cc3m.sha256 says 0{64}; not used"
    ):
        fetch_mirror("cc3m", tmp_path / "in", tmp_path)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["x-0000.tar"]


@pytest.mark.faults(17)
@pytest.mark.parametrize(
    "url",
    ["file:///etc/{shard:04d}", "ftp://host/{shard:04d}", "https://host/{revision.__class__}"],
)
def test_addresses_that_are_not_http_are_refused(tmp_path, url):
    write_spec(tmp_path, f"'{url}'")
    with pytest.raises(SpecError, match="url"):
        fetch_mirror("cc3m", tmp_path, tmp_path)
