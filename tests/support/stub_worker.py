"""A worker without a model, for tests of the launcher: `behaviour.json` in the working folder tells run ids or cells what to do.

`die`: kill itself whenever it runs; `die once`; `raise`; `wait`: until a file `go` exists; `name node`: say where it runs;
anything else: three steps.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from repro.events import die_with_parent, emit
from repro.ledger import Row, append_row
from repro.spec import RunSpec


def run_one(fingerprint: str) -> None:
    work = Path("work") / fingerprint
    spec = RunSpec.model_validate(json.loads((work / "spec.json").read_bytes())["spec"])
    behaviours = json.loads(Path("behaviour.json").read_bytes())
    behaviour = behaviours.get(spec.run_id, behaviours.get(spec.cell, ""))
    if behaviour == "name node":
        with Path("nodes.txt").open("a") as file:
            file.write(f"{os.environ['SLURMD_NODENAME']}\n")
    if os.environ.get("RANK", "0") != "0":
        return
    with Path("starts.txt").open("a") as file:
        file.write(f"{spec.run_id}\n")
    emit("start", fingerprint)
    print(f"hello from {spec.run_id}")
    if behaviour == "die" or (behaviour == "die once" and not (work / "rows.jsonl").exists()):
        write_row(work, spec, fingerprint, 0)
        emit("metrics", fingerprint, step=1, epoch=0.1, values={"loss": 9.0})
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "raise":
        raise RuntimeError("no such luck")
    while behaviour == "wait" and not Path("go").exists():
        time.sleep(0.05)
    for step in range(2, 4):
        write_row(work, spec, fingerprint, step)
        emit(
            "metrics",
            fingerprint,
            step=step,
            epoch=step / 2,
            values={"loss": 1 / step, "zero_shot_top1": 0.25},
        )
    for name in ("model", "optimizer") if spec.stage == "pretrain" else ():
        (work / f"{name}.safetensors").write_bytes(b"weights")
    outcome = {
        "status": "completed",
        "reason": "",
        "ranks": 1,
        "threads": 1,
        "seconds": 1.5,
        "attempts": 1,
    }
    (work / "outcome.json").write_text(json.dumps(outcome))
    emit("end", fingerprint, status="completed", reason="", result={"zero_shot_top1": 0.25})


def write_row(work: Path, spec: RunSpec, fingerprint: str, step: int) -> None:
    correct = np.array([True, False, False, False])
    row = Row(
        run=spec.run_id,
        fingerprint=fingerprint,
        profile=spec.profile,
        stage=spec.stage,
        dataset=spec.dataset,
        pretrain_objective=spec.pretrain_objective,
        clean_size=spec.clean_size,
        loss=spec.loss,
        variant=spec.variant,
        poisoned=spec.poisoned,
        learning_rate=spec.schedule.learning_rate,
        seed=spec.seed,
        epoch=step / 2,
        step=step,
        num_images=4,
        num_correct=1,
        num_attacked=1,
        num_target=1,
        num_target_attacked=1,
        sample_classes=[],
        sample_classes_triggered=[],
        train_loss=None,
        logit_scale=14.0,
        step_learning_rate=0.0,
        seconds=1.0,
    )
    append_row(work, row, correct, correct, correct)


if __name__ == "__main__":
    die_with_parent()
    for name in json.loads(Path(sys.argv[1]).read_bytes())["runs"]:
        run_one(name)
