"""Writes that are cut off: by a full disk, a read-only one, or a kill.

What had a final name before is there, whole, afterwards.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from repro.__main__ import main
from repro.data.shards import PairStore
from repro.data.stages import make_poison
from repro.files import building, replace_file
from repro.ledger import LedgerError, Row, append_row, identity_of, pending_rows
from repro.profile import pretrain_runs
from repro.runs.published import export_run, read_bits, read_run
from repro.spec import SpecError
from tests.support.ledger import write_run
from tests.support.poison import make_data as make_pairs
from tests.support.poison import profile as poison_profile

needs_mount = pytest.mark.skipif(
    os.getuid() != 0
    or shutil.which("mount") is None
    or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="mounting a small disk needs root",
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four MiB, under a name with spaces and letters beyond ASCII."""
    folder = tmp_path / "kleine Größe ✓"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill the disk but for `left` bytes; returns the file that does it."""
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast.write_bytes(b"\xaa" * (free - left))
    return ballast


def visible(folder: Path) -> dict[str, bytes]:
    """Content of every file that a reader would take for real."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    apart = {
        name
        for name in files
        if any(part.startswith(".") for part in name.parts) or name.suffix in (".partial", ".lock")
    }
    return {
        name.as_posix(): path.read_bytes()
        for name, path in files.items()
        if name not in apart and name.name != "ballast"
    }


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / "data")


RUN = functools.cache(lambda: pretrain_runs(poison_profile(), "cc3m", "mmcl")[0])


def poison(folder: Path, pairs: Path, seed: int) -> None:
    make_poison(
        poison_profile(data__poison__seed=seed), "cc3m", pairs, folder / "poisoned" / "cc3m"
    )


def publish(folder: Path, pairs: Path, seed: int) -> None:
    """Publish a run whose rows tell the seed."""
    spec = RUN()
    work = folder.parent / f"work{seed}"
    write_run(work, spec, [(0.1 * seed, 0.5)] * 6)
    run = next((work / "results").rglob("run.json")).parent
    record, rows = read_run(run)
    bits = read_bits(run, rows[0].num_images)
    for index, row in enumerate(rows):
        append_row(work, row, bits["correct"][index], bits["attacked"][index], bits["is_target"])
    export_run(work, record, folder / "results")
    shutil.rmtree(work)


def decode(folder: Path, pairs: Path, seed: int) -> None:
    """The cache of decoded pixels, larger with each seed."""
    PairStore.open(pairs / "cc3m").decoded(16 * (seed + 1), folder / "cache")


def replace(folder: Path, pairs: Path, seed: int) -> None:
    replace_file(folder / "x.json", bytes([seed]) * 30_000)


@needs_mount
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # a shard that cannot be flushed is not closed
@pytest.mark.parametrize("write", [replace, publish, poison, decode])
def test_a_full_disk_leaves_what_was_there_and_room_lets_it_go_on(
    disk: Path, pairs: Path, write: Callable[[Path, Path, int], None]
) -> None:
    write(disk, pairs, 1)
    before = visible(disk)
    for left in (0, 4096, 8192):
        ballast = fill(disk, left)
        with pytest.raises(OSError, match="No space left on device"):
            write(disk, pairs, 2)
        ballast.unlink()
        assert visible(disk) == before
    write(disk, pairs, 2)
    assert visible(disk) != before


@needs_mount
def test_a_read_only_disk_is_named(
    root: Path,
    disk: Path,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(root / "specs", disk / "specs")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    monkeypatch.chdir(disk)
    for command in (
        ["poison", "--dataset", "cc3m"],
        ["pretrain", "--dataset", "cc3m", "--objective", "mmcl"],
        ["report"],
    ):
        assert main([*command, "--profile", "smoke"]) == 1
        message = capsys.readouterr().err
        assert "Read-only file system: " in message or "missing" in message
        assert "Traceback" not in message


WRITER = """
import itertools, os, signal, sys, time
from pathlib import Path
from tests.faults import test_storage
for seconds in sys.stdin:
    heard, told = os.pipe()
    if not (child := os.fork()):
        for seed in itertools.cycle((1, 2, 3)):
            test_storage.{write}(Path(sys.argv[1]), Path(sys.argv[2]), seed)
            os.write(told, b".")
    os.read(heard, 1)
    time.sleep(float(seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


@pytest.mark.parametrize("write", [publish, poison])
def test_a_kill_while_something_is_written_leaves_it_whole_or_absent(
    tmp_path: Path, pairs: Path, write: Callable[[Path, Path, int], None]
) -> None:
    """Ten kills; what is found must be exactly what some undisturbed call writes."""
    rng = random.Random(1)
    whole = []
    for seed in (1, 2, 3):
        write(tmp_path / str(seed) / "x", pairs, seed)
        whole.append(visible(tmp_path / str(seed) / "x"))
    folder = tmp_path / "killed" / "x"
    command = [
        sys.executable,
        "-c",
        WRITER.format(write=write.__name__),
        str(folder),
        str(pairs),
    ]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for _ in range(10):
            print(rng.uniform(0, 0.1), file=process.stdin, flush=True)
            assert process.stdout.readline() == "killed\n"
            found = visible(folder)
            assert not found or found in whole
            for path in folder.parent.glob("work*"):
                shutil.rmtree(path)
        process.stdin.close()


def some_rows(number: int) -> list[Row]:
    """Evaluations of ten images of which none is right, at steps 0, 1, ..."""
    identity = identity_of(RUN(), "0123456789abcdef")
    return [
        Row(
            **identity,
            epoch=float(step),
            step=step,
            num_images=10,
            num_correct=0,
            num_attacked=0,
            num_target=0,
            num_target_attacked=0,
            sample_classes=[],
            sample_classes_triggered=[],
            train_loss=None,
            logit_scale=1.0,
            step_learning_rate=0.0,
            seconds=1.0,
        )
        for step in range(number)
    ]


def test_only_the_last_row_of_a_running_run_may_be_torn(tmp_path: Path) -> None:
    """A kill tears the last line; damage in the middle must not make an evaluation vanish."""
    for row in some_rows(3):
        append_row(tmp_path, row, *[np.zeros(row.num_images, bool)] * 3)
    lines = (tmp_path / "rows.jsonl").read_bytes().splitlines()
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines)[:-4])
    assert [record["row"]["step"] for record in pending_rows(tmp_path)] == [0, 1]
    for damaged in (b"{", b"{}", b"null", b'{"row": 1}'):
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join([lines[0], damaged, lines[2]]) + b"\n")
        with pytest.raises(LedgerError, match=r"rows\.jsonl:2: "):
            pending_rows(tmp_path, 2)


def test_a_stale_lock_file_or_a_partial_folder_of_a_dead_stage_stops_nobody(tmp_path: Path) -> None:
    """Locks belong to processes, not to files: what a killed stage leaves behind is cleared away."""
    out = tmp_path / "out"
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").touch()
    (tmp_path / ".out.lock").write_text("left behind")
    with building(out) as folder:
        (folder / "whole").touch()
        with pytest.raises(SpecError, match="another process is building it"), building(out):
            pass
    assert [path.name for path in out.iterdir()] == ["whole"]
