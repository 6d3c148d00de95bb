"""One rank of a batch of runs, which go one after another with shared data and start evaluation.

torchrun starts it as `-m repro.worker BATCH.json`. The file lists fingerprints under a work folder;
each run's `spec.json` there has its specification and the places of its inputs. Rank 0 reports by
the events of repro/events.py and leaves `outcome.json` in the run's folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from safetensors.torch import load_file

from repro import events
from repro.data.keyed import keyed_subset
from repro.data.shards import PairStore
from repro.data.templates import templates_of
from repro.evaluate.images import EvaluationSet
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import evaluate_model
from repro.files import read_json, replace_json
from repro.ledger import Input, LedgerError, RunOutcome, handed_on, pending_rows
from repro.runs.layout import content_hash
from repro.runs.run import LaunchError, Run
from repro.runs.version import same_digits
from repro.spec import RunSpec
from repro.train.defences import DEFENCES
from repro.train.loop import Task, train
from repro.train.model import build_model
from repro.train.pairs import TrainingPairs
from repro.train.predictions import Predictions
from repro.train.process import checkpoint, distributed
from repro.train.process.stopping import Stop
from repro.unchanged import code_digest

Rows = NDArray[np.int64]
Kept = TypeVar("Kept")
STATUS_SECONDS = 1.0
"""Least time between two writes of status.json."""


class Latest(Generic[Kept]):
    """Cache of one entry."""

    def __init__(self) -> None:
        self.key: object = None
        self.thing: Kept | None = None

    def get(self, key: object, make: Callable[[], Kept]) -> Kept:
        """The entry, made anew where the key differs. The old one is dropped first, for it may be
        large.
        """
        if self.thing is None or key != self.key:
            self.thing = None
            self.key, self.thing = key, make()
        return self.thing


class Resident:
    """Data and models that the runs of a batch share."""

    def __init__(self, cache: Path, device: torch.device) -> None:
        self.cache, self.device = cache, device
        self.store = lru_cache(maxsize=2)(PairStore.open)
        self.evaluation: Latest[EvaluationSet] = Latest()
        self.prompts: Latest[PromptSet] = Latest()
        self.starts: dict[tuple[object, ...], Predictions] = {}
        """Predictions of start models, by all that they depend on."""

    def task(
        self, spec: RunSpec, fingerprint: str, inputs: dict[str, Input], work_dir: Path
    ) -> Task:
        """The run's inputs, from memory where an earlier run has loaded them."""
        folder, synonyms = Path(inputs["pairs"]["path"]), Path(inputs["synonyms"]["path"])
        store = self.store(folder)

        def pairs(rows: Rows, rank: int, ranks: int) -> TrainingPairs:
            return TrainingPairs(spec, store, rows, synonyms, self.cache, rank, ranks)

        # Pairs kept from pre-training, not divided among the ranks: rank 0 of 1.
        validation = None
        if spec.model_age == "best_validation_loss":
            validation = pairs(store.rows("validation"), 0, 1)

        evaluation, prompts = self._evaluation(spec, Path(inputs["evaluation"]["path"]))

        precision = spec.evaluation_precision

        def evaluate(model: CLIP, step: int, draw: int, stop: Stop) -> Predictions:
            def fresh() -> Predictions:
                return evaluate_model(
                    model, evaluation, prompts, self.device, draw, precision, stop
                )

            # Pre-training starts from its own weights, and later steps are each run's own.
            if step or spec.stage == "pretrain":
                return fresh()
            # Runs that clean one model begin with the same evaluation.
            key = _start_key(spec, inputs)
            if key not in self.starts:
                self.starts[key] = fresh()
            return self.starts[key]

        return Task(
            spec=spec,
            fingerprint=fingerprint,
            work_dir=work_dir,
            pairs=pairs(_rows(spec, folder, store), distributed.rank(), distributed.ranks()),
            evaluate=evaluate,
            is_target=evaluation.is_target,
            is_validation=evaluation.is_validation,
            validation=validation,
        )

    def _evaluation(self, spec: RunSpec, folder: Path) -> tuple[EvaluationSet, PromptSet]:
        """Images and prompts of the run's zero-shot task."""
        size, switches = spec.model.vision.image_size, spec.switches
        names = tuple((folder / "classnames.txt").read_text(encoding="utf-8").splitlines())
        target, seed = names.index(spec.target_class), spec.evaluate.trigger_seed

        images = self.evaluation.get(
            (folder, size, target, spec.trigger, switches, seed),
            lambda: EvaluationSet.open(
                folder, size, target, spec.trigger, switches, seed, self.cache
            ),
        )
        prompts = self.prompts.get(
            (names, spec.evaluate, switches.truncation),
            lambda: PromptSet(names, templates_of(spec.evaluate), switches.truncation),
        )
        return images, prompts

    def start_model(self, spec: RunSpec, inputs: dict[str, Input]) -> tuple[CLIP, bytes | None]:
        """The model to train, and the optimizer state that goes with it where the switch restores
        it.

        ValueError if the start model is not the one that the run was planned with.
        """
        model = build_model(spec.model, spec.seed, spec.switches.initialisation)
        if spec.stage == "pretrain":
            return model.to(self.device), None

        # The file may have been replaced since the launch.
        folder, told = Path(inputs["model"]["path"]), inputs["model"]["hash"]
        if (found := content_hash(folder)) != told:
            raise ValueError(
                f"{folder}: content {found} (allowed: {told}, the model that the run was planned "
                "with); run the stage `pretrain` again, which publishes it anew"
            )
        model.load_state_dict(load_file(folder / "model.safetensors"))
        name, settings = spec.loss_settings
        if (change := DEFENCES[name].start) is not None:
            change(model, settings, spec.seed)

        restored = None
        if spec.switches.optimizer_state == "restored":
            restored = (folder / "optimizer.safetensors").read_bytes()
        return model.to(self.device), restored


def _start_key(spec: RunSpec, inputs: dict[str, Input]) -> tuple[object, ...]:
    """What the predictions of a cleaning run's start model depend on."""
    return (
        inputs["model"]["hash"],
        inputs["evaluation"]["hash"],
        spec.evaluation_key,
        (spec.defence, spec.seed) if spec.changes_start else None,
        spec.deterministic,
    )


def _rows(spec: RunSpec, folder: Path, store: PairStore) -> Rows:
    """Row numbers of the store that the run trains on.

    The control is pre-trained on all rows of an unpoisoned store.
    """
    if not (folder / "rows.npz").exists():
        return np.arange(len(store))
    if spec.stage == "pretrain":
        return store.rows("train")

    clean, poisoned = store.rows(str(spec.clean_size)), store.rows("poisoned")
    # Chosen by a key that holds the seed: each repetition is left with other poisoned pairs.
    left = keyed_subset(
        [store.keys[row].tobytes() for row in poisoned],
        spec.poisons_left,
        "poisons left",
        spec.seed,
    )
    return np.union1d(clean, poisoned[left])


class Reporter:
    """Reports of rank 0: events to the parent process, status.json for the driver."""

    def __init__(self, fingerprint: str, work_dir: Path, total_steps: int) -> None:
        self.fingerprint, self.work_dir, self.total_steps = fingerprint, work_dir, total_steps
        self.written = 0.0

    def start(self) -> None:
        """Report that the run begins."""
        self._emit({"event": "start", "fingerprint": self.fingerprint})

    def emit(self, event: str, content: dict[str, Any]) -> None:
        """Report the numbers of a step; called by the training loop."""
        assert event == "metrics"
        step, epoch = content["step"], content["epoch"]
        self._emit(
            {
                "event": "metrics",
                "fingerprint": self.fingerprint,
                "step": step,
                "epoch": epoch,
                "values": content["values"],
            }
        )

        if distributed.rank() == 0 and time.monotonic() - self.written > STATUS_SECONDS:
            self.written = time.monotonic()
            status = {
                "state": "running",
                "step": step,
                "total_steps": self.total_steps,
                "epoch": epoch,
            }
            replace_json(self.work_dir / "status.json", status, sync=False)

    def end(self, outcome: RunOutcome, result: dict[str, float]) -> None:
        """Report how the run ended."""
        self._emit(
            {
                "event": "end",
                "fingerprint": self.fingerprint,
                "status": outcome["status"],
                "reason": outcome["reason"],
                "result": result,
            }
        )

    def _emit(self, event: events.Event) -> None:
        if distributed.rank() == 0:
            events.emit(event)


def run_one(fingerprint: str, work: Path, resident: Resident, workers: int, code: str) -> None:
    """Train one run of the batch, or return at once if its outcome is there.

    `code` is the digest of this rank's code; LaunchError if the run was launched with another.
    """
    run = Run.load(fingerprint, work)
    if run.code != code:
        raise LaunchError(
            f"{run.name}: the code changed after the launch (digest {code}, at the launch "
            f"{run.code}); run the stage again"
        )
    work_dir = work / fingerprint
    # All ranks look before rank 0 of a finished run can go on and write.
    outcome: Any = read_json(work_dir / "outcome.json")
    distributed.barrier()
    if outcome is not None:
        Reporter(fingerprint, work_dir, 0).end(outcome, {})
        return

    attempts = _begin_attempt(work_dir, code)
    task = resident.task(run.spec, fingerprint, run.inputs, work_dir)
    reporter = Reporter(fingerprint, work_dir, len(task.pairs))
    reporter.start()
    model, restored = resident.start_model(run.spec, run.inputs)
    trained = train(task, model, restored, resident.device, reporter.emit, workers)

    distributed.barrier()
    if distributed.rank() == 0:
        steps = [item["row"]["step"] for item in pending_rows(work_dir)]
        outcome = asdict(trained) | attempts
        outcome |= {
            "files": handed_on(work_dir),
            "num_rows": len(steps),
            "last_step": steps[-1],
            "device": _device_name(resident.device),
        }
        replace_json(work_dir / "outcome.json", outcome)
        checkpoint.remove_checkpoints(work_dir)

        names = ("seconds", "num_samples", "peak_memory_bytes")
        reporter.end(outcome, {name: outcome[name] for name in names})


def _begin_attempt(work_dir: Path, code: str) -> dict[str, Any]:
    """Number of this attempt, start of the first, and code; kept over restarts.

    The run begins again where an earlier attempt left a damaged row, or ran code that may give
    other digits.
    """
    path = work_dir / "attempts.json"
    now: dict[str, Any] = {"attempts": 0, "started": datetime.now(UTC).isoformat(), "code": code}
    now |= read_json(path) or {}

    # Every rank has read the file before rank 0 replaces it.
    distributed.barrier()
    if distributed.rank() == 0:
        reason = "" if same_digits(now["code"], code) else "an earlier attempt ran other code"
        try:
            pending_rows(work_dir)
        except LedgerError as error:
            reason = str(error)
        if reason:
            print(f"warning: {reason}; the run begins again", flush=True)
            checkpoint.remove_checkpoints(work_dir)
            (work_dir / "rows.jsonl").unlink(missing_ok=True)
        now |= {"attempts": now["attempts"] + 1, "code": code}
        replace_json(path, now)
    distributed.barrier()
    return now


def _device_name(device: torch.device) -> str:
    """What torch computes on, in its own words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def main(pack_path: str) -> None:
    """Run the batch; exits with 143 when a signal asked to stop."""
    events.die_with_parent()
    code = code_digest()
    pack: events.PackFile = json.loads(Path(pack_path).read_text(encoding="utf-8"))
    distributed.repeatable(pack["threads"])
    device = distributed.start(pack["devices"])

    # What is loaded for one run stays for the next.
    work = Path(pack["work"])
    # The cache may be a link to a disk of the node, where its folder is not there yet.
    (work / "cache").resolve().mkdir(parents=True, exist_ok=True)
    resident = Resident(work / "cache", device)
    workers = int(os.environ.get("REPRO_LOADER_WORKERS", "0"))
    for fingerprint in pack["runs"]:
        run_one(fingerprint, work, resident, workers, code)
    distributed.stop()


if __name__ == "__main__":
    main(sys.argv[1])
