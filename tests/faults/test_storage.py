"""Writes that are cut off: by a full disk, a read-only one, or a kill. What had a final name before is there, whole, afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ledger_fixture import build_at, write_run, write_specs
from test_poison import make_data as make_pairs
from test_poison import profile as poison_profile

from repro.__main__ import main
from repro.data.shards import PairStore
from repro.data.stages import make_poison
from repro.ledger import LedgerError, append_row, export_run, pending_rows, read_bits, read_run, replace_file
from repro.profile import pretrain_runs

needs_mount = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("mount") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="mounting a small disk needs root",
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB, under a name with spaces and letters beyond ASCII."""
    folder = tmp_path / "kleine Größe ✓"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
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
    hidden = {name for name in files if any(part.startswith(".") for part in name.parts)}
    return {name.as_posix(): path.read_bytes() for name, path in files.items() if name not in hidden and name.name != "ballast"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / "data")


def poison(folder: Path, pairs: Path, seed: int) -> None:
    make_poison(poison_profile(data__poison__seed=seed), "cc3m", pairs, folder / "poisoned" / "cc3m")


def publish(folder: Path, pairs: Path, seed: int) -> None:
    """Publish a run whose rows tell the seed."""
    spec = pretrain_runs(poison_profile(), "cc3m", "mmcl")[0]
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
@pytest.mark.faults(3, 4)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a shard that cannot be flushed is not closed
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
@pytest.mark.faults(3)
def test_a_full_disk_leaves_the_report_of_before(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = write_specs(disk)
    build_at(disk, profile, monkeypatch)
    before = visible(disk / "out")
    write_run(disk, pretrain_runs(profile)[0], [(0.1, 0.1), (0.4, 0.97)])
    fill(disk, 0)
    with pytest.raises(OSError, match="No space left on device"):
        build_at(disk, profile, monkeypatch)
    assert visible(disk / "out") == before


@needs_mount
@pytest.mark.faults(4)
def test_a_read_only_disk_is_named(
    root: Path, disk: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "specs", disk / "specs")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    monkeypatch.chdir(disk)
    for command in (["poison", "--dataset", "cc3m"], ["pretrain", "--dataset", "cc3m", "--objective", "mmcl"], ["report"]):
        assert main([*command, "--profile", "smoke"]) == 1
        message = capsys.readouterr().err
        assert "Read-only file system: " in message or "missing" in message
        assert "Traceback" not in message


WRITER = """
import itertools, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import test_storage
for seed in itertools.cycle(range(1, 9)):
    test_storage.{write}(Path(sys.argv[3]), Path(sys.argv[4]), seed)
    print(seed, flush=True)
"""


@pytest.mark.faults(1)
@pytest.mark.parametrize("write", ["publish", "poison"])
def test_a_kill_while_something_is_written_leaves_it_whole_or_absent(tmp_path: Path, pairs: Path, write: str) -> None:
    """Five kills each; what is found must be exactly what some undisturbed call writes."""
    rng = random.Random(write)
    whole = []
    for seed in range(1, 9):
        folder = tmp_path / "whole" / str(seed) / "x"
        {"publish": publish, "poison": poison}[write](folder, pairs, seed)
        whole.append(visible(folder))
    folder = tmp_path / "killed"
    here = Path(__file__).parent
    for _ in range(5):
        command = [sys.executable, "-c", WRITER.format(write=write), str(here), str(here.parent), str(folder / "x"), str(pairs)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=here.parents[1]) as process:
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(rng.uniform(0, 0.15))
            process.kill()
        shutil.rmtree(folder / "work", ignore_errors=True)
        found = visible(folder / "x")
        assert not found or found in whole


@pytest.mark.faults(31)
def test_only_the_last_row_of_a_running_run_may_be_torn(tmp_path: Path) -> None:
    """A kill tears the last line; damage in the middle must not make an evaluation vanish."""
    lines = [json.dumps({"row": {"step": step}}).encode() for step in range(3)]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines)[:-4])
    assert [record["row"]["step"] for record in pending_rows(tmp_path)] == [0, 1]
    for damaged in (b"{", b"{}", b"null", b'{"row": 1}'):
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join([lines[0], damaged, lines[2]]) + b"\n")
        with pytest.raises(LedgerError, match=r"rows\.jsonl:2: "):
            pending_rows(tmp_path, 2)


@pytest.mark.faults(4)
def test_a_cache_behind_a_link_under_an_odd_name_is_used(tmp_path: Path, pairs: Path) -> None:
    real = tmp_path / "andere Platte ü"
    real.mkdir()
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "cache").symlink_to(real)
    store = PairStore.open(pairs / "cc3m")
    first = store.decoded(16, tmp_path / "a b" / "cache")
    assert np.array_equal(first, store.decoded(16, real))
    assert len(list(real.glob("*.npy"))) == 1
