"""What torchrun starts: one pack of runs, one after another, with shared data and start evaluation.

`torchrun ... -m repro.worker PACK.json`. A pack lists fingerprints under its work folder; each run's `spec.json` there
says what it is and where its inputs lie. Rank 0 reports by the events of repro/events.py and leaves `outcome.json` in the
run's folder; the ranks know nothing of the tracker.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP

from repro import events
from repro.data.keyed import keyed_subset
from repro.data.shards import PairStore
from repro.data.templates import templates_of
from repro.evaluate.images import EvaluationSet
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import evaluate_model
from repro.files import replace_file
from repro.spec import EvaluateSpec, RunSpec, Switches, Trigger
from repro.train import checkpoint, distributed
from repro.train.loop import Task, train
from repro.train.model import build_model, shrink_and_perturb
from repro.train.pairs import TrainingPairs
from repro.train.predictions import Predictions
from repro.train.stopping import Stop
from repro.train.tensor_files import load_model

Rows = NDArray[np.int64]
STATUS_SECONDS = 1.0
"""Least time between two writes of status.json."""


class Resident:
    """Data and models that the runs of a pack share."""

    def __init__(self, cache: Path, device: torch.device) -> None:
        self.cache, self.device = cache, device
        self.store = lru_cache(maxsize=2)(PairStore.open)
        self.starts: dict[tuple[str, ...], Predictions] = {}
        """Predictions of start models by the hashes of the model and the evaluation set, how it is evaluated, and what was done to it."""
        self.evaluation = lru_cache(maxsize=1)(self._evaluation)
        self.prompts = lru_cache(maxsize=1)(self._prompts)

    def _evaluation(
        self, folder: str, size: int, target: int, trigger: str, switches: str, seed: int
    ) -> EvaluationSet:
        parsed = Trigger.model_validate_json(trigger), Switches.model_validate_json(switches)
        return EvaluationSet(Path(folder), size, target, *parsed, seed, self.cache)

    def _prompts(self, classnames: tuple[str, ...], spec: str, truncation: Any) -> PromptSet:
        return PromptSet(
            classnames, templates_of(EvaluateSpec.model_validate_json(spec)), truncation
        )

    def task(self, spec: RunSpec, content: dict[str, Any], work_dir: Path) -> Task:
        """Load (or find loaded) what the run needs."""
        inputs = content["inputs"]
        folder, synonyms = Path(inputs["pairs"]["path"]), Path(inputs["synonyms"]["path"])
        store = self.store(folder)
        pairs = TrainingPairs(
            spec,
            store,
            _rows(spec, folder, store),
            synonyms,
            self.cache,
            distributed.rank(),
            distributed.ranks(),
        )
        validation = None
        if spec.model_age == "best_validation_loss":
            validation = TrainingPairs(
                spec, store, _read_rows(folder, "validation"), synonyms, self.cache, 0, 1
            )
        names = tuple(
            (Path(inputs["evaluation"]["path"]) / "classnames.txt")
            .read_text(encoding="utf-8")
            .splitlines()
        )
        evaluation = self.evaluation(
            inputs["evaluation"]["path"],
            spec.model.vision.image_size,
            names.index(spec.target_class),
            spec.trigger.model_dump_json(),
            spec.switches.model_dump_json(),
            spec.evaluate.trigger_seed,
        )
        prompts = self.prompts(names, spec.evaluate.model_dump_json(), spec.switches.truncation)

        precision = spec.evaluate.precision or spec.precision

        def evaluate(model: CLIP, step: int, draw: int, stop: Stop) -> Predictions:
            if step or spec.mitigation is None:
                return evaluate_model(
                    model, evaluation, prompts, self.device, draw, precision, stop
                )
            start = f"{spec.mitigation.shrink} {spec.mitigation.perturb} {spec.seed}"
            start += f" {precision} {spec.deterministic}"
            how = (part.model_dump_json() for part in (spec.switches, spec.trigger, spec.evaluate))
            key = (inputs["model"]["hash"], inputs["evaluation"]["hash"], *how, start)
            if key not in self.starts:
                self.starts[key] = evaluate_model(
                    model, evaluation, prompts, self.device, draw, precision, stop
                )
            return self.starts[key]

        return Task(
            spec,
            content["fingerprint"],
            work_dir,
            pairs,
            evaluate,
            evaluation.is_target,
            validation,
        )

    def start_model(self, spec: RunSpec, inputs: dict[str, Any]) -> tuple[CLIP, bytes | None]:
        """The model to train, and the optimizer state that goes with it where the switch restores it."""
        model = build_model(spec.model, spec.seed, spec.switches.initialisation)
        restored = None
        if spec.mitigation is not None:
            folder = Path(inputs["model"]["path"])
            load_model(model, folder / "model.safetensors")
            shrink_and_perturb(model, spec.mitigation, spec.seed)
            if spec.switches.optimizer_state == "restored":
                restored = (folder / "optimizer.safetensors").read_bytes()
        return model.to(self.device), restored


def _rows(spec: RunSpec, folder: Path, store: PairStore) -> Rows:
    """Row numbers of the store that the run trains on; the control is pre-trained on all rows of an unpoisoned store."""
    if not (folder / "rows.npz").exists():
        return np.arange(len(store))
    if spec.mitigation is None:
        return _read_rows(folder, "train")
    clean, poisoned = _read_rows(folder, str(spec.clean_size)), _read_rows(folder, "poisoned")
    left = keyed_subset(
        [store.keys[row].tobytes() for row in poisoned],
        spec.mitigation.poisons_left,
        "poisons left",
        spec.seed,
    )
    return np.union1d(clean, poisoned[left])


def _read_rows(folder: Path, name: str) -> Rows:
    with np.load(folder / "rows.npz", allow_pickle=False) as file:
        rows: Rows = file[name]
        return rows


class Reporter:
    """Rank 0's voice: events to the parent, status.json for whoever watches."""

    def __init__(self, fingerprint: str, work_dir: Path, total_steps: int) -> None:
        self.fingerprint, self.work_dir, self.total_steps = fingerprint, work_dir, total_steps
        self.written = 0.0

    def emit(self, event: str, content: dict[str, Any]) -> None:
        """Report one event; metrics also move the status."""
        if distributed.rank():
            return
        events.emit(event, self.fingerprint, **content)
        if event == "metrics" and time.monotonic() - self.written > STATUS_SECONDS:
            self.written = time.monotonic()
            status = {
                "state": "running",
                "step": content["step"],
                "total_steps": self.total_steps,
                "epoch": content["epoch"],
            }
            replace_file(self.work_dir / "status.json", json.dumps(status).encode())


def run_one(fingerprint: str, work: Path, resident: Resident, workers: int) -> None:
    """Train one run of the pack, or return at once if its outcome is there."""
    work_dir = work / fingerprint
    if (work_dir / "outcome.json").exists():
        outcome = json.loads((work_dir / "outcome.json").read_text(encoding="utf-8"))
        Reporter(fingerprint, work_dir, 0).emit(
            "end", {key: outcome[key] for key in ("status", "reason")} | {"result": {}}
        )
        return
    content = json.loads((work_dir / "spec.json").read_text(encoding="utf-8"))
    spec = RunSpec.model_validate(content["spec"])
    attempts = _count_attempt(work_dir)
    task = resident.task(spec, content, work_dir)
    reporter = Reporter(fingerprint, work_dir, len(task.pairs))
    reporter.emit("start", {})
    model, restored = resident.start_model(spec, content["inputs"])
    trained = train(task, model, restored, resident.device, reporter.emit, workers)
    distributed.barrier()
    if distributed.rank() == 0:
        outcome = asdict(trained) | attempts
        replace_file(work_dir / "outcome.json", json.dumps(outcome).encode())
        checkpoint.remove_checkpoints(work_dir)
        result = {key: outcome[key] for key in ("seconds", "num_samples", "peak_memory_bytes")}
        reporter.emit(
            "end", {"status": outcome["status"], "reason": outcome["reason"], "result": result}
        )


def _count_attempt(work_dir: Path) -> dict[str, Any]:
    """Number of this attempt and start of the first, kept over restarts."""
    path = work_dir / "attempts.json"
    before: dict[str, Any] = {"attempts": 0, "started": datetime.now(UTC).isoformat()}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
    now = {**before, "attempts": before["attempts"] + 1}
    if distributed.rank() == 0:
        replace_file(path, json.dumps(now).encode())
    distributed.barrier()
    return now


def main(pack_path: str) -> None:
    """Run the pack; exits with 143 when a signal asked to stop."""
    events.die_with_parent()
    pack = json.loads(Path(pack_path).read_text(encoding="utf-8"))
    distributed.repeatable(pack["threads"])
    device = distributed.start()
    work = Path(pack["work"])
    resident = Resident(work / "cache", device)
    workers = int(os.environ.get("REPRO_LOADER_WORKERS", "0"))
    for fingerprint in pack["runs"]:
        run_one(fingerprint, work, resident, workers)
    distributed.stop()


if __name__ == "__main__":
    main(sys.argv[1])
