"""What strangers' servers may do to a download: nothing but fail under a reason."""

import http.client
import io
import ipaddress
import socket
import ssl
import time
import urllib.error
from collections import Counter
from types import SimpleNamespace

import pytest
from PIL import Image

from repro.sources.download import guard
from repro.sources.download.guard import FetchError, ImageAnswer, Opener, public_only, reason_of
from repro.sources.download.url_list import ListRow, read_list


def resolver(*addresses):
    return lambda *_: [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses
    ]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:10.0.0.1",
    ],
)
def test_addresses_of_this_network_are_refused(address):
    with pytest.raises(FetchError, match="address_not_public"):
        public_only(resolver(address), [])("host", 80)


def test_public_addresses_and_allowed_networks_pass_and_nothing_else():
    found = public_only(
        resolver("10.0.0.1", "8.8.8.8", "192.168.1.1"), [ipaddress.ip_network("192.168.1.0/24")]
    )("host", 80)
    assert [entry[4][0] for entry in found] == ["8.8.8.8", "192.168.1.1"]


def answer(data: bytes, length: int | None = None, pause: float = 0):
    """A response of `data`, in steps of 1,000 bytes."""
    stream = io.BytesIO(data)

    def read1(_):
        time.sleep(pause)
        return stream.read(1000)

    return SimpleNamespace(headers={}, length=length, read1=read1)


def test_an_image_is_stored_at_its_size_as_jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), "red").save(buffer, "PNG")
    stored = Image.open(
        io.BytesIO(ImageAnswer(answer(buffer.getvalue()), 16, time.monotonic() + 60).read())
    )
    assert (stored.format, stored.size) == ("JPEG", (16, 16))


@pytest.mark.faults(28)
def test_answers_without_end_are_cut_off(monkeypatch):
    monkeypatch.setattr(guard, "MAX_BYTES", 5000)
    with pytest.raises(FetchError, match="too_many_bytes"):
        ImageAnswer(answer(bytes(10**6)), 16, time.monotonic() + 60).read()
    with pytest.raises(FetchError, match="timeout"):
        ImageAnswer(answer(bytes(4000), pause=0.02), 16, time.monotonic() + 0.01).read()


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "ftp://host/x.jpg", "data:image/png;base64,AAAA", "http://[bad/", "x"],
)
def test_what_is_not_http_is_never_opened(url):
    with pytest.raises(FetchError, match="bad_url"):
        Opener(16).open(url)


def test_every_failure_has_a_word():
    failures = {
        "http_404": urllib.error.HTTPError("u", 404, "", None, None),
        "timeout": urllib.error.URLError(TimeoutError()),
        "unknown_host": urllib.error.URLError(socket.gaierror()),
        "bad_certificate": urllib.error.URLError(ssl.SSLCertVerificationError()),
        "no_connection": urllib.error.URLError(ConnectionRefusedError()),
        "broken_transfer": http.client.IncompleteRead(b""),
        "bad_url": ValueError("unknown url type"),
    }
    assert {word: reason_of(error) for word, error in failures.items()} == {
        word: word for word in failures
    }


@pytest.mark.faults(11)
def test_lines_of_a_list_keep_their_number_and_their_text(tmp_path):
    """CC3M has the caption first. Quotes are text; the file ends without a line break."""
    path = tmp_path / "list.tsv"
    path.write_bytes(
        b'"a" cat\thttp://h/1\nno url\na dog\tftp://h/2\n\xff \xe2\x80\xa8x\tHTTPS://h/3\ta\n=1+1 \thttps://h/4'
    )
    refused: Counter[str] = Counter()
    rows = list(read_list(path, "cc3m", refused))
    assert rows == [ListRow(0, "http://h/1", '"a" cat'), ListRow(4, "https://h/4", "=1+1 ")]
    assert refused == {"malformed_line": 2, "scheme_not_http": 1}
