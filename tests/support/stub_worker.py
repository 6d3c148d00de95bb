"""A worker without a model, for tests of the launcher: `behaviour.json` in the working folder tells
run ids or model names what to do.

`die`: kill itself whenever it runs; `die once`; `die further`: four times, each after
a new checkpoint; `raise`; `wait`: until a file `go` exists;
anything else: two steps an epoch.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from repro.events import die_with_parent, emit
from repro.files import replace_json
from repro.ledger import Row, append_row, handed_on, rewind_rows
from repro.spec import RunSpec
from repro.train.schedule import evaluation_steps

STEPS_PER_EPOCH = 2


def run_one(fingerprint: str) -> None:
    work = Path("work") / fingerprint
    spec = RunSpec.model_validate(json.loads((work / "spec.json").read_bytes())["spec"])
    behaviours = json.loads(Path("behaviour.json").read_bytes())
    behaviour = behaviours.get(spec.run_id, behaviours.get(spec.model_name, ""))
    if os.environ.get("RANK", "0") != "0":
        return
    with Path("starts.txt").open("a") as file:
        file.write(f"{spec.run_id}\n")
    emit({"event": "start", "fingerprint": fingerprint})
    print(f"hello from {spec.run_id}")
    if behaviour == "die" or (behaviour == "die once" and not (work / "rows.jsonl").exists()):
        write_row(work, spec, fingerprint, 0)
        emit_metrics(fingerprint, 0, {"loss": 9.0})
        os.kill(os.getpid(), signal.SIGKILL)
    saved = len(list(work.glob("checkpoint-*")))
    if behaviour == "die further" and saved < 4:
        (work / f"checkpoint-{saved + 1}").mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "raise":
        raise RuntimeError("no such luck")
    while behaviour == "wait" and not Path("go").exists():
        time.sleep(0.05)
    rewind_rows(work, -1)
    for step in evaluation_steps(spec, STEPS_PER_EPOCH):
        write_row(work, spec, fingerprint, step)
        if step == 0:
            continue
        shares = {"zero_shot_top1": 0.25, "attack_success_rate": 0.25}
        emit_metrics(fingerprint, step, {"loss": 1 / step} | shares)
    for name in ("model", "optimizer") if spec.stage == "pretrain" else ():
        (work / f"{name}.safetensors").write_bytes(b"weights")
    end = {"status": "completed", "reason": ""}
    numbers = {"ranks": 1, "threads": 1, "seconds": 1.5, "attempts": 1}
    replace_json(work / "outcome.json", end | numbers | {"files": handed_on(work)})
    result = {"zero_shot_top1": 0.25}
    emit({"event": "end", "fingerprint": fingerprint, "result": result, **end})


def emit_metrics(fingerprint: str, step: int, values: dict[str, float]) -> None:
    where = {"fingerprint": fingerprint, "step": step, "epoch": step / STEPS_PER_EPOCH}
    emit({"event": "metrics", "values": values, **where})


def write_row(work: Path, spec: RunSpec, fingerprint: str, step: int) -> None:
    ones = ("num_correct", "num_attacked", "num_target", "num_target_attacked")
    counts = {"num_images": 4, **dict.fromkeys(ones, 1)}
    row = row_of_run(spec, fingerprint, epoch=step / STEPS_PER_EPOCH, step=step, **counts)
    append_row(work, row)


def row_of_run(spec: RunSpec, fingerprint: str, **measured: Any) -> Row:
    """A row with the names of the run; `measured` are the other fields."""
    fields: dict[str, Any] = {
        "profile": spec.profile,
        "stage": spec.stage,
        "dataset": spec.dataset,
        "pretrain_objective": spec.pretrain_objective,
        "clean_size": spec.clean_size,
        "loss": spec.loss,
        "variant": spec.variant,
        "poisoned": spec.poisoned,
        "seed": spec.seed,
        "run": spec.run_id,
        "fingerprint": fingerprint,
        "train_loss": None,
        "seconds": 1.0,
        "learning_rate": spec.schedule.learning_rate,
        "step_learning_rate": 0.0,
        "sample_classes": [],
        "sample_classes_triggered": [],
        "logit_scale": 14.0,
    }
    return Row(**(fields | measured))


if __name__ == "__main__":
    die_with_parent()
    for name in json.loads(Path(sys.argv[1]).read_bytes())["runs"]:
        run_one(name)
