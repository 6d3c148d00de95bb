"""The ledger: rows and per-image bits of every evaluation; the only reader and writer of results.

A run's folder `results/<profile>/<stage>/<cell>/<run_id>/` holds
- `run.json`, the `RunRecord`: resolved spec, fingerprint, inputs, environment, outcome;
- `rows.jsonl`, one `Row` per evaluation in order;
- `bits.npz`, for each row one bit per evaluation image, packed: `correct` and `attacked`, shape (rows, bytes),
  and `is_target` (bytes,), the images whose label is the target class.

Counts in rows are over the evaluation images; every metric, denominator and interval is computed from them later,
so that changing a metric never retrains. While a run goes on, its rows are appended to its work folder one by one
(`append_row`); `export_run` publishes the finished run in one rename.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repro.files import replace_file
from repro.spec import CleanSize, Dataset, Loss, Objective, RunSpec

SCHEMA: Literal[1] = 1
SAMPLES = 8
"""Evaluation images whose predicted classes a row names, for the report's gallery."""
NPZ_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    MemoryError,
    SyntaxError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy raises for an npz file that is missing or has changed bytes."""


IDENTITY = (
    "profile",
    "stage",
    "dataset",
    "pretrain_objective",
    "clean_size",
    "loss",
    "variant",
    "poisoned",
    "seed",
)
"""Fields that a row shares with its run's spec."""


class LedgerError(ValueError):
    """A result file that cannot be used; the message names file, line, field and what is wrong."""


class Row(BaseModel):
    """One evaluation of one model state."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)

    schema_version: Literal[1] = SCHEMA
    run: str
    """`RunSpec.run_id`."""
    fingerprint: str
    profile: str
    stage: Literal["pretrain", "clean"]
    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None
    loss: Loss
    variant: str
    poisoned: bool
    learning_rate: float
    """Base learning rate of the run."""
    seed: int
    epoch: float = Field(ge=0)
    """Epochs done, fractional; 0 is the start model."""
    step: int = Field(ge=0)
    num_images: int = Field(gt=0)
    num_correct: int = Field(ge=0)
    """Clean images classified right."""
    num_attacked: int = Field(ge=0)
    """Triggered images, target class included, classified as the target."""
    num_target: int = Field(ge=0)
    """Evaluation images of the target class."""
    num_target_attacked: int = Field(ge=0)
    """Of `num_attacked`, those of the target class; subtract both for the non-target ASR."""
    sample_classes: list[int]
    """Predicted class numbers of the images that `sample_images` picks."""
    sample_classes_triggered: list[int]
    """The same for their triggered twins."""
    train_loss: dict[str, float] | None
    """Mean loss parts (`loss`, `mmcl`, `ssl`) since the previous evaluation; None at the start; NaN if it diverged."""
    logit_scale: float
    step_learning_rate: float
    """Learning rate of the last step."""
    seconds: float = Field(ge=0)
    """Wall seconds of the run up to this row, evaluation included."""

    @property
    def key(self) -> tuple[str, str, int]:
        """Identity of the row within a ledger."""
        return (f"{self.stage}/{self.dataset}-{self.pretrain_objective}", self.run, self.step)

    @property
    def accuracy(self) -> float:
        """Zero-shot top-1, fraction of all images."""
        return self.num_correct / self.num_images

    def attack_success(self, denominator: Literal["all", "non_target"]) -> tuple[int, int]:
        """Attacked images and their denominator, with or without the images of the target class."""
        if denominator == "all":
            return self.num_attacked, self.num_images
        return self.num_attacked - self.num_target_attacked, self.num_images - self.num_target

    def asr(self, denominator: Literal["all", "non_target"]) -> float:
        """Attack success rate, fraction."""
        attacked, total = self.attack_success(denominator)
        return attacked / total


class RunRecord(BaseModel):
    """run.json: what ran, on what, with what, and how it ended."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = SCHEMA
    spec: RunSpec
    fingerprint: str
    inputs: dict[str, str]
    """Input name to content hash: `pairs`, `cleaning`, `evaluation`, `model`."""
    code: str
    """Hash of the code that determines results (`repro.launch.code_version`)."""
    commit: str | None
    dirty: bool
    status: Literal["completed", "diverged", "failed"]
    reason: str
    """Why it failed or diverged; empty when completed."""
    environment: dict[str, str]
    """Python, library versions, device, host operating system; no host name, no path."""
    ranks: int
    threads: int
    started: str
    """UTC, ISO 8601."""
    seconds: float
    """Training and evaluation wall time over all attempts, start-up excluded."""
    train_seconds: float
    evaluate_seconds: float
    data_wait_seconds: float
    peak_memory_bytes: int
    num_samples: int
    """Training pairs processed (views not counted)."""
    model_step: int
    """Step of the model that the run hands on: the last, unless the validation loss picked an earlier one."""
    attempts: int
    sacred: str | None
    """Folder name of the Sacred file record, e.g. `smoke/12`."""
    files: dict[str, str] = {}
    """SHA-256 of what the run hands on: `rows.jsonl`, `bits.npz`; after pre-training also `model.safetensors` and
    `optimizer.safetensors`. Empty in records that were made before there were hashes."""
    num_rows: int = 0
    """Evaluations recorded."""
    last_step: int = 0
    """Step of the last evaluation."""
    model_hash: str = ""
    """After pre-training: content hash of the folder of the model, which is `inputs["model"]` of the runs that clean it."""
    device: str = ""
    """What the worker computed on, as torch names it."""
    deterministic: bool = True
    """Whether the run is repeatable to the last bit on the same machine."""
    accepted_code: str = ""
    """Hash of the older code under which the run began, where the user accepted that it goes on under `code`."""


def sample_images(num_images: int) -> list[int]:
    """Evaluation images spread evenly over the set, at most SAMPLES."""
    return sorted({i * num_images // SAMPLES for i in range(SAMPLES)})


def identity_of(spec: RunSpec, fingerprint: str) -> dict[str, Any]:
    """The columns of a row that follow from its run."""
    return {
        "run": spec.run_id,
        "fingerprint": fingerprint,
        "learning_rate": spec.schedule.learning_rate,
        **{name: getattr(spec, name) for name in IDENTITY},
    }


def append_row(
    work_dir: Path,
    row: Row,
    correct: NDArray[np.bool_],
    attacked: NDArray[np.bool_],
    is_target: NDArray[np.bool_],
) -> None:
    """Append one evaluation to the running run's `rows.jsonl`, durably (fsync) and in one write.

    `correct`, `attacked`, `is_target`: (num_images,) booleans.
    """
    assert correct.shape == attacked.shape == is_target.shape == (row.num_images,)
    record = {
        "row": row.model_dump(),
        **{
            n: _encode(b)
            for n, b in (("correct", correct), ("attacked", attacked), ("is_target", is_target))
        },
    }
    with (work_dir / "rows.jsonl").open("ab") as file:
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def pending_rows(work_dir: Path, max_step: int | None = None) -> list[dict[str, Any]]:
    """Rows appended so far, up to `max_step` (the last checkpoint's); a torn last line is left out."""
    path = work_dir / "rows.jsonl"
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if max_step is None or record["row"]["step"] <= max_step:
                records.append(record)
        except (ValueError, KeyError, TypeError):
            raise LedgerError(
                f"{path}:{number}: damaged; delete {work_dir} to run it again"
            ) from None
    return records


def rewind_rows(work_dir: Path, max_step: int) -> None:
    """Forget rows after `max_step`: a resumed run evaluates them again."""
    kept = pending_rows(work_dir, max_step)
    replace_file(
        work_dir / "rows.jsonl", b"".join(json.dumps(record).encode() + b"\n" for record in kept)
    )


def export_run(work_dir: Path, record: RunRecord, results_dir: Path) -> Path:
    """Publish a finished run as `results_dir/<run_id>`, replacing an older one; returns the folder.

    The rows get the names of the record's spec: a study and the main graph may share a run under names of their own.
    """
    records = pending_rows(work_dir)
    target = results_dir / record.spec.run_id
    partial = results_dir / f".{record.spec.run_id}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "run.json").write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    names = identity_of(record.spec, record.fingerprint)
    rows = [Row.model_validate({**item["row"], **names}) for item in records]
    (partial / "rows.jsonl").write_text(
        "".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8"
    )
    if records:
        np.savez_compressed(
            partial / "bits.npz",
            correct=np.stack([_decode(item["correct"]) for item in records]),
            attacked=np.stack([_decode(item["attacked"]) for item in records]),
            is_target=_decode(records[0]["is_target"]),
        )
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def read_run(run_dir: Path) -> tuple[RunRecord, list[Row]]:
    """Read one published run; LedgerError names the file and line of whatever does not fit."""
    try:
        record = RunRecord.model_validate_json((run_dir / "run.json").read_bytes())
    except FileNotFoundError:
        raise LedgerError(f"{run_dir / 'run.json'}: missing") from None
    except ValidationError as error:
        raise LedgerError(f"{run_dir / 'run.json'}: {_first(error)}") from None
    rows: list[Row] = []
    path = run_dir / "rows.jsonl"
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
        try:
            row = Row.model_validate_json(line)
        except ValidationError as error:
            raise LedgerError(f"{path}:{number}: {_first(error)}") from None
        check_row(row, record, f"{path}:{number}")
        rows.append(row)
    return record, rows


def read_results(results_dir: Path) -> Iterator[tuple[Path, RunRecord, list[Row]]]:
    """All published runs below `results_dir` (any depth), in path order."""
    for path in sorted(results_dir.rglob("run.json")):
        if not path.parent.name.startswith("."):
            record, rows = read_run(path.parent)
            yield path.parent, record, rows


def read_bits(run_dir: Path, num_images: int) -> dict[str, NDArray[np.bool_]]:
    """Per-image outcomes of a run: `correct` and `attacked` (rows, num_images), `is_target` (num_images,)."""
    path = run_dir / "bits.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            packed = {name: file[name] for name in ("correct", "attacked", "is_target")}
    except NPZ_ERRORS as error:
        raise LedgerError(f"{path}: unreadable ({error})") from None
    shapes = {name: array.shape[:-1] for name, array in packed.items() if array.ndim}
    if (
        shapes.keys() != packed.keys()
        or len(shapes["correct"]) != 1
        or shapes["correct"] != shapes["attacked"]
        or shapes["is_target"]
    ):
        raise LedgerError(f"{path}: arrays do not fit each other")
    for name, array in packed.items():
        if array.dtype != np.uint8 or array.shape[-1] != -(-num_images // 8):
            raise LedgerError(
                f"{path}: {name}: {array.shape[-1]} {array.dtype} a row (allowed: {-(-num_images // 8)} uint8)"
            )
    bits = {
        name: np.unpackbits(array, axis=-1, count=num_images).astype(bool)
        for name, array in packed.items()
    }
    return bits


def check_row(row: Row, record: RunRecord, where: str) -> None:
    """LedgerError if the row is not the run's, or counts more than there is."""
    spec = record.spec
    if row.fingerprint != record.fingerprint or row.run != spec.run_id:
        raise LedgerError(
            f"{where}: belongs to run {row.run} ({row.fingerprint}), not to {spec.run_id} ({record.fingerprint})"
        )
    limits = dict.fromkeys(("num_correct", "num_attacked", "num_target"), row.num_images)
    for name, limit in {
        **limits,
        "num_target_attacked": min(row.num_target, row.num_attacked),
    }.items():
        if getattr(row, name) > limit:
            raise LedgerError(f"{where}: {name}: {getattr(row, name)} (allowed: 0 to {limit})")


def check_unique(rows: Iterable[Row]) -> None:
    """Refuse two rows of one run and step that differ."""
    seen: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        if seen.setdefault(row.key, row) != row:
            raise LedgerError(f"{'/'.join(map(str, row.key))}: two rows contradict each other")


def _first(error: ValidationError) -> str:
    item = error.errors()[0]
    return f"{'.'.join(map(str, item['loc'])) or 'content'}: {item['msg']} (got {str(item['input'])[:80]!r})"


def _encode(bits: NDArray[np.bool_]) -> str:
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def _decode(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8)
