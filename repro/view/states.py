"""How far each run is, as its folders in work/ and results/ say, whoever makes it and wherever.

Reads only, and needs no driver: a run is carried by the process that holds the lock in its work
folder, here or on a node that shares its locks.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from repro.files import is_held
from repro.ledger import LedgerError, Row, RunRecord
from repro.runs.layout import STATUS, WORK, results_dir
from repro.runs.published import RECORD, ROWS, read_record
from repro.spec import RunSpec, digest

State = Literal["waiting", "queued", "running", "stopped", "done", "failed"]
"""`waiting`: nothing carries the run yet; `queued`: the job that carries it has not come to
it; `stopped`: it began, and nothing carries it.
"""
LOW_ASR = 0.2
"""ASR below which a pre-training that is half done has hardly learned the backdoor."""
MUCH_WAITING = 0.2
"""Share of the time that a run may wait for its batches without a warning."""


@dataclass
class RunState:
    """How far a run is; shares are fractions, None what is not known."""

    spec: RunSpec
    state: State = "waiting"
    where: str = ""
    """Host of a running run."""
    reason: str = ""
    """Why the run failed or ended early."""
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    accuracy: float | None = None
    asr: float | None = None
    pairs_per_second: float | None = None
    waiting_share: float | None = None
    checkpoint_age: float | None = None
    """Seconds since the newest checkpoint."""
    seconds: float = 0.0
    """Time of the run so far, over all attempts; 0 where it was made in another folder."""
    left: float | None = None
    """Seconds of the run that are left."""

    @property
    def name(self) -> str:
        """What tells the run from others of its study, in one line."""
        spec = self.spec
        parts = [spec.variant, spec.model_name]
        if spec.stage == "clean":
            parts += [str(spec.clean_size), spec.loss, f"lr {spec.schedule.learning_rate:.6g}"]
        return " ".join([*filter(None, parts), f"seed {spec.seed}"])

    @property
    def share(self) -> float:
        """Share of the run that is done."""
        if self.state in ("done", "failed"):
            return 1.0
        return self.step / self.total_steps if self.total_steps else 0.0

    @property
    def warning(self) -> str:
        """What is not as one would expect; empty where all is."""
        if self.reason:
            return self.reason
        # The backdoor of `smoke` is not meant to take: it has hardly any steps.
        learns = self.spec.stage == "pretrain" and self.spec.poisoned
        learns = learns and self.spec.profile != "smoke"
        if learns and self.share >= 0.5 and self.asr is not None and self.asr < LOW_ASR:
            return f"ASR {self.asr:.1%} after half of pre-training: the backdoor is not taking"
        if self.state == "running" and (self.waiting_share or 0.0) > MUCH_WAITING:
            return f"{self.waiting_share:.0%} of the time goes on waiting for batches"
        return ""


Keyed = Sequence[tuple[RunSpec, str]]
"""Runs with their keys, which take longer to compute than all that is read of a run."""


def read_states(runs: Keyed, results: Path) -> list[RunState]:
    """The state of every run, in the order of `runs`, whose results lie below `results`."""
    folders = work_folders()
    return [_state(spec, key, folders.get(key, ""), results) for spec, key in runs]


def work_folders() -> dict[str, str]:
    """By `key_of`, the fingerprint of the newest folder of a run in work/."""
    found: dict[str, tuple[float, str]] = {}
    for path in WORK.glob("*/spec.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            made = path.stat().st_mtime
            key = _key_in(path, made)
            found[key] = max(found.get(key, (0.0, "")), (made, path.parent.name))
    return {key: fingerprint for key, (_, fingerprint) in found.items()}


@lru_cache(maxsize=100_000)
def _key_in(path: Path, made: float) -> str:
    """The key of a work folder's run; `made` is the time of the file."""
    content = json.loads(path.read_bytes())
    return key_of(RunSpec.model_validate(content["spec"]))


def key_of(spec: RunSpec) -> str:
    """Equal in specifications of one training, whatever names they bear in which study.

    Variants may clean different models alike, so a cleaning is one of its variant.
    """
    key = digest(spec.computed())
    return key if spec.stage == "pretrain" else f"{spec.variant}/{key}"


def _state(spec: RunSpec, key: str, fingerprint: str, results: Path) -> RunState:
    published = results_dir(spec, results) / spec.run_id
    record, its_key = _record(published / RECORD)
    if its_key != key:
        record = None
    folder = WORK / fingerprint
    carried = bool(fingerprint) and is_held(folder / "lock")
    state = RunState(spec)

    # What is published counts until the same run is being made again, or another of its name.
    same = record is not None and record.fingerprint == fingerprint
    if record and (not fingerprint or (same and not carried)):
        return _ended(state, record, published)
    if not fingerprint:
        return state
    ended, _ = _record(folder / "record.json")
    if ended:
        return _ended(state, ended, published)

    status = _read(folder / STATUS)
    for name in ("step", "total_steps", "epoch", "seconds"):
        setattr(state, name, status.get(name, 0))
    values = status.get("values", {})
    state.loss = values.get("loss")
    state.accuracy = values.get("zero_shot_top1")
    state.asr = values.get("attack_success_rate")
    state.waiting_share = values.get("waiting_share")
    state.pairs_per_second = values.get("pairs_per_second")
    saved = [_time_of(path) for path in folder.glob("checkpoint-*")]
    state.checkpoint_age = time.time() - max(saved) if saved else None

    begun = _time_of(folder / STATUS)
    if not carried:
        state.state = "stopped" if begun else "waiting"
    # The lock is taken when its job begins, and the status written when the job comes to the run.
    elif begun >= _time_of(folder / "lock"):
        state.state, state.where = "running", status.get("host", "")
    else:
        state.state = "queued"
    return state


def _ended(state: RunState, record: RunRecord, published: Path) -> RunState:
    """The state of a run that has ended."""
    state.state = "failed" if record.status == "failed" else "done"
    state.reason = record.reason if record.status != "completed" else ""
    state.step = state.total_steps = record.last_step
    work = WORK / record.fingerprint
    state.seconds = record.seconds if work.is_dir() else 0.0
    rows = published / ROWS if (published / ROWS).exists() else work / ROWS
    if row := last_row(rows, _time_of(rows)):
        state.epoch = row.epoch
        state.loss = (row.train_loss or {}).get("loss")
        state.accuracy = row.accuracy
        state.asr = row.asr(state.spec.switches.asr_denominator)
    return state


@lru_cache(maxsize=10_000)
def last_row(path: Path, changed: float) -> Row | None:
    """The last whole row of `rows.jsonl`, published or pending; `changed` is its time."""
    with suppress(OSError):
        for line in reversed(path.read_bytes().splitlines()):
            with suppress(ValueError):
                return Row.model_validate_json(line)
    return None


def _record(path: Path) -> tuple[RunRecord | None, str]:
    changed = _time_of(path)
    return _record_at(path, changed) if changed else (None, "")


@lru_cache(maxsize=10_000)
def _record_at(path: Path, changed: float) -> tuple[RunRecord | None, str]:
    """The record in a file of that time, and its key; None for one that is torn or gone."""
    with suppress(LedgerError, OSError):
        record = read_record(path)
        return record, key_of(record.spec)
    return None, ""


def _time_of(path: Path) -> float:
    """Time of the last change; 0 for what is not there."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty for one that is torn or not there."""
    with suppress(OSError, ValueError):
        return dict(json.loads(path.read_bytes()))
    return {}
