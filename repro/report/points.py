"""Runs of the ledger and of archives, and their evaluations as one table, a row an evaluation.

Tables, figures, verdicts and exports start from this table. Shares are fractions.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from repro.ledger import IDENTITY, LedgerError, Row, RunRecord
from repro.names import DEFENCES
from repro.runs.published import RECORD, ROWS, read_results
from repro.runs.run import place_of
from repro.study.archive import read_archive

Denominator = Literal["all", "non_target"]
"""Images that an ASR is a share of: all, or those of another class than the target."""
AUTHORS = "authors"
"""Study of the authors' points."""
PRINTED = "Table 2 of the paper"
"""Run of a start model that is known by its printed numbers only."""
COUNTS = ("num_images", "num_correct", "num_attacked", "num_target", "num_target_attacked")
FIELDS = (
    *(name for name in IDENTITY if name != "profile"),
    *("learning_rate", "epoch", "step", "logit_scale", "fingerprint"),
    *COUNTS,
)
"""Columns that are a ledger row's own fields."""
COLUMNS = (
    *("study", *FIELDS, "loss_mmcl", "loss_ssl", "accuracy", "asr", "attacked", "attackable"),
    *("validation_accuracy", "validation_asr", "test_asr"),
    *("run", "index", "model", "machine", "handed_on", "untouched", "diverged"),
)
MODEL = ["study", "variant", "dataset", "pretrain_objective", "poisoned", "seed"]
"""Columns that name a pre-trained model."""


@dataclass(frozen=True)
class FinishedRun:
    """One published or archived run."""

    folder: str
    """Path below the repository, with forward slashes."""
    record: RunRecord
    rows: list[Row]
    sha256: str
    """Over the files of the run."""

    @property
    def diverged(self) -> bool:
        """Whether its loss was no finite number at some step, by its record or a row."""
        # The rows are asked too: a record that says `completed` is no proof of finite losses.
        losses = [loss for row in self.rows for loss in (row.train_loss or {}).values()]
        return self.record.status == "diverged" or not all(map(math.isfinite, losses))


def read_runs(results: Path) -> Iterator[FinishedRun]:
    """Published runs below `results` in path order; LedgerError for one that cannot be used."""
    try:
        for folder, record, rows in read_results(results):
            contents = [(folder / name).read_bytes() for name in (RECORD, ROWS)]
            hashes = b"".join(hashlib.sha256(content).digest() for content in contents)
            sha256 = hashlib.sha256(hashes).hexdigest()
            yield FinishedRun(folder.as_posix(), record, rows, sha256)
    except LedgerError as error:
        raise LedgerError(f"{error}; `dvc repro` publishes the run again") from None


def archived_runs(archive: Path) -> list[FinishedRun]:
    """The runs in an archive; LedgerError for one that cannot be used."""
    runs = []
    for record, rows in read_archive(archive):
        name = place_of(record.spec)
        texts = [record.model_dump_json(), *(row.model_dump_json() for row in rows)]
        sha256 = hashlib.sha256("\n".join(texts).encode()).hexdigest()
        runs.append(FinishedRun(f"{archive.as_posix()}/{name}", record, rows, sha256))
    return runs


def evaluations(
    runs: Iterable[FinishedRun], denominator: Denominator, study: str = ""
) -> pd.DataFrame:
    """All evaluations of `runs`, by run and then by step.

    `attacked` of `attackable` images are the ASR by `denominator`. `loss_*` is the mean of a term
    of the training loss since the evaluation before; NaN at the start. `model` is the hash of the
    weights that a cleaning run is given, and an `untouched` run starts from them as they are.
    `handed_on` marks the evaluation of the model that a run leaves. `index` counts within the run.
    `validation_*` and `test_asr` are of the two parts of the images; NaN for runs without counts.
    """
    records: list[dict[str, Any]] = []
    for run in runs:
        record, spec = run.record, run.record.spec
        # The last up to the step of the model; the first where all come after it.
        last = sum(row.step <= record.model_step for row in run.rows[1:])
        of_run = {
            "study": study,
            "run": run.folder,
            "model": record.inputs.get("model", ""),
            "machine": record.environment.get("device", "unknown"),
            "untouched": spec.defence is None or not DEFENCES[spec.defence.name].changes_start,
            "diverged": run.diverged,
        }
        for index, row in enumerate(run.rows):
            attacked, attackable = row.attack_success(denominator)
            terms = row.train_loss or {}
            part = row.validation
            held, of_held = part.attack_success(denominator) if part else (math.nan, math.nan)
            records.append(
                {
                    **of_run,
                    **{name: getattr(row, name) for name in FIELDS},
                    **{f"loss_{term}": terms.get(term, math.nan) for term in ("mmcl", "ssl")},
                    "accuracy": row.accuracy,
                    "asr": attacked / attackable,
                    "attacked": attacked,
                    "attackable": attackable,
                    "validation_accuracy": part.accuracy if part else math.nan,
                    "validation_asr": held / of_held,
                    "test_asr": (attacked - held) / (attackable - of_held),
                    "index": index,
                    "handed_on": index == last,
                }
            )
    frame = pd.DataFrame.from_records(records, columns=list(COLUMNS))
    # As objects, which lie together: rows are taken thousands of times, column by column of text.
    return frame.astype(dict.fromkeys(frame.select_dtypes("str"), object)).copy()


def start_models(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a MODEL before cleaning: as pre-training left it, else as a run met it that starts
    from it as it is.
    """
    left = frame[(frame.stage == "pretrain") & frame.handed_on.astype(bool)]
    return pd.concat([left, untouched_starts(frame)]).drop_duplicates(MODEL)


def untouched_starts(frame: pd.DataFrame) -> pd.DataFrame:
    """First evaluations of cleaning runs that start from a model as it is."""
    return frame[(frame.stage == "clean") & (frame.step == 0) & frame.untouched.astype(bool)]


def accuracy_kept(frame: pd.DataFrame) -> pd.Series:
    """Accuracies as shares of the start's; NaN where it is not known, or nothing was right."""
    starts = start_models(frame).set_index(MODEL).accuracy.rename("start")
    return frame.accuracy / frame.join(starts, on=MODEL).start.replace(0, math.nan)


def joined(*frames: pd.DataFrame) -> pd.DataFrame:
    """Tables one after the other; columns of an empty one would lose their types."""
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
