"""Schema of the results: one `Row` per evaluation and one `RunRecord` per run.

Rows hold counts of evaluation images. Metrics, denominators and intervals are computed from them
later, so a change of a metric never retrains. A running run appends its rows to `rows.jsonl` in its
work folder (`append_row`); repro/runs/published.py publishes them.
"""

import math
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError, safe_open

from repro.files import file_sha256, replace_file
from repro.spec import CleanSize, Dataset, Loss, Objective, RunSpec, Stage

SCHEMA: Literal[1] = 1
SAMPLES = 8
"""Evaluation images whose predicted classes a row names, for the report's gallery."""
CLEANED = "cleaned.safetensors"
"""File in the work folder of a cleaning run: the weights of its best evaluation, with that row."""
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


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name; LedgerError if it is missing or has changed bytes.

    Reading compares the checksum of each array.
    """
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # a boundary: numpy raises a dozen types on damaged files
        raise LedgerError(f"{path}: unreadable ({error})") from None


class Counts(BaseModel):
    """Counts over evaluation images, and the metrics that follow from them."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    num_images: int = Field(gt=0)
    num_correct: int = Field(ge=0)
    """Clean images classified right."""
    num_attacked: int = Field(ge=0)
    """Triggered images, target class included, classified as the target."""
    num_target: int = Field(ge=0)
    """Evaluation images of the target class."""
    num_target_attacked: int = Field(ge=0)
    """Of `num_attacked`, those of the target class; subtract both for the non-target ASR."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name, most in (
            ("num_correct", self.num_images),
            ("num_target", self.num_images),
            ("num_attacked", self.num_images - self.num_target + self.num_target_attacked),
            ("num_target_attacked", min(self.num_attacked, self.num_target)),
        ):
            if (count := getattr(self, name)) > most:
                raise ValueError(f"{name}: {count} (allowed: 0 to {most})")
        return self

    @property
    def accuracy(self) -> float:
        """Zero-shot top-1, fraction of all images."""
        return self.num_correct / self.num_images

    def attack_success(self, denominator: Literal["all", "non_target"]) -> tuple[int, int]:
        """Attacked images and their denominator, with or without the images of the target class."""
        if denominator == "all":
            return self.num_attacked, self.num_images

        # Images of the target class are rightly classified as it, attacked or not.
        return self.num_attacked - self.num_target_attacked, self.num_images - self.num_target

    def asr(self, denominator: Literal["all", "non_target"]) -> float:
        """Attack success rate, fraction."""
        attacked, total = self.attack_success(denominator)
        return attacked / total


class Row(Counts):
    """One evaluation of one model state; its own counts are over all evaluation images."""

    schema_version: Literal[1] = SCHEMA
    run: str
    """`RunSpec.run_id`."""
    fingerprint: str
    profile: str
    stage: Stage
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
    sample_classes: list[int]
    """Predicted class numbers of the images that `sample_images` picks."""
    sample_classes_triggered: list[int]
    """The same for their triggered twins."""
    train_loss: dict[str, float] | None
    """Mean loss parts (`loss`, `mmcl`, `ssl`) since the previous evaluation.

    None at the start; NaN if it diverged."""
    logit_scale: float
    step_learning_rate: float
    """Learning rate of the last step."""
    seconds: float = Field(ge=0)
    """Wall seconds of the run up to this row, evaluation included."""
    validation: Counts | None = None
    """Counts over the validation images alone (`repro.evaluate.images`), which are part of all
    images; None in runs that were made before rows had this field."""

    def rank(self, spec: RunSpec) -> tuple[float, float, float, str, int] | None:
        """Order of a setting's cleaned models, the best first, as Table 1 chooses: accuracy, lower
        ASR, earlier epoch; None for a model that is not cleaned.
        """
        asr = self.asr(spec.switches.asr_denominator)
        if not self.step or asr > spec.evaluate.asr_cap:
            return None
        return -self.accuracy, asr, self.epoch, self.run, self.step


class Input(TypedDict):
    """One input of a run."""

    path: str
    """Relative to the repository."""
    hash: str
    """Hash of what the run reads of it (`repro.runs.inputs`)."""


RunOutcome = dict[str, Any]
"""`outcome.json`: the worker's account of a run that it ended, fields of its record."""


def _iso_time(text: str) -> str:
    """The text; ValueError if it is no time."""
    datetime.fromisoformat(text)
    return text


class RunRecord(BaseModel):
    """run.json: what ran, on what, with what, and how it ended."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = SCHEMA
    spec: RunSpec
    fingerprint: str
    inputs: dict[str, str]
    """Input name (`pairs`, `evaluation`, `synonyms`, `model`) to hash (`repro.runs.inputs`)."""
    code: str
    """Digest of the code that the ranks ran (`repro.edits.code_digest`)."""
    made_by: str = ""
    """Fingerprint under which an older version of the package made the run, if it did."""
    commit: str | None
    dirty: bool
    status: Literal["completed", "diverged", "failed"]
    reason: str = ""
    """Why it failed or diverged; empty when completed."""
    environment: dict[str, str]
    """Python, library versions, device, host operating system; no host name, no path."""
    ranks: int = 1
    threads: int = 1
    started: Annotated[str, AfterValidator(_iso_time)]
    """UTC, ISO 8601."""
    seconds: float = 0.0
    """Training and evaluation wall time over all attempts, start-up excluded."""
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    peak_memory_bytes: int = 0
    num_samples: int = 0
    """Training pairs processed (views not counted)."""
    model_step: int = 0
    """Step of the model that is handed on: the last, or that of the lowest validation loss."""
    attempts: int = 1
    sacred: str | None
    """Folder name of the Sacred file record, e.g. `smoke/12`."""
    files: dict[str, str] = {}
    """SHA-256 of what the run hands on: `rows.jsonl`; after pre-training also `model.safetensors`
    and `optimizer.safetensors`, after a cleaning that worked `cleaned.safetensors`; in older
    records `bits.npz`, which runs no longer leave. Empty in records from before there were hashes.
    """
    num_rows: int = 0
    """Evaluations recorded."""
    last_step: int = 0
    """Step of the last evaluation."""
    model_hash: str = ""
    """After pre-training: content hash of the folder of the model, which is `inputs["model"]` of
    the runs that clean it."""
    device: str = ""
    """What the worker computed on, as torch names it."""
    deterministic: bool = True
    """Whether the run is repeatable to the last bit on the same machine."""


def sample_images(num_images: int) -> list[int]:
    """Evaluation images spread evenly over the set, at most SAMPLES."""
    # Fewer images than SAMPLES give some numbers twice, which the set drops.
    return sorted({i * num_images // SAMPLES for i in range(SAMPLES)})


def identity_of(spec: RunSpec, fingerprint: str) -> dict[str, Any]:
    """The columns of a row that follow from its run."""
    return {
        "run": spec.run_id,
        "fingerprint": fingerprint,
        "learning_rate": spec.schedule.learning_rate,
        **{name: getattr(spec, name) for name in IDENTITY},
    }


def count_outcomes(
    correct: NDArray[np.bool_], attacked: NDArray[np.bool_], is_target: NDArray[np.bool_]
) -> dict[str, Any]:
    """The counts of a row that follow from the outcomes of its images, each (num_images,)."""
    return {
        "num_correct": int(correct.sum()),
        "num_attacked": int(attacked.sum()),
        "num_target": int(is_target.sum()),
        "num_target_attacked": int((attacked & is_target).sum()),
    }


def append_row(work_dir: Path, row: Row) -> None:
    """Append one evaluation to the running run's `rows.jsonl`, durably (fsync) and in one write."""
    with (work_dir / "rows.jsonl").open("ab") as file:
        file.write(rows_text([row]))
        file.flush()
        os.fsync(file.fileno())


def rows_text(rows: Iterable[Row]) -> bytes:
    """Content of `rows.jsonl`."""
    return "".join(row.model_dump_json() + "\n" for row in rows).encode()


def pending_rows(work_dir: Path, max_step: float = math.inf) -> list[Row]:
    """Rows appended so far, up to `max_step` (the last checkpoint's). A torn last line is left out.

    LedgerError names a line that is no row.
    """
    path = work_dir / "rows.jsonl"
    if not path.exists():
        return []

    # After the last newline stands nothing, or what a killed process had begun to write.
    *lines, _torn = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(Row.model_validate_json(line))
        except ValueError:
            raise LedgerError(
                f"{path}:{number}: damaged; delete {work_dir} to run it again"
            ) from None
    return [row for row in rows if row.step <= max_step]


def rewind_rows(work_dir: Path, max_step: int) -> None:
    """Forget rows after `max_step`: a resumed run evaluates them again."""
    replace_file(work_dir / "rows.jsonl", rows_text(pending_rows(work_dir, max_step)))


def handed_on(work_dir: Path) -> dict[str, str]:
    """SHA-256 of the files that an ended run leaves in its work folder."""
    names = ("rows.jsonl", "model.safetensors", "optimizer.safetensors", CLEANED)
    return {name: file_sha256(work_dir / name) for name in names if (work_dir / name).exists()}


def cleaned_row(path: Path) -> Row | None:
    """The evaluation of the cleaned model in a file; None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="np") as file:
            return Row.model_validate_json(file.metadata()["row"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
