"""Runs grouped into packs: one process that starts once, loads the data once, and evaluates each start model once."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from repro.files import replace_file
from repro.launch.places import Slot, cores, devices, single_slots, whole_slot
from repro.runs.layout import WORK
from repro.runs.run import Run


def write_pack(pack: Pack, path: Path, worker: str) -> None:
    """Write what `python -m repro run-pack` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "runs": [run.fingerprint for run in pack.runs],
        "work": WORK.as_posix(),
        "worker": worker,
        "ranks": pack.slot.ranks,
        "nodes": pack.slot.nodes,
        "threads": pack.slot.threads,
    }
    replace_file(path, json.dumps(content, indent=1).encode())


def pack_log(pack: Pack) -> Path:
    """Where the output of a pack goes."""
    return WORK / "packs" / f"{pack.name}.log"


LOSS_COST = {"mmcl": 1.0, "ssl": 2.0, "mmcl_ssl": 2.0}
"""Time of a training step relative to MMCL: SSL encodes a second view of every pair."""


@dataclass(frozen=True)
class Pack:
    """Runs of one process, in order, and where they go."""

    runs: tuple[Run, ...]
    slot: Slot

    @property
    def name(self) -> str:
        """Unique among the packs of a machine: the first run's fingerprint."""
        return self.runs[0].fingerprint


def cost(run: Run) -> float:
    """Expected duration in arbitrary units, comparable within a stage."""
    pairs = int(
        (run.spec.clean_size or run.spec.dataset).strip("ckm")
    )  # the names of sizes and slots are their sizes
    return LOSS_COST[run.spec.loss] * run.spec.schedule.epochs * pairs


def queues(runs: list[Run], nodes: int | None = None) -> list[list[Pack]]:
    """Packs in the order of their start, one list per slot.

    Short runs go to the slot with the least to do, longest first. A pre-training takes the whole machine, or `nodes` of a
    cluster's, unless this is one machine without GPU and there are as many pre-trainings as cores: then one core each is
    faster than all cores for one.
    """
    alone = [run for run in runs if run.spec.stage == "pretrain"]
    if nodes is None and not devices() and len(alone) >= cores():
        alone = []
    shared = [run for run in runs if run not in alone]
    slots = single_slots()[: len(shared)]
    shares: list[list[Run]] = [[] for _ in slots]
    for run in sorted(shared, key=cost, reverse=True):
        min(shares, key=lambda mine: sum(map(cost, mine))).append(run)
    result = [_packs(alone, [whole_slot(run, nodes or 1) for run in alone])] if alone else []
    return result + [
        _packs(share, [slot] * len(share)) for share, slot in zip(shares, slots, strict=True)
    ]


def _packs(runs: list[Run], slots: list[Slot]) -> list[Pack]:
    """Group runs that share slot and data, those of one start model and cleaning size one after another."""
    groups: dict[tuple[object, ...], list[Run]] = defaultdict(list)
    for run, slot in zip(runs, slots, strict=True):
        groups[slot, run.spec.stage, run.inputs["pairs"]["hash"]].append(run)
    for members in groups.values():
        members.sort(key=_resident)
    return [
        Pack(tuple(members), slot)
        for (slot, *_), members in groups.items()
        if isinstance(slot, Slot)
    ]


def _resident(run: Run) -> tuple[str, ...]:
    """What a process keeps in memory from one run to the next, if it does not change: evaluation, start model, pairs."""
    spec = run.spec
    model = run.inputs["model"]["hash"] if "model" in run.inputs else ""
    return (spec.evaluation_key, model, str(spec.clean_size))
