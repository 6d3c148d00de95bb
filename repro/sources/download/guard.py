"""What img2dataset asks the network through: public addresses, http and https, bounded answers,
images opened by our reader.

An image is stored with the size and crop of the authors' own downloader (code: CleanCLIP
utils/download.py), as JPEG.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any, Self

from PIL import Image

from repro.data.images import MAX_BYTES, ImageError, decode_image

SOCKET_SECONDS = 10.0
IMAGE_SECONDS = 60.0
"""Longest time for one image: a server that sends a byte now and then would hold its thread for
ever.
"""
JPEG_QUALITY = 95
DECODERS = threading.Semaphore(2)
"""Images decoded at once in one process: what bounds its memory, for a picture of 64 megapixels
takes 200 to 500 MB.
"""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class FetchError(ValueError):
    """A download that failed; the message is the word under which it is counted."""


def reason_of(error: BaseException) -> str:
    """The word under which a failure is counted."""
    if isinstance(error, ImageError | FetchError):
        return str(error)
    if isinstance(error, urllib.error.HTTPError):
        return f"http_{error.code}"
    if isinstance(error, urllib.error.URLError):
        return reason_of(error.reason) if isinstance(error.reason, BaseException) else "bad_url"
    # Sub-classes before their base: the first three are kinds of OSError.
    words: list[tuple[type[BaseException], str]] = [
        (TimeoutError, "timeout"),
        (socket.gaierror, "unknown_host"),
        (ssl.SSLError, "bad_certificate"),
        (OSError, "no_connection"),
        (http.client.HTTPException, "broken_transfer"),
    ]
    return next((word for kind, word in words if isinstance(error, kind)), "bad_url")


def public_only(resolve: Any, allowed: Iterable[Network]) -> Any:
    """`socket.getaddrinfo` without private, local and reserved addresses, but for those in
    `allowed` networks.

    On this level it holds for redirects too, and the address that was checked is the one that is
    connected to.
    """
    networks = list(allowed)

    def getaddrinfo(*arguments: Any, **options: Any) -> list[Any]:
        found = resolve(*arguments, **options)
        # A link-local IPv6 address bears its interface after a %.
        addresses = [ipaddress.ip_address(entry[4][0].partition("%")[0]) for entry in found]
        public = [
            entry
            for entry, address in zip(found, addresses, strict=True)
            if address.is_global
            or any(address in network for network in networks if network.version == address.version)
        ]
        if not public:
            raise FetchError("address_not_public")
        return public

    return getaddrinfo


class ImageAnswer:
    """The response as img2dataset wants it: `headers`, and in `read` the image as it is stored."""

    def __init__(self, response: Any, size: int, deadline: float) -> None:
        self.headers = response.headers
        self._response, self._size, self._deadline = response, size, deadline

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def read(self) -> bytes:
        """JPEG of (size, size); FetchError with the reason why there is none."""
        try:
            data = self._read_bounded()
            with DECODERS:
                picture = Image.fromarray(decode_image(data, self._size))
        except Exception as error:
            raise FetchError(reason_of(error)) from None
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return buffer.getvalue()

    def _read_bounded(self) -> bytes:
        expected = self._response.length  # None where the server does not tell
        parts: list[bytes] = []
        received = 0
        while part := self._response.read1(2**16):
            parts.append(part)
            received += len(part)
            if received > MAX_BYTES:
                raise FetchError("too_many_bytes")
            if time.monotonic() > self._deadline:
                raise FetchError("timeout")

        # The server closed too early, and part of a picture may still decode.
        if expected is not None and received < expected:
            raise FetchError("broken_transfer")
        return b"".join(parts)


class Opener:
    """What `urllib.request.urlopen`, which img2dataset calls, uses: http and https only, and no
    proxy.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # By hand, for `build_opener` adds handlers of proxies, ftp, file and data.
        self._director = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.HTTPHandler,
            urllib.request.HTTPSHandler,
            urllib.request.HTTPRedirectHandler,
            urllib.request.HTTPDefaultErrorHandler,
            urllib.request.HTTPErrorProcessor,
            urllib.request.UnknownHandler,
        ):
            self._director.add_handler(handler())

    def open(self, request: Any, data: None = None, timeout: float = SOCKET_SECONDS) -> ImageAnswer:
        """FetchError with the reason if there is no answer, or an answer that says no."""
        try:
            return ImageAnswer(
                self._director.open(request, data, timeout),
                self.size,
                time.monotonic() + IMAGE_SECONDS,
            )
        except Exception as error:
            raise FetchError(reason_of(error)) from None
