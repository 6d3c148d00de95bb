"""Headless Chromium, driven through two pipes: pages opened, and scripts run in them."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
LEFT = "Inspected target navigated or closed"
"""What Chromium answers where the page that was asked is gone."""
WAIT_SECONDS = 180.0
TEXT = "document.body.innerText"
"""What a reader sees."""


class Page:
    """A page by the DevTools protocol: JSON ended by NUL on descriptors 3 and 4."""

    def __init__(self, write: int, read: int) -> None:
        self.write = write
        self.read = read
        self.rest = b""
        self.number = 0
        self.problems: list[str] = []
        """Exceptions in the page."""
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command; events on the way are noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | (
            {"sessionId": self.session} if self.session else {}
        )
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                chunk = os.read(self.read, 1 << 16)
                assert chunk, "Chromium ended"
                self.rest += chunk
            line, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("method") == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(answer["params"]["exceptionDetails"])[:500])
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression in the page is true; a page may give way to the next meanwhile."""
        attempt = f"(() => {{ try {{ return Boolean({condition}) }} catch {{ return false }} }})()"
        deadline = time.monotonic() + WAIT_SECONDS
        holds = False
        while not holds:
            assert time.monotonic() < deadline, f"never true: {condition}\n{self.run(TEXT)[:3000]}"
            time.sleep(0.2)
            try:
                holds = bool(self.run(attempt))
            except AssertionError as error:
                if LEFT not in str(error):
                    raise


@contextmanager
def browser(profile: Path, width: int = 1700, height: int = 1000) -> Iterator[Page]:
    """One page of a Chromium that keeps its data in `profile` and ends with the block."""
    assert CHROMIUM is not None
    inward, write = os.pipe()
    read, outward = os.pipe()
    # The protocol's descriptors are 3 and 4; a shell puts them there, for the parent's own may be
    # taken.
    script = f'exec "$0" "$@" 3<&{inward} 4>&{outward}'
    options = (
        "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe"
    )
    places = [f"--user-data-dir={profile}", f"--window-size={width},{height}"]
    command = ["bash", "-c", script, CHROMIUM, *options.split(), *places]
    process = subprocess.Popen(
        command, pass_fds=(inward, outward), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(inward)
    os.close(outward)
    try:
        yield Page(write, read)
    finally:
        process.terminate()
        process.wait(20)
        os.close(write)
        os.close(read)
