"""One rank of a job, whose runs go one after another with shared data and start evaluation.

torchrun starts it as `-m repro.worker JOB.json`. The file lists fingerprints under a work folder;
each run's `spec.json` there has its specification and the places of its inputs. Rank 0 reports by
the events of repro/events.py and leaves `outcome.json` in the run's folder.
"""

import gc
import json
import os
import socket
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from safetensors.torch import load_file

from repro import events
from repro.data.keyed import keyed_subset
from repro.data.shards import PairStore
from repro.data.templates import templates_of
from repro.edits import code_digest
from repro.evaluate.images import EvaluationSet
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import evaluate_model
from repro.files import read_json, replace_json
from repro.ledger import CLEANED, Input, LedgerError, handed_on, pending_rows
from repro.runs.layout import STATUS, content_hash
from repro.runs.run import LaunchError, Run
from repro.spec import RunSpec
from repro.train.build import build_model
from repro.train.defences import DEFENCES
from repro.train.loop import Task, train
from repro.train.pairs import MadeBatches, TrainingPairs
from repro.train.predictions import Predictions
from repro.train.process import checkpoint, distributed
from repro.train.process.stopping import Stop

Rows = NDArray[np.int64]
STATUS_SECONDS = 1.0
"""Least time between two writes of STATUS."""


class ZeroShot(NamedTuple):
    """What the evaluations of a run look at."""

    images: EvaluationSet
    images_between: EvaluationSet
    """Those within an epoch."""
    prompts: PromptSet


class Resident:
    """Data and models that the runs of a job share."""

    def __init__(self, cache: Path, device: torch.device) -> None:
        self.cache = cache
        self.device = device
        self.store = lru_cache(maxsize=2)(PairStore.open)
        self.evaluations: dict[object, ZeroShot] = {}
        """The last zero-shot task by all that it depends on."""
        self.starts: dict[tuple[object, ...], Predictions] = {}
        """Predictions of start models, likewise."""
        self.made = MadeBatches()

    def task(
        self, spec: RunSpec, fingerprint: str, inputs: dict[str, Input], work_dir: Path
    ) -> Task:
        """The run's inputs, from memory where an earlier run has loaded them."""
        folder = Path(inputs["pairs"]["path"])
        store = self.store(folder)
        pairs = partial(
            TrainingPairs,
            spec,
            store,
            synonyms=Path(inputs["synonyms"]["path"]),
            cache=self.cache,
            rank=distributed.rank(),
            ranks=distributed.ranks(),
            made=self.made,
        )
        training = pairs(rows=_rows(spec, folder, store))
        validation = None
        if spec.model_age == "best_validation_loss":
            # Pairs kept from pre-training.
            validation = pairs(rows=store.rows("validation"))

        zero_shot = self._zero_shot(spec, Path(inputs["evaluation"]["path"]))

        # Runs that clean one model begin with the same evaluation.
        hashes = (inputs[name]["hash"] for name in ("model", "evaluation") if name in inputs)
        start = (*hashes, spec.evaluation_key, spec.deterministic, spec.compile)
        shared = spec.stage == "clean" and DEFENCES[spec.defence_settings.name].start is None

        def evaluate(model: CLIP, step: int, draw: int, stop: Stop) -> Predictions:
            if shared and step == 0 and start in self.starts:
                return self.starts[start]
            images = zero_shot.images
            if step % training.steps_per_epoch:
                images = zero_shot.images_between
            predictions = evaluate_model(
                model,
                images,
                zero_shot.prompts,
                self.device,
                draw=draw,
                precision=spec.evaluation_precision,
                between=stop,
                compiled=spec.compile,
            ).among(images.numbers, len(zero_shot.images))
            if shared and step == 0:
                self.starts[start] = predictions
            return predictions

        return Task(
            spec=spec,
            fingerprint=fingerprint,
            work_dir=work_dir,
            pairs=training,
            evaluate=evaluate,
            is_target=zero_shot.images.is_target,
            is_validation=zero_shot.images.is_validation,
            validation=validation,
        )

    def _zero_shot(self, spec: RunSpec, folder: Path) -> ZeroShot:
        """The run's zero-shot task; its images are in the store `folder`."""
        key = folder, spec.evaluation_key, spec.images_between
        if key not in self.evaluations:
            self.evaluations.clear()
            names = (folder / "classnames.txt").read_text(encoding="utf-8").splitlines()
            target = names.index(spec.target_class)
            images = between = EvaluationSet.of_run(spec, folder, target, self.cache)
            if spec.images_between:
                between = EvaluationSet.of_run(
                    spec, folder, target, self.cache, per_class=spec.images_between
                )
            prompts = PromptSet(names, templates_of(spec.evaluate), spec.switches.truncation)
            self.evaluations[key] = ZeroShot(images, between, prompts)
        return self.evaluations[key]

    def start_model(self, spec: RunSpec, inputs: dict[str, Input]) -> tuple[CLIP, bytes | None]:
        """The model to train, and the optimizer state that goes with it where the switch restores
        it.

        ValueError if the start model is not the one that the run was planned with.
        """
        model = build_model(spec.model, spec.seed, spec.switches.initialisation)
        if spec.stage == "pretrain":
            return model.to(self.device), None

        # The file may have been replaced since the launch.
        folder = Path(inputs["model"]["path"])
        planned = inputs["model"]["hash"]
        if (present := content_hash(folder)) != planned:
            raise ValueError(
                f"{folder}: content {present} (allowed: {planned}, the model that the run was "
                "planned with); run the stage `pretrain` again, which publishes it anew"
            )
        model.load_state_dict(load_file(folder / "model.safetensors"))
        name, settings = spec.defence_settings
        if (change := DEFENCES[name].start) is not None:
            change(model, settings, spec.seed)

        restored = None
        if spec.switches.optimizer_state == "restored":
            restored = (folder / "optimizer.safetensors").read_bytes()
        return model.to(self.device), restored


def _rows(spec: RunSpec, folder: Path, store: PairStore) -> Rows:
    """Rows of the store that the run trains on; the unpoisoned control takes all."""
    if not (folder / "rows.npz").exists():
        return np.arange(len(store))
    if spec.stage == "pretrain":
        return store.rows("train")

    clean = store.rows(str(spec.clean_size))
    poisoned = store.rows("poisoned")
    # Chosen by a key that holds the seed: each repetition is left with other poisoned pairs.
    left = keyed_subset(store.keys[poisoned], spec.poisons_left, "poisons left", spec.seed)
    return np.union1d(clean, poisoned[left])


def run_one(fingerprint: str, work: Path, resident: Resident, workers: int, code: str) -> None:
    """Train one run of the job, or return at once if its outcome is there.

    `code` is the digest of this rank's code; LaunchError if the run was launched with another.
    """
    run = Run.load(fingerprint, work)
    if run.code != code:
        raise LaunchError(
            f"{run.name}: the code changed after the launch (digest {code}, at the launch "
            f"{run.code}); run the stage again"
        )
    work_dir = work / fingerprint
    rank = distributed.rank()
    device = resident.device

    def report(event: str, **content: Any) -> None:
        if rank == 0:
            events.emit({"event": event, "fingerprint": fingerprint, **content})

    # All ranks look before rank 0 of a finished run can go on and write.
    outcome: Any = read_json(work_dir / "outcome.json")
    distributed.barrier()
    if outcome is not None:
        report("end", status=outcome["status"], reason=outcome["reason"], result={})
        return

    attempts = _begin_attempt(work_dir, code)
    task = resident.task(run.spec, fingerprint, run.inputs, work_dir)
    written = 0.0
    # For those who watch: a resumed run goes on from what its last attempt left.
    status: dict[str, Any] = (read_json(work_dir / STATUS) or {}) | {"host": socket.gethostname()}

    def metrics(_: str, content: dict[str, Any]) -> None:
        nonlocal written, status
        report("metrics", **content)
        status |= content | {"values": status.get("values", {}) | content["values"]}
        if rank == 0 and time.monotonic() - written > STATUS_SECONDS:
            written = time.monotonic()
            replace_json(work_dir / STATUS, status, sync=False)

    report("start")
    if rank == 0:
        replace_json(work_dir / STATUS, status, sync=False)
    # DDP and caches tie an earlier run's model into cycles, and two do not fit beside each other.
    gc.collect()
    model, restored = resident.start_model(run.spec, run.inputs)
    trained = train(task, model, restored, device, metrics, workers)

    distributed.barrier()
    if rank == 0:
        steps = [row.step for row in pending_rows(work_dir)]
        outcome = {
            **trained,
            **attempts,
            "files": handed_on(work_dir),
            "num_rows": len(steps),
            "last_step": steps[-1],
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }
        replace_json(work_dir / "outcome.json", outcome)
        checkpoint.remove_checkpoints(work_dir)

        names = "seconds", "num_samples", "peak_memory_bytes"
        result = {name: outcome[name] for name in names}
        report("end", status=outcome["status"], reason=outcome["reason"], result=result)


def _begin_attempt(work_dir: Path, code: str) -> dict[str, Any]:
    """Number of this attempt, start of the first, and code; kept over restarts.

    The run begins again where an earlier attempt left a damaged row, or ran other code.
    """
    path = work_dir / "attempts.json"
    now: dict[str, Any] = {"attempts": 0, "started": datetime.now(UTC).isoformat(), "code": code}
    now |= read_json(path) or {}

    # Every rank has read the file before rank 0 replaces it.
    distributed.barrier()
    if distributed.rank() == 0:
        reason = "" if now["code"] == code else "an earlier attempt ran other code"
        try:
            pending_rows(work_dir)
        except LedgerError as error:
            reason = str(error)
        if reason:
            print(f"warning: {reason}; the run begins again", flush=True)
            checkpoint.remove_checkpoints(work_dir)
            for name in ("rows.jsonl", CLEANED):
                (work_dir / name).unlink(missing_ok=True)
        now |= {"attempts": now["attempts"] + 1, "code": code}
        replace_json(path, now)
    distributed.barrier()
    return now


def main(job_path: str) -> None:
    """Run the job; exits with 143 when a signal asked to stop."""
    events.die_with_parent()
    code = code_digest()
    job: events.JobFile = json.loads(Path(job_path).read_text(encoding="utf-8"))
    distributed.repeatable(job["threads"])
    device = distributed.start(job["devices"])

    # What is loaded for one run stays for the next.
    work = Path(job["work"])
    resident = Resident(work / "cache", device)
    workers = int(os.environ.get("REPRO_LOADER_WORKERS", "0"))
    for fingerprint in job["runs"]:
        run_one(fingerprint, work, resident, workers, code)
    distributed.stop()


if __name__ == "__main__":
    main(sys.argv[1])
