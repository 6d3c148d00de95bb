"""Batches of runs (packs): a process loads data and evaluates each start model once for all its
runs. `Attempts` counts the failures of runs.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from repro.events import PackFile
from repro.files import replace_json
from repro.launch.places import Place, cores, devices, shared_places, whole_place
from repro.names import LOSSES
from repro.runs.layout import WORK
from repro.runs.run import Run
from repro.spec import CleanSize, Dataset


@dataclass(frozen=True)
class Pack:
    """Runs of one process, in order, and where they go."""

    runs: tuple[Run, ...]
    place: Place

    @property
    def name(self) -> str:
        """Unique among the packs of a machine: the first run's fingerprint."""
        return self.runs[0].fingerprint


def write_pack(
    pack: Pack, path: Path, worker: str, grace_seconds: float, in_job: bool = False
) -> None:
    """Write what `python -m repro run-pack` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: PackFile = {
        "runs": [run.fingerprint for run in pack.runs],
        "work": WORK.as_posix(),
        "worker": worker,
        "ranks": pack.place.ranks,
        "nodes": pack.place.nodes,
        "threads": pack.place.threads,
        "devices": list(pack.place.devices),
        "in_job": in_job,
        "grace_seconds": grace_seconds,
    }
    replace_json(path, content)


def pack_log(pack: Pack) -> Path:
    """Where the output of a pack goes."""
    return WORK / "packs" / f"{pack.name}.log"


def cost(run: Run) -> float:
    """Expected duration in arbitrary units, comparable within a stage."""
    pairs = _num_pairs(run.inputs["pairs"]["path"], run.spec.dataset, run.spec.clean_size)
    # A second view of every pair doubles the time of a step.
    return LOSSES[run.spec.loss].views * run.spec.schedule.epochs * pairs


@cache
def _num_pairs(store: str, dataset: Dataset, size: CleanSize | None) -> int:
    """Pairs that a run trains on, as its store tells; else as the names of sizes do: 100k, cc3m."""
    folder = Path(store)
    try:
        # Only a poisoned store has accounts.
        if (folder / "accounting.json").exists():
            accounts = json.loads((folder / "accounting.json").read_bytes())
            return int(accounts["cleaning"][size] if size else accounts["train"])
        return sum(shard["count"] for shard in json.loads((folder / "shards.json").read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return int((size or dataset).strip("ckm"))


def queues(runs: list[Run], nodes: int | None = None) -> list[list[Pack]]:
    """Packs in the order of their start, one list per place.

    Short runs go to the place with the least to do, longest first. A pre-training takes the whole
    machine, or `nodes` of a cluster's; see `_alone` for the exception.
    """
    alone = _alone(runs, nodes)
    shared = [run for run in runs if run not in alone]

    places = shared_places()[: len(shared)]
    shares: list[list[Run]] = [[] for _ in places]
    for run in sorted(shared, key=cost, reverse=True):
        least = min(shares, key=lambda mine: sum(map(cost, mine)))
        least.append(run)

    # Runs that take the whole machine share one queue: they go one after another.
    result = []
    if alone:
        result.append(_packs([(run, whole_place(run, nodes)) for run in alone], nodes is not None))
    for share, place in zip(shares, places, strict=True):
        result.append(_packs([(run, place) for run in share], nodes is not None))
    return result


def _alone(runs: list[Run], nodes: int | None) -> list[Run]:
    """Runs that each take the whole machine: the pre-trainings.

    Not on one machine without GPU that has as many of them as cores, and no wish for ranks: there
    one core each is faster than all cores for one.
    """
    found = [run for run in runs if run.spec.stage == "pretrain"]
    one_core_each = nodes is None and not devices() and len(found) >= cores()
    return [] if one_core_each and "REPRO_RANKS" not in os.environ else found


def _packs(placed: list[tuple[Run, Place]], on_cluster: bool) -> list[Pack]:
    """Group runs that share place and data, those of one start model and size side by side."""
    groups: dict[tuple[Place, str, str], list[Run]] = defaultdict(list)
    for run, place in placed:
        # A process opens one store of pairs and keeps it. On a cluster each pre-training is a job
        # of its own: they go side by side, and a failure of one costs the others nothing.
        alone = run.fingerprint if run.spec.stage == "pretrain" and on_cluster else ""
        groups[place, run.spec.stage, run.inputs["pairs"]["path"] + alone].append(run)

    packs = []
    for (place, _, _), members in groups.items():
        packs.append(Pack(tuple(sorted(members, key=_resident)), place))
    return packs


def _resident(run: Run) -> tuple[str, ...]:
    """What a process keeps in memory from one run to the next, if it does not change.

    These are the evaluation set, the start model and the pairs.
    """
    spec = run.spec
    model = run.inputs["model"]["hash"] if "model" in run.inputs else ""
    return (spec.evaluation_key, model, str(spec.clean_size))


class Attempts:
    """Failures of runs in a row without progress.

    A run of days on eight GPUs meets a bad memory cell or a lost node more than once; a fault of
    its own it meets at the same step again.
    """

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        # By run, those that started in one process with it, and their progress then.
        self.begun: dict[str, tuple[Sequence[Run], tuple[int, int]]] = {}

    def begin(self, runs: Sequence[Run]) -> None:
        """These runs start in one process: progress of one of them counts for all."""
        for run in runs:
            self.begun[run.fingerprint] = runs, run_progress(runs)

    def failed(self, run: Run) -> int:
        """Note an end without a result of the run; its failures in a row, this one included."""
        runs, before = self.begun[run.fingerprint]
        if run_progress(runs) > before:
            self.failures[run.fingerprint] = 0
        self.failures[run.fingerprint] += 1
        return self.failures[run.fingerprint]


def run_progress(runs: Sequence[Run]) -> tuple[int, int]:
    """How many runs have ended, and the sum of the steps in the others' newest checkpoints."""
    ended = [run for run in runs if (run.work_dir / "record.json").exists()]
    steps = 0
    for run in runs:
        names = [path.name for path in run.work_dir.glob("checkpoint-*") if run not in ended]
        steps += max((int(name.partition("-")[2]) for name in names), default=0)
    return len(ended), steps
