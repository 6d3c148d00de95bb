"""The board: what it shows at every size, and that nothing that happens to it harms the runs."""

import errno
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.view import board as board_module
from repro.view.archive import Ends
from repro.view.board import Board, drawing, duration, finished_line, summary_line, table
from repro.view.states import RunState
from repro.view.watched import View, Watched

SIZES = [(160, 40), (80, 24), (64, 12), (20, 8), (5, 3), (1, 1)]


def a_view(now: float | None = None) -> View:
    """Six runs: a model that is done, one that learns no backdoor, four cleanings."""
    profile = load_profile("mini")
    states = [RunState(spec) for spec in [*pretrain_runs(profile)[:2], *clean_runs(profile)[:4]]]
    done, odd, running, failed, queued, _ = states
    done.state = "done"
    done.step = 8
    done.total_steps = 8
    done.accuracy = 0.345
    done.asr = 0.912
    odd.state = "running"
    odd.step = 6
    odd.total_steps = 8
    odd.epoch = 1.5
    odd.asr = 0.01
    running.state = "running"
    running.step = 1
    running.total_steps = 3
    running.epoch = 1 / 3
    running.loss = 2.345
    running.accuracy = 0.25
    running.pairs_per_second = 1234.0
    failed.state = "failed"
    failed.reason = "loss is nan after step 2 of 3"
    queued.state = "queued"
    return View("mini, seed 0", states, began=(now or time.time()) - 600, left=1200.0)


def picture(width: int, height: int, **settings: bool) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, **settings
    )
    with console.capture() as caught:
        console.print(table(a_view(), height), end="")
    return caught.get().splitlines()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_table_fits_every_terminal(width: int, height: int) -> None:
    lines = picture(width, height, no_color=True, legacy_windows=False)
    assert len(lines) <= max(height - 1, 1)
    assert all(Text.from_ansi(line).cell_len <= width for line in lines)


def test_a_wide_table_has_the_whole_and_every_number_of_a_run() -> None:
    text = "\n".join(picture(170, 30, no_color=True))
    for part in (
        "about 20 min left (ends ",
        ", 10 min gone; pre-train 1/2 · clean 0/4 · 1 failed · 1 queued",
        "0.3/",
        "2.35",
        "25.0%",
        "1,234 pairs/s",
        "ASR 1.0% after half of pre-training: the backdoor is not taking",
        "loss is nan after step 2 of 3",
    ):
        assert part in text, part


def test_a_narrow_table_begins_with_the_time_left() -> None:
    assert picture(40, 10, no_color=True)[0].startswith("\x1b[1mmini, seed 0: about 20 min left")


def test_without_colour_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR leaves bold and dim, which are no colours (no-color.org)."""
    assert any("\x1b[36m" in line for line in picture(120, 30))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any("\x1b[36m" in line or "\x1b[32m" in line for line in picture(120, 30))


def test_lines_say_the_same_where_there_is_no_terminal() -> None:
    view = a_view()
    done = view.states[0]
    of = f"done: pretrain {done.name}: accuracy 34.5%, ASR 91.2%"
    said = finished_line(done, Ends(0.3, 0.9, 10))
    assert said == f"{of} (mean of 10 archived seeds: 30.0%, 90.0%)"
    assert summary_line(view).endswith("pre-train 1/2 · clean 0/4 · 1 failed · 1 queued")
    nothing = View("mini", view.states, began=None, left=None)
    assert summary_line(nothing).startswith("mini: nothing runs; 2 runs are to be made; ")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5, "5 s"), (90, "90 s"), (130, "2 min"), (7200, "2.0 h"), (200_000, "2.3 days")],
)
def test_a_duration_has_a_fitting_unit(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def board(look: object) -> Board:
    return Board(Watched.of_profile("smoke"), look)  # type: ignore[arg-type]


def test_an_error_of_the_board_ends_the_board_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(board_module, "LOOK_SECONDS", 0.01)

    def broken() -> View:
        raise KeyError("a bug")

    with drawing(board(broken)):
        time.sleep(0.1)
    assert "the board ended (KeyError: 'a bug'); the runs go on" in capsys.readouterr().err


def test_a_look_that_the_machine_refuses_silences_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(board_module, "LOOK_SECONDS", 0.01)
    looks = []

    def refused_once() -> View:
        looks.append(1)
        if len(looks) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return a_view()

    with drawing(board(refused_once)):
        time.sleep(0.1)
    print("what follows")
    out = capfd.readouterr().out
    assert "pre-train 1/2" in out
    assert out.endswith("what follows\n")


def test_no_thread_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python aborts at its end where one is inside a library then."""
    monkeypatch.setattr(board_module, "LOOK_SECONDS", 0.01)

    def slow() -> View:
        time.sleep(0.3)
        return a_view()

    with drawing(board(slow)):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "board"]


def test_what_others_end_is_news_and_what_was_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    views = [a_view(), a_view()]
    views[1].states[2].state = "done"
    seen = iter(views)
    stop = threading.Event()

    def look() -> View:
        view = next(seen, views[-1])
        if view is views[1]:
            stop.set()
        return view

    monkeypatch.setattr(board_module, "LOOK_SECONDS", 0.01)
    board(look).run(stop)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["mini, seed 0", "warning", "done"]


CALL = """
import os, time
from repro.view import board
from repro.view.watched import View, Watched
board.LOOK_SECONDS = board.LINE_SECONDS = 0.02
runs = Watched.of_profile("smoke")
with board.drawing(board.Board(runs, runs.look)):
    # Until the board has met the closed output.
    while os.fstat(1).st_rdev != os.stat(os.devnull).st_rdev:
        time.sleep(0.01)
    open("worked", "w").close()
print("the end")
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_the_work_goes_on_when_nobody_reads(here: Path, root: Path, terminal: bool) -> None:
    """As in `| head`, or when the terminal is closed: status 0, and no traceback."""
    out, ours = os.openpty() if terminal else os.pipe()
    environment = os.environ | {"PYTHONPATH": str(root), "TERM": "xterm"}
    command = [sys.executable, "-c", CALL]
    with subprocess.Popen(command, env=environment, stdout=ours, stderr=subprocess.PIPE) as call:
        os.close(ours)
        assert os.read(out, 10)
        os.close(out)
        _, said = call.communicate(timeout=60)
    assert call.returncode == 0
    assert said == b""
    assert Path("worked").exists()
