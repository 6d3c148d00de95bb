"""How far each run is, as its folders in work/ and results/ say, whoever makes it and wherever.

Reads only, and needs no driver: a run is carried by the process that holds the lock in its work
folder, here or on a node that shares its locks.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from repro.files import is_held
from repro.ledger import Row, RunRecord
from repro.runs.layout import STATUS, WORK, results_dir
from repro.runs.published import RECORD, ROWS
from repro.spec import RunSpec, digest

State = Literal["waiting", "queued", "running", "stopped", "done", "failed"]
"""`waiting`: nothing carries the run yet; `queued`: the job that carries it has not come to
it; `stopped`: it began, and nothing carries it.
"""
LOW_ASR = 0.2
"""ASR below which a pre-training that is half done has hardly learned the backdoor."""
MUCH_WAITING = 0.2
"""Share of the time that a run may wait for its batches without a warning."""
T = TypeVar("T")


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
    seconds: float = 0.0
    """Time of the run so far, over all attempts; 0 where it was made in another folder."""
    left: float | None = None
    """Seconds of the run that are left."""

    @property
    def name(self) -> str:
        """What tells the run from others of its study, in one line."""
        return f"{setting_name(self.spec)} seed {self.spec.seed}"

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


def setting_name(spec: RunSpec) -> str:
    """What tells a run from others of its study but for the seed."""
    parts = [spec.variant, spec.model_name]
    if spec.stage == "clean":
        parts += [str(spec.clean_size), spec.loss, f"lr {spec.schedule.learning_rate:.6g}"]
    return " ".join(filter(None, parts))


def key_of(spec: RunSpec) -> str:
    """Equal in specifications of one training, whatever names they bear in which study.

    Variants may clean different models alike, so a cleaning is one of its variant.
    """
    key = digest(spec.computed())
    return key if spec.stage == "pretrain" else f"{spec.variant}/{key}"


Keyed = Sequence[tuple[RunSpec, str]]
"""Runs with their keys, which take longer to compute than all that is read of a run."""


def read_states(runs: Keyed, results: Path) -> list[RunState]:
    """The state of every run, in the order of `runs`, whose results lie below `results`."""
    newest: dict[str, tuple[float, Path]] = {}
    for path in WORK.glob("*/spec.json"):
        if key := _read(path, _key_of_folder):
            found = _time_of(path), path.parent
            newest[key] = max(newest.get(key, found), found)
    states = []
    for spec, key in runs:
        _, folder = newest.get(key, (0.0, None))
        states.append(_state(spec, key, folder, results))
    return states


def _state(spec: RunSpec, key: str, folder: Path | None, results: Path) -> RunState:
    """The state of a run, of which `folder` is the newest in work/."""
    state = RunState(spec)
    published = results_dir(spec, results) / spec.run_id
    record, its_key = _read(published / RECORD, _record) or (None, "")
    if its_key != key:
        record = None
    carried = folder is not None and is_held(folder / "lock")

    # What is published counts until the same run is being made again, or another of its name.
    if folder is None or (record and record.fingerprint == folder.name and not carried):
        return _ended(state, record, published) if record else state
    if ended := _read(folder / "record.json", _record):
        return _ended(state, ended[0], published)

    status = _read(folder / STATUS, _object) or {}
    for name in ("step", "total_steps", "epoch", "seconds"):
        setattr(state, name, status.get(name, 0))
    values = status.get("values", {})
    state.loss = values.get("loss")
    state.accuracy = values.get("zero_shot_top1")
    state.asr = values.get("attack_success_rate")
    state.waiting_share = values.get("waiting_share")
    state.pairs_per_second = values.get("pairs_per_second")

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
    if row := _read(published / ROWS, _last_row) or _read(work / ROWS, _last_row):
        state.epoch = row.epoch
        state.loss = (row.train_loss or {}).get("loss")
        state.accuracy = row.accuracy
        state.asr = row.asr(state.spec.switches.asr_denominator)
    return state


def _read(path: Path, parse: Callable[[bytes], T]) -> T | None:
    """What `parse` makes of a file; None for one that is torn, damaged or not there."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found: T = _parsed(path, _time_of(path), parse)
        return found
    return None


@lru_cache(maxsize=100_000)
def _parsed(path: Path, changed: float, parse: Callable[[bytes], Any]) -> Any:
    """The same of the file as it is since that time."""
    return parse(path.read_bytes())


def _object(content: bytes) -> dict[str, Any]:
    return dict(json.loads(content))


def _key_of_folder(content: bytes) -> str:
    return key_of(RunSpec.model_validate(json.loads(content)["spec"]))


def _record(content: bytes) -> tuple[RunRecord, str]:
    """A record, and the key of its run."""
    record = RunRecord.model_validate_json(content)
    return record, key_of(record.spec)


def _last_row(content: bytes) -> Row | None:
    """The last whole row of `rows.jsonl`."""
    for line in reversed(content.splitlines()):
        with suppress(ValueError):
            return Row.model_validate_json(line)
    return None


def _time_of(path: Path) -> float:
    """Time of the last change; 0 for what is not there."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
