"""SIGKILL at random moments of `dvc repro`, a full disk, and runs that are lost: weights and ledger
end bitwise as if nothing had happened. The moments come from a seed that is printed;
`REPRO_KILL_SEED` repeats one, and of `REPRO_KILL_ROUNDS` everybody dies once in each.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import results, said, start
from tests.support.disk import fill, needs_mount, small_disk
from tests.support.processes import wait_for
from tests.support.slurm import NODES, Cluster, needs_slurm, running_cluster
from tests.support.synthetic import cleaning_cell, short_graph

pytestmark = pytest.mark.nightly

TARGET = "clean@kills-cc3m-mmcl"
TWO_RANKS = {"REPRO_RANKS": "2", "REPRO_SLOTS": "2"}
THROUGH_SLURM = {"REPRO_LAUNCHER": "slurm", "REPRO_NODES": "2", "REPRO_SLURM_POLL_SECONDS": "1"}
THROUGH_SLURM |= {"REPRO_SBATCH": "--cpus-per-task=1 --mem=500", **TWO_RANKS}
VICTIMS = {
    "rank": r"-m repro\.worker",
    "agent": r"-m repro\.launch\.torchrun",
    "job": r"-m repro run-job",
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
    for file, name, value in (
        ("process/checkpoint.py", "CHECKPOINT_SECONDS", "0.5"),
        ("shares.py", "CHECKPOINT_SHARE", "1.0"),
    ):
        path = folder / "repro" / "train" / file
        text = path.read_text()
        lines = re.MULTILINE
        text, found = re.subn(f"^{name} = .*$", f"{name} = {value}", text, flags=lines)
        assert found == 1
        path.write_text(text)
    (folder / "params.yaml").write_text("profile: kills\n")
    return folder


@pytest.fixture(scope="module")
def undisturbed(clean_folder: Path) -> dict[str, Any]:
    """What the graph ends with when nobody dies."""
    folder = Path(shutil.copytree(clean_folder, clean_folder.with_name("undisturbed")))
    complete(folder, **TWO_RANKS)
    return ending(folder)


def test_kills_on_a_machine_change_nothing(clean_folder: Path, undisturbed: dict[str, Any]) -> None:
    rounds = int(os.environ.get("REPRO_KILL_ROUNDS", "1"))
    victims = ["rank", "agent", "job", "dvc"] * rounds  # the driver dies on the cluster
    endings = under_fire(clean_folder, "local", victims, TWO_RANKS)
    assert endings
    assert all(each == undisturbed for each in endings)


@needs_slurm
def test_kills_on_a_cluster_change_nothing(
    clean_folder: Path, undisturbed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two ranks on two nodes end like two on one; a node or a driver that dies changes nothing."""
    victims = ["node", "driver"]
    with running_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        endings = under_fire(clean_folder, "slurm", victims, THROUGH_SLURM, cluster)
    assert endings
    assert all(each == undisturbed for each in endings)


@needs_mount
def test_a_full_disk_and_lost_runs_change_nothing(root: Path, tmp_path: Path) -> None:
    """Two pre-trainings are due at first, and one of them alone when it is lost."""
    changes = {"pretrain__seeds": [0, 1], "pretrain__evaluate_every_epochs": 6}
    changes["clean__cells"] = [cleaning_cell(["mmcl"], [1e-4], 16)]
    untouched = short_graph(root, tmp_path / "untouched", "kills", 12, ["mmcl"], **changes)
    (untouched / "params.yaml").write_text("profile: kills\n")

    with small_disk(tmp_path / "disk", "1g") as disk:
        folder = Path(shutil.copytree(untouched, disk / "study"))
        process = start(folder, "dvc", "repro", TARGET)
        wait_for(lambda: any(folder.glob("work/*/rows.jsonl")), seconds=DEADLINE_SECONDS)
        ballast = fill(disk, 0)
        assert process.wait(DEADLINE_SECONDS) != 0
        ballast.unlink()
        # DVC empties its list of readers and writers before it writes it, and refuses an empty one.
        (folder / ".dvc/tmp/rwlock").unlink(missing_ok=True)
        complete(folder)
        complete(untouched)
        undisturbed = of_target(untouched)
        assert len(undisturbed) == 2 * 2 + 2 + 2, "weights and optimizers, and rows of four runs"
        assert of_target(folder) == undisturbed

        for stage, models in (("pretrain", "models/kills/cc3m-mmcl/seed0"), ("clean", "")):
            lost = min(folder.glob(f"results/kills/{stage}/cc3m-mmcl/*"))
            fingerprint = json.loads((lost / "run.json").read_bytes())["fingerprint"]
            shutil.rmtree(lost)
            shutil.rmtree(folder / "work" / fingerprint)
            if models:
                shutil.rmtree(folder / models)
            complete(folder)
            assert json.loads((lost / "run.json").read_bytes())["fingerprint"] == fingerprint
            assert of_target(folder) == undisturbed


def complete(folder: Path, **settings: str) -> None:
    """Run the graph to its end."""
    process = start(folder, "dvc", "repro", TARGET, **settings)
    assert process.wait(DEADLINE_SECONDS) == 0, said(folder)


def under_fire(
    clean_folder: Path,
    name: str,
    victims: list[str],
    settings: dict[str, str],
    cluster: Cluster | None = None,
) -> list[dict[str, Any]]:
    """How the graph ended in new folders until all victims are dead, every second while it trains."""
    seed = int(os.environ.get("REPRO_KILL_SEED", random.SystemRandom().randrange(10**6)))
    rng = random.Random(seed)
    left = rng.sample(victims, len(victims))
    endings = []
    checkpoints = []
    print(f"REPRO_KILL_SEED={seed}: {' '.join(left)}")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while left:
        folder = Path(
            shutil.copytree(clean_folder, clean_folder.with_name(f"{name}{len(endings)}"))
        )
        process = start(folder, "dvc", "repro", TARGET, **settings)
        seen = ""
        due = 0.0
        while process.poll() != 0:
            assert time.monotonic() < deadline, f"{left} left: {said(folder)}"
            if process.returncode is not None:
                process = start(folder, "dvc", "repro", TARGET, **settings)
            if left and not seen and find(folder, left[0]):
                seen = left[0]
                due = 0.0
                before = newest_checkpoint(folder)
            early = len(left) % 2
            if seen and not due and (early or newest_checkpoint(folder) not in ("", before)):
                due = time.monotonic() + rng.uniform(0, 3 if early else 0.3)
            if seen and due and time.monotonic() >= due and (pids := find(folder, seen)):
                newest = newest_checkpoint(folder)
                if not newest and not early:  # its run has ended: wait for another's
                    due = 0.0
                    continue
                checkpoints.append(newest)
                print(f"{seen} after {newest or 'no checkpoint'}")
                kill(seen, pids if seen == "node" else [rng.choice(pids)], cluster)
                left.pop(0)
                seen = ""
            time.sleep(0.05)
        endings.append(ending(folder))
    assert len(set(checkpoints)) > len(victims) // 4, "killed runs went on from checkpoints"
    return endings


def newest_checkpoint(folder: Path) -> str:
    """Fingerprint and step of the checkpoint written last, or nothing."""
    times = {}
    for path in folder.glob("work/*/checkpoint-*"):
        with contextlib.suppress(FileNotFoundError):  # replaced by the next
            times[path.stat().st_mtime_ns] = f"{path.parent.name[:6]} {path.name}"
    return times[max(times)] if times else ""


def find(folder: Path, kind: str) -> list[int]:
    """Living processes of a kind in the folder; of a node, those of its jobs."""
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
    return at_work


def kill(kind: str, pids: list[int], cluster: Cluster | None) -> None:
    """SIGKILL; with a node go its daemon, which comes back, and all that jobs started."""
    if cluster is None or kind != "node":
        return silently_kill(pids[0])
    steps = {parent(pid) for pid in pids}
    cluster.daemons[NODES[0]].kill()
    cluster.daemons[NODES[0]].wait()
    for pid in [step for step in steps if "slurmstepd" in command(step)]:
        silently_kill(pid)
    for pid in pids:
        silently_kill(pid)
    return cluster.start_node(NODES[0])


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
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def ending(folder: Path) -> dict[str, Any]:
    """Of one model and its two cleanings; the better one of these is kept."""
    found = of_target(folder)
    assert len([name for name in found if name.endswith(".safetensors")]) == 3
    assert len([name for name in found if name.startswith("results")]) == 3
    return found


def of_target(folder: Path) -> dict[str, Any]:
    """Weights, bits and rows of the models of TARGET; others are made when there is time."""
    made = results(folder, "kills").items()
    return {name: content for name, content in made if "cc3m-mmcl/" in name}
