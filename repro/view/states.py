"""How far each run is, as its folders in work/ and results/ say, whoever makes it and wherever.

Reads only, and needs no driver: a run is carried by the process that holds the lock in its work
folder, or by a job of Slurm's.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from repro.files import is_held
from repro.ledger import LedgerError, Row, RunRecord
from repro.runs.layout import STATUS, WORK, results_dir
from repro.runs.published import ARCHIVED, RECORD, ROWS, read_record
from repro.spec import RunSpec, digest

State = Literal["waiting", "queued", "running", "stopped", "done", "failed"]
"""`waiting`: nothing carries the run yet; `queued`: the job that carries it has not come to
it; `stopped`: it began, and nothing carries it.
"""


@dataclass
class RunState:
    """How far a run is; shares are fractions, None what is not known."""

    spec: RunSpec
    state: State = "waiting"
    where: str = ""
    """Host of a running run, the scheduler's reason for a queued one."""
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
    """Time of the run so far, over all attempts."""
    made_here: bool = False
    """Whether the time was measured in this folder, not taken from an archive or a cache."""
    ended: float = 0.0
    """Time of the end, in seconds since the epoch."""
    since: float = 0.0
    """When a job took the queued run, in seconds since the epoch."""
    left: float | None = None
    """Seconds of the run that are left, as `repro.view.remaining` reckons."""

    @property
    def name(self) -> str:
        """What tells the run from others of its study, in one line."""
        spec = self.spec
        if spec.stage == "pretrain":
            parts = [spec.model_name, f"seed {spec.seed}"]
        else:
            rate = f"lr {spec.schedule.learning_rate:.6g}"
            parts = [spec.model_name, str(spec.clean_size), spec.loss, rate, f"seed {spec.seed}"]
        return " ".join([*filter(None, [spec.variant]), *parts])

    @property
    def share(self) -> float:
        """Share of the run that is done."""
        if self.state in ("done", "failed"):
            return 1.0
        return self.step / self.total_steps if self.total_steps else 0.0

    @property
    def epochs(self) -> float:
        """Epochs of the whole run."""
        if not self.step:
            return float(self.spec.schedule.epochs)
        return self.epoch * self.total_steps / self.step

    @property
    def warning(self) -> str:
        """What is not as one would expect; empty where all is."""
        if self.reason:
            return self.reason
        trained = self.spec.stage == "pretrain" and self.spec.poisoned and self.share >= 0.5
        if trained and self.asr is not None and self.asr < LOW_ASR:
            return f"ASR {self.asr:.1%} after half of pre-training: the backdoor is not taking"
        if self.state == "running" and (self.waiting_share or 0.0) > MUCH_WAITING:
            return f"{self.waiting_share:.0%} of the time goes on waiting for batches"
        return ""


LOW_ASR = 0.2
"""ASR below which a pre-training that is half done has hardly learned the backdoor."""
MUCH_WAITING = 0.2
"""Share of the time that a run may wait for its batches without a warning."""


class Carrier(NamedTuple):
    """The job of a scheduler that carries a run."""

    state: Literal["queued", "running"]
    where: str
    """The reason of one that waits, the nodes of one that runs."""


Jobs = Mapping[str, Carrier]
"""By fingerprint of the runs."""


Keyed = Sequence[tuple[RunSpec, str]]
"""Runs with their keys, which take longer to compute than all that is read of a run."""


def read_states(runs: Keyed, results: Path, jobs: Jobs) -> list[RunState]:
    """The state of every run, in the order of `runs`, whose results lie below `results`."""
    folders = work_folders()
    return [_state(spec, key, folders.get(key, ""), results, jobs) for spec, key in runs]


def work_folders() -> dict[str, str]:
    """By `key_of`, the fingerprint of the newest folder of a run in work/."""
    found: dict[str, tuple[float, str]] = {}
    for path in WORK.glob("*/spec.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            made = path.stat().st_mtime
            key = _key_in(path, made)
            before = found.get(key, (0.0, ""))
            found[key] = max(before, (made, path.parent.name))
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


def _state(spec: RunSpec, key: str, fingerprint: str, results: Path, jobs: Jobs) -> RunState:
    published = results_dir(spec, results) / spec.run_id
    record, its_key = _record(published / RECORD)
    if its_key != key:
        record = None
    folder = WORK / fingerprint
    carried = bool(fingerprint) and (fingerprint in jobs or is_held(folder / "lock"))
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
    values = status.get("values", {})
    state.step = status.get("step", 0)
    state.total_steps = status.get("total_steps", 0)
    state.epoch = status.get("epoch", 0.0)
    state.seconds = status.get("seconds", 0.0)
    state.loss = values.get("loss")
    state.accuracy = values.get("zero_shot_top1")
    state.asr = values.get("attack_success_rate")
    state.waiting_share = values.get("waiting_share")
    state.pairs_per_second = values.get("pairs_per_second")
    state.made_here = True
    saved = [_time_of(path) for path in folder.glob("checkpoint-*")]
    state.checkpoint_age = time.time() - max(saved) if saved else None

    begun = _time_of(folder / STATUS)
    if not carried:
        state.state = "stopped" if begun else "waiting"
    elif fingerprint in jobs and jobs[fingerprint].state == "queued":
        state.state = "queued"
        state.where = jobs[fingerprint].where
    # The lock is written when its job begins, and the status when the job comes to the run.
    elif begun >= _time_of(folder / "lock"):
        state.state = "running"
        state.where = status.get("host", "")
    else:
        state.state = "queued"
        state.since = _time_of(folder / "lock")
    return state


def _ended(state: RunState, record: RunRecord, published: Path) -> RunState:
    """The state of a run that has ended."""
    state.state = "failed" if record.status == "failed" else "done"
    state.reason = record.reason if record.status != "completed" else ""
    state.step = state.total_steps = record.last_step
    state.seconds = record.seconds
    work = WORK / record.fingerprint
    state.made_here = work.is_dir()

    rows = published / ROWS
    if not rows.exists():
        rows = work / ROWS
    changed = _time_of(rows)  # 0 where neither is there
    # A run may be published once more, under another name, long after its end, and an archived one
    # is written here without having run.
    published_at = 0.0 if (published / ARCHIVED).exists() else changed
    state.ended = _time_of(work / "record.json") or published_at
    if changed and (row := last_row(rows, changed)):
        state.epoch = row.epoch
        state.loss = (row.train_loss or {}).get("loss")
        state.accuracy = row.accuracy
        state.asr = row.asr(state.spec.switches.asr_denominator)
    return state


@lru_cache(maxsize=10_000)
def last_row(path: Path, changed: float) -> Row | None:
    """The last whole row of `rows.jsonl`, published or pending; `changed` is its time."""
    for line in reversed(path.read_bytes().splitlines()):
        with suppress(ValueError):
            content = json.loads(line)
            return Row.model_validate(content.get("row", content))
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
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty for one that is torn or not there."""
    with suppress(OSError, ValueError):
        return dict(json.loads(path.read_bytes()))
    return {}
