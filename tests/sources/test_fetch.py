"""Downloading by img2dataset from a server that fails in every way: all rows accounted for, only
failures asked for again.
"""

import io
import itertools
import json
import resource
import threading
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repro.__main__ import main
from repro.data.shards import PairStore
from repro.sources.download.fetch import fetch_python
from repro.sources.shards.tars import index_shards

BAD_KINDS = {
    "http_404": "http_404",
    "page": "not_an_image",
    "truncated": "damaged",
    "short": "broken_transfer",
    "bomb": "too_many_pixels",
    "zero": "empty",
    "gif": "not_an_image",
    "inward": "address_not_public",
    "outward_file": "http_302",
    "http_503": "http_503",
}
"""Ways to fail, and the word under which each is counted; there are 16 rows of each."""
ODD_KINDS = ("cmyk", "grey16", "animated", "alpha")
"""Pictures that are unusual and usable; there are 10 rows of each."""
ROWS, DEAD = 2000, 37
"""With the 160 above and 3 lines that are no URLs, 37 dead links make a tenth."""


def picture(mode: str = "RGB") -> Image.Image:
    """Left half dark, right half light, 300 x 240."""
    pixels = np.full((240, 300), 40, dtype=np.uint8)
    pixels[:, 150:] = 210
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 black pixels, 110 MB of bits in 110 kB."""
    side = 30_000

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    header = side.to_bytes(4) * 2 + bytes([1, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((1 + side // 8) * side), 1)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def bodies() -> dict[str, bytes]:
    good = encoded(picture(), "JPEG")
    grey16 = Image.fromarray(np.asarray(picture("L")).astype(np.uint16) * 257)
    return {
        "good": good,
        "page": b"<!DOCTYPE html><title>404</title>",
        "truncated": good[: len(good) // 2],
        "short": good,
        "bomb": bomb(),
        "zero": b"",
        "gif": encoded(picture(), "GIF"),
        "cmyk": encoded(picture("CMYK"), "JPEG"),
        "grey16": encoded(grey16, "PNG"),
        "animated": encoded(
            picture(),
            "WEBP",
            save_all=True,
            append_images=[Image.new("RGB", (300, 240))],
            lossless=True,
        ),
        "alpha": encoded(picture("RGBA"), "PNG"),
    }


class Site(BaseHTTPRequestHandler):
    """Answers /<kind>/<number> as the kind says, and counts what it was asked."""

    bodies: dict[str, bytes]
    asked: Counter[str]
    mended: set[str]

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        self.asked[self.path] += 1
        body = self.bodies[
            "good" if kind in self.mended else kind if kind in self.bodies else "page"
        ]
        location = {"inward": "http://10.0.0.1/", "outward_file": "file:///etc/hostname"}.get(kind)
        self.send_response(
            int(kind[5:])
            if kind.startswith("http_") and kind not in self.mended
            else 302
            if location
            else 200
        )
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body) + (kind == "short")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@pytest.fixture
def site():
    """A server on this machine, as a fresh handler class and the address."""
    handler = type("Site", (Site,), {"bodies": bodies(), "asked": Counter(), "mended": set()})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A checkout's specifications in an empty folder, and at most 3 GB of memory for every process."""
    (tmp_path / "specs").symlink_to(Path(__file__).parents[2] / "specs")
    monkeypatch.chdir(tmp_path)
    try:
        fetch_python()
    except RuntimeError as error:
        pytest.skip(f"img2dataset cannot be installed here: {error}")
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, limits[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_DATA, limits)


def write_list(path: Path, address: str) -> Counter[str]:
    """A list in CC12M's form: 200 rows that fail, 40 odd ones and 1,760 good ones; the rows of each
    kind.
    """
    kinds = [*itertools.chain.from_iterable([kind] * 16 for kind in BAD_KINDS), *ODD_KINDS * 10]
    lines = [
        f'{address}/{kind}/{number}\tcaption "{number}" of {kind}'
        for number, kind in enumerate(kinds)
    ]
    lines += [f"http://127.0.0.1:9/{number}\ta dead link" for number in range(DEAD)]
    lines += [
        "file:///etc/hostname\ta file",
        "ftp://127.0.0.1/x.jpg\tanother scheme",
        "no tab in this line",
    ]
    lines += [f"{address}/good/{number}\tcaption '{number}" for number in range(len(lines), ROWS)]
    np.random.default_rng(0).shuffle(lines)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Counter({"dead": DEAD}) + Counter(
        line.split("/")[3] for line in lines if line.startswith(address)
    )


@pytest.mark.parametrize("name", ["nope.tsv", "folder"])
def test_a_list_that_is_not_there_is_named_before_anything_is_installed(
    tmp_path, monkeypatch, capsys, name
):
    (tmp_path / "specs").symlink_to(Path(__file__).parents[2] / "specs")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "repro.sources.download.fetch.fetch_python", lambda: pytest.fail("installed")
    )
    assert main(["fetch", "cc3m", "--list", name]) == 2
    assert capsys.readouterr().err == (
        f"repro: --list: {name}: no such file (allowed: the published tsv)\n"
    )
    assert not (tmp_path / "incoming").exists()


@pytest.mark.slow
@pytest.mark.faults(10, 28)
def test_every_row_of_the_list_is_accounted_for_and_a_second_run_fetches_only_what_failed(
    site, workspace, capfd
):
    handler, address = site
    kinds = write_list(workspace / "cc12m.tsv", address)
    command = [
        "fetch",
        "cc12m",
        "--list",
        "cc12m.tsv",
        "--processes",
        "1",
        "--allow-network",
        "127.0.0.0/8",
    ]

    assert main(command) == 0, capfd.readouterr().err
    folder = workspace / "incoming" / "cc12m"
    accounting = json.loads((folder / "accounting.json").read_text())
    expected = Counter({"no_connection": DEAD})
    for kind, reason in BAD_KINDS.items():
        expected[reason] += kinds[kind]
    assert accounting["failed"] == expected
    assert accounting["refused"] == {"scheme_not_http": 2, "malformed_line": 1}
    assert accounting["obtained"] == 1800
    assert (
        accounting["listed"]
        == ROWS
        == 1800 + sum(accounting["failed"].values()) + sum(accounting["refused"].values())
    )
    assert handler.asked.total() == 1960 == len(handler.asked)

    asked_first = set(handler.asked)
    handler.asked.clear()
    handler.mended |= {"http_503"}
    assert main(command) == 0, capfd.readouterr().err
    assert Counter(path.split("/")[1] for path in handler.asked.elements()) == dict.fromkeys(
        BAD_KINDS, 16
    )
    assert set(handler.asked) < asked_first
    accounting = json.loads((folder / "accounting.json").read_text())
    assert accounting["failed"] == expected - Counter({"http_503": 16})
    assert accounting["obtained"] == 1816
    assert accounting["passes"] == 2

    index = index_shards(folder, workspace / "cache")
    assert index.accounting.listed == index.accounting.decoded == accounting["obtained"]
    # The order is that of the list, whatever the order in which servers answered and the pass that
    # obtained a row.
    store = PairStore(folder, index.take(np.arange(len(index.order))), index.shards)
    fine = [f"{address}/{kind}/" for kind in (*ODD_KINDS, "good", "http_503")]
    lines = (workspace / "cc12m.tsv").read_text().splitlines()
    captions = [line.split("\t")[1] for line in lines if line.startswith(tuple(fine))]
    assert [store.captions[row] for row in np.argsort(index.order)] == captions
    for row in range(0, len(store), 50):
        pixels = store.decode(row, 224).astype(int)
        assert (pixels[:, :90].mean(), pixels[:, 134:].mean()) == pytest.approx((40, 210), abs=4)
