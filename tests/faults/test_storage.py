"""Writes that are cut off, and surroundings that differ: bytes are whole, and the same."""

import functools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro.__main__ import main
from repro.data.keyed import keyed_rng
from repro.data.shards import PairStore
from repro.data.stages import make_poison
from repro.files import building, file_sha256, replace_file
from repro.ledger import LedgerError, Row, append_row, pending_rows
from repro.profile import clean_runs, pretrain_runs
from repro.runs.published import export_run, read_run
from repro.spec import Profile, SpecError
from repro.train.views.text import eda
from repro.train.views.tokens import tokenize
from tests.data.test_triggers import hashes as triggers
from tests.support.disk import fill, needs_mount, small_disk
from tests.support.launch import Launch
from tests.support.ledger import write_run
from tests.support.poison import make_data as make_pairs
from tests.support.poison import profile as poison_profile
from tests.support.stub_worker import row_of_run
from tests.train.test_text import CAPTION, SYNONYMS


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four MiB, under a name with spaces and letters beyond ASCII."""
    with small_disk(tmp_path / "kleine Größe ✓", "4m") as folder:
        yield folder


def visible(folder: Path) -> dict[str, bytes]:
    """Content of every file that a reader would take for real."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {
        str(name): (folder / name).read_bytes()
        for name in names
        if not any(part.startswith(".") for part in name.parts)
        and name.suffix not in (".partial", ".lock")
        and name.name != "ballast"
    }


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / "data")


RUN = functools.cache(lambda: pretrain_runs(poison_profile(), "cc3m", "mmcl")[0])


def poison(folder: Path, pairs: Path, seed: int) -> None:
    profile = poison_profile(data__poison__seed=seed)
    make_poison(profile, "cc3m", pairs, folder / "poisoned" / "cc3m")


def publish(folder: Path, pairs: Path, seed: int) -> None:
    """Publish a run whose rows tell the seed."""
    spec = RUN()
    work = folder.parent / f"work{seed}"
    write_run(work, spec, [(0.1 * seed, 0.5)] * 6)
    run = next((work / "results").rglob("run.json")).parent
    record, rows = read_run(run)
    for row in rows:
        append_row(work, row)
    export_run(work, record, folder / "results")
    shutil.rmtree(work)


def decode(folder: Path, pairs: Path, seed: int) -> None:
    """The cache of decoded pixels, larger with each seed."""
    store = PairStore.open(pairs / "cc3m")
    store.decoded(16 * (seed + 1), folder / "cache", np.arange(len(store)))


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
    for command in ("resolve", "poison --dataset cc3m", "report"):
        assert main([*command.split(), "--profile", "smoke"]) == 1
        message = capsys.readouterr().err
        assert "Read-only file system: " in message
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
    root: Path, tmp_path: Path, pairs: Path, write: Callable[[Path, Path, int], None]
) -> None:
    """Ten kills; what is found must be exactly what some undisturbed call writes."""
    rng = random.Random(1)
    whole = []
    for seed in (1, 2, 3):
        write(tmp_path / str(seed) / "x", pairs, seed)
        whole.append(visible(tmp_path / str(seed) / "x"))
    folder = tmp_path / "killed" / "x"
    code = WRITER.format(write=write.__name__)
    command = [sys.executable, "-c", code, str(folder), str(pairs)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
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
    counts = ("num_correct", "num_attacked", "num_target", "num_target_attacked")
    none: dict[str, Any] = dict.fromkeys(counts, 0)
    rows = [{"epoch": float(step), "step": step, "num_images": 10} | none for step in range(number)]
    return [row_of_run(RUN(), "0123456789abcdef", **row) for row in rows]


def test_only_the_last_row_of_a_running_run_may_be_torn(tmp_path: Path) -> None:
    """A kill tears the last line; damage in the middle must not make an evaluation vanish."""
    for row in some_rows(3):
        append_row(tmp_path, row)
    lines = (tmp_path / "rows.jsonl").read_bytes().splitlines()
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines)[:-4])
    assert [row.step for row in pending_rows(tmp_path)] == [0, 1]
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


ROOT = Path(__file__).parents[2]
KEPT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
OFFLINE = ["unshare", "--map-root-user", "--net"]
CAN_UNSHARE = shutil.which("unshare") is not None and (
    subprocess.run([*OFFLINE, "true"], capture_output=True).returncode == 0
)


def make_everything(folder: str) -> None:
    """Poisoned pairs, triggers, text views and tokens; prints the hash of every file."""
    os.chdir(folder)
    make_pairs(Path("data"))
    make_poison(poison_profile(), "cc3m", Path("data"), Path("poisoned/mini/cc3m"))
    store = PairStore.open(Path("poisoned/mini/cc3m"))
    captions = [*store.captions, "İstanbul’da ILIK bir MUZ\u0301 \u202e 1,5 ﬁg", *[CAPTION] * 40]
    views = [eda(caption, keyed_rng("view", i), SYNONYMS) for i, caption in enumerate(captions)]
    Path("views.json").write_text(json.dumps([views, triggers()]), encoding="utf-8")
    Path("tokens.bin").write_bytes(tokenize(captions, "cut").numpy().tobytes())
    pixels = store.decoded(24, Path("cache"), np.arange(len(store)))
    Path("pixels.bin").write_bytes(pixels.tobytes())
    paths = [path for path in Path().rglob("*") if path.is_file() and path.suffix != ".lock"]
    print(json.dumps({str(path): file_sha256(path) for path in sorted(paths)}))


def hashes(folder: Path, environment: dict[str, str], *prefix: str) -> dict[str, str]:
    """Of everything, made under `environment` alone and the commands in `prefix`."""
    folder.mkdir()
    code = "import sys; from tests.faults.test_storage import make_everything as m; m(sys.argv[1])"
    command = [*prefix, sys.executable, "-c", code, str(folder)]
    whole = KEPT | {"HOME": str(folder.parent)} | environment
    done = subprocess.run(command, env=whole, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_poison_captions_and_pixels_are_the_same_bytes_everywhere(tmp_path: Path) -> None:
    """All of these varied, and the name of the folder; a Turkish locale where there is one."""
    installed = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout.split()
    turkish = next((name for name in installed if name.lower().startswith("tr_tr.utf")), "")
    plain = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC", "OMP_NUM_THREADS": "1"}
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    language = {"LC_ALL": turkish} if turkish else ascii_only
    odd = {"PYTHONHASHSEED": "4242", "TZ": "Pacific/Apia", "OMP_NUM_THREADS": "2"} | language
    core = str(min(os.sched_getaffinity(0)))
    one_core = ["taskset", "--cpu-list", core] if shutil.which("taskset") else []
    first = hashes(tmp_path / "a", plain)
    assert {"views.json", "poisoned/mini/cc3m/manifest.jsonl", "pixels.bin"} <= first.keys()
    assert hashes(tmp_path / "zwei ü", odd, *(OFFLINE if CAN_UNSHARE else []), *one_core) == first


PLANTED = {
    "WANDB_API_KEY": "pl4nted-wandb",
    "HF_TOKEN": "hf_pl4nted",
    "GITHUB_TOKEN": "ghp_pl4nted",
}
PLANTED |= {"AWS_SECRET_ACCESS_KEY": "pl4nted/aws", "DVC_STUDIO_TOKEN": "pl4nted-dvc"}
PLANTED |= {"PIP_INDEX_URL": "https://me:pl4nted@host/"}
PLANTED |= {"MONGO_URL": "mongodb://me:pl4nted-mongo@127.0.0.1:1/sacred"}


def test_no_secret_of_the_environment_reaches_a_record_or_log(
    profile: Profile, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of a run whose worker fails with the address in its hands."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    specs = clean_runs(profile)[:2]
    with pytest.raises(RuntimeError, match="1 of 2 runs failed"):
        launch(specs, {specs[1].run_id: "raise"})
    written = [path for path in Path().rglob("*") if path.is_file()]
    assert {"cout.txt", ".log"} <= {of for path in written for of in (path.name, path.suffix)}
    assert [path for path in written if b"pl4nted" in path.read_bytes()] == []
