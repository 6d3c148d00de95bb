"""SIGKILL at random moments of a graph: whoever dies, the weights and the ledger end bitwise as if
nobody had.

Each round is the real `dvc repro` of one cell (data to cleaning), called again until it succeeds.
The moments come from a seed that is printed; `REPRO_KILL_SEED` repeats one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkout import environment
from tests.support.slurm import NODES, Cluster, needs_slurm, running_cluster
from tests.support.synthetic import cleaning_cell, short_graph

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TARGET = "clean@kills-cc3m-mmcl"
TWO_RANKS = {"REPRO_RANKS": "2", "REPRO_SLOTS": "2"}
THROUGH_SLURM = {
    "REPRO_LAUNCHER": "slurm",
    "REPRO_NODES": "2",
    "REPRO_SLURM_POLL": "1",
    "REPRO_SBATCH": "--cpus-per-task=1 --mem=500",
    **TWO_RANKS,
}
VICTIMS = {
    "rank": r"-m repro\.worker",
    "agent": r"-m repro\.launch\.torchrun",
    "pack": r"-m repro run-pack",
    "driver": r"^\S*python\S* -m repro (data|poison|pretrain|clean) ",
    "dvc": r"-m dvc repro",
}
"""Kind of process to a pattern of its command line."""
DEADLINE_SECONDS = 800


@pytest.fixture(scope="module")
def clean_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a short graph that has not run, checkpoints coming thick and fast."""
    folder = tmp_path_factory.mktemp("kills") / "untouched"
    cell = cleaning_cell(["mmcl"], [1e-4], 16) | {"losses": ["mmcl", "mmcl_ssl"]}
    rhythm = {"pretrain__evaluate_every_epochs": 6, "clean__epochs": 6}
    short_graph(root, folder, "kills", 12, ["mmcl"], clean__cells=[cell], **rhythm)
    rhythm = folder / "repro" / "train" / "process" / "checkpoint.py"
    text = rhythm.read_text()
    for name, value in (("CHECKPOINT_SECONDS", "0.5"), ("CHECKPOINT_SHARE", "1.0")):
        text, found = re.subn(f"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert found == 1
    rhythm.write_text(text)
    (folder / "params.yaml").write_text("profile: kills\n")
    return folder


@pytest.fixture(scope="module")
def undisturbed(clean_folder: Path) -> dict[str, Any]:
    """What the graph ends with when nobody dies."""
    folder = copied(clean_folder, "undisturbed")
    assert repro(folder, TWO_RANKS).wait(DEADLINE_SECONDS) == 0, (folder / "work.log").read_text()[
        -3000:
    ]
    return ending(folder)


def test_kills_on_one_machine_change_nothing(
    clean_folder: Path, undisturbed: dict[str, Any]
) -> None:
    seed, rng = seeded()
    victims = ["rank", "rank", "agent", "agent", "pack", "driver", "driver", "dvc"]
    rng.shuffle(victims)
    print(f"REPRO_KILL_SEED={seed}: {' '.join(victims)}")
    endings = under_fire(clean_folder, "local", victims, rng, TWO_RANKS)
    assert endings and all(each == undisturbed for each in endings)


@needs_slurm
def test_kills_on_a_cluster_change_nothing(
    clean_folder: Path, undisturbed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two ranks on two nodes end like two ranks on one, and killed daemons and nodes change nothing
    either.
    """
    seed, rng = seeded()
    victims = ["slurmd", "node", "rank", "agent", "driver", "dvc"]
    rng.shuffle(victims)
    print(f"REPRO_KILL_SEED={seed}: {' '.join(victims)}")
    with running_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        endings = under_fire(clean_folder, "slurm", victims, rng, THROUGH_SLURM, cluster)
    assert endings and all(each == undisturbed for each in endings)


def under_fire(
    clean_folder: Path,
    name: str,
    victims: list[str],
    rng: random.Random,
    settings: dict[str, str],
    cluster: Cluster | None = None,
) -> list[dict[str, Any]]:
    """Run the graph to its end, in new folders until every victim is dead; how each ended.

    Every second victim has begun to train: it dies soon after a checkpoint. The others die soon
    after they start.
    """
    left, endings, checkpoints = list(victims), [], []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while left:
        folder = copied(clean_folder, f"{name}{len(endings)}")
        process = repro(folder, settings)
        seen, due = "", 0.0
        while process.poll() != 0:
            assert time.monotonic() < deadline, (
                f"{left} left: {(folder / 'work.log').read_text()[-3000:]}"
            )
            if process.returncode is not None:
                process = repro(folder, settings)
            if left and not seen and find(folder, left[0], cluster):
                seen, due, before = left[0], 0.0, newest_checkpoint(folder)
            early = len(left) % 2
            if seen and not due and (early or newest_checkpoint(folder) not in ("", before)):
                due = time.monotonic() + rng.uniform(0, 3 if early else 0.3)
            if seen and due and time.monotonic() >= due and (pids := find(folder, seen, cluster)):
                if (
                    not (newest := newest_checkpoint(folder)) and not early
                ):  # its run has ended meanwhile: wait for another's
                    due = 0.0
                    continue
                checkpoints.append(newest)
                print(f"{seen} after {newest or 'no checkpoint'}")
                kill(seen, pids if seen == "node" else [rng.choice(pids)], cluster)
                left.pop(0)
                seen = ""
            time.sleep(0.05)
        endings.append(ending(folder))
    assert len(set(checkpoints)) > len(victims) // 4, (
        "runs that were killed went on from checkpoints"
    )
    return endings


def newest_checkpoint(folder: Path) -> str:
    """Fingerprint and step of the checkpoint written last, or nothing."""
    times = {}
    for path in folder.glob("work/*/checkpoint-*"):
        with contextlib.suppress(FileNotFoundError):  # replaced by the next
            times[path.stat().st_mtime_ns] = f"{path.parent.name[:6]} {path.name}"
    return times[max(times)] if times else ""


def find(folder: Path, kind: str, cluster: Cluster | None) -> list[int]:
    """Living processes of a kind that work in the folder; of a daemon or node, only while a job is
    at work there.
    """
    at_work: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") != str(folder):
                continue
            if kind in VICTIMS:
                found = re.search(VICTIMS[kind], command(int(entry.name))) is not None
            else:
                found = f"SLURMD_NODENAME={NODES[0]}\0".encode() in (entry / "environ").read_bytes()
            at_work += [int(entry.name)] * found
        except OSError:
            continue
    if kind == "slurmd" and at_work and cluster:
        return [cluster.daemons[NODES[0]].pid]
    return at_work


def kill(kind: str, pids: list[int], cluster: Cluster | None) -> None:
    """SIGKILL; a killed daemon comes back at once, and with a node go its daemon and all that its
    jobs had started.
    """
    if kind in ("slurmd", "node"):
        assert cluster
        steps = {parent(pid) for pid in pids} if kind == "node" else set()
        cluster.daemons[NODES[0]].kill()
        cluster.daemons[NODES[0]].wait()
        for pid in [
            *(step for step in steps if "slurmstepd" in command(step)),
            *(pids if kind == "node" else []),
        ]:
            silently_kill(pid)
        cluster.start_node(NODES[0])
    else:
        silently_kill(pids[0])


def silently_kill(pid: int) -> None:
    """SIGKILL to a process that may just have ended, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while command(pid):
        time.sleep(0.01)


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def command(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def repro(folder: Path, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start `dvc repro` of the target; its output goes to a file, since orphans would hold a pipe
    open.
    """
    with (folder / "work.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", TARGET],
            cwd=folder,
            env=environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def copied(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(name)))


def ending(folder: Path) -> dict[str, Any]:
    """Weights, rows and bits of every run of the cell, without times."""
    found: dict[str, Any] = {}
    for path in sorted(
        [
            *folder.glob("models/**/cc3m-mmcl/**/*.safetensors"),
            *folder.glob("results/**/cc3m-mmcl/**/run.json"),
        ]
    ):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            continue
        rows = [json.loads(line) for line in (path.parent / "rows.jsonl").read_text().splitlines()]
        with np.load(path.parent / "bits.npz", allow_pickle=False) as bits:
            found[name] = {
                "status": json.loads(path.read_text())["status"],
                "rows": [
                    {key: value for key, value in row.items() if key != "seconds"} for row in rows
                ],
                "bits": {key: bits[key].tobytes().hex() for key in sorted(bits)},
            }
    counts = Counter(Path(name).name for name in found)
    assert counts == {
        "model.safetensors": 1,
        "optimizer.safetensors": 1,
        "100k-seed0.safetensors": 1,
        "run.json": 3,
    }
    return found


def seeded() -> tuple[int, random.Random]:
    seed = int(os.environ.get("REPRO_KILL_SEED", random.SystemRandom().randrange(10**6)))
    return seed, random.Random(seed)
