"""The evaluations of a ledger or of archives as one pandas table, a row an evaluation.

Tables, figures, verdicts and exports start from this table. Shares are fractions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from repro.ledger import IDENTITY, Row, RunRecord
from repro.report.numbers.evaluations import Denominator, FinishedRun, Point
from repro.study.archive import read_archive
from repro.study.spec import archive_of

LOSSES = ("mmcl", "ssl")
"""Terms of the training loss that have a column, `loss_mmcl` and `loss_ssl`."""
AUTHORS = "authors"
"""Study of the authors' points."""
COUNTS = ("num_images", "num_correct", "num_attacked", "num_target", "num_target_attacked")
FIELDS = (
    *(name for name in IDENTITY if name != "profile"),
    *("learning_rate", "epoch", "step", "logit_scale", "fingerprint"),
    *COUNTS,
)
"""Columns that are a ledger row's own fields."""
COLUMNS = (
    "study",
    *FIELDS,
    *(f"loss_{term}" for term in LOSSES),
    "accuracy",
    "asr",
    "attacked",
    "attackable",
    "run",
    "index",
    "model",
    "handed_on",
    "diverged",
)


def evaluations(
    runs: Iterable[FinishedRun], denominator: Denominator, study: str = ""
) -> pd.DataFrame:
    """All evaluations of `runs`, by run and then by step.

    `attacked` of `attackable` images are the ASR by `denominator`. `loss_*` is the mean of a term
    of the training loss since the evaluation before; NaN at the start. `model` is the hash of the
    weights that a cleaning run started from. `handed_on` marks the evaluation of the model that a
    run leaves.
    """
    records = []
    for run in runs:
        last = run.handed_on(denominator).index if run.rows else -1
        for index, row in enumerate(run.rows):
            attacked, attackable = row.attack_success(denominator)
            terms = row.train_loss or {}
            records.append(
                {
                    "study": study,
                    **{name: getattr(row, name) for name in FIELDS},
                    **{f"loss_{term}": terms.get(term, math.nan) for term in LOSSES},
                    "accuracy": row.accuracy,
                    "asr": attacked / attackable,
                    "attacked": attacked,
                    "attackable": attackable,
                    "run": run.folder,
                    "index": index,
                    "model": run.record.inputs.get("model", ""),
                    "handed_on": index == last,
                    "diverged": run.diverged,
                }
            )
    return pd.DataFrame.from_records(records, columns=list(COLUMNS))


def authors_evaluations(points: Sequence[Point], starts: Sequence[Point]) -> pd.DataFrame:
    """The authors' points in the same columns, as study "authors" and seed 0.

    `starts` are the models that were cleaned, one a model and cleaning size. Rates and steps are
    not in the files, so that `learning_rate` is NaN and `step` counts the points of a series.
    """
    records = [
        {
            "study": AUTHORS,
            "stage": "clean",
            "dataset": point.dataset,
            "pretrain_objective": point.objective,
            "clean_size": point.clean_size,
            "loss": point.loss,
            "variant": "",
            "poisoned": True,
            "seed": 0,
            "epoch": 0.0,
            "step": 0 if start else point.index + 1,
            "num_correct": point.correct,
            "num_images": point.images,
            "accuracy": point.accuracy,
            "asr": point.asr,
            "attacked": point.attacked,
            "attackable": point.attackable,
            "run": point.run,
            "index": point.index,
            "handed_on": False,
            "diverged": False,
        }
        for start, part in ((True, starts), (False, points))
        for point in part
        if start or point.step != 0
    ]
    frame = pd.DataFrame.from_records(records, columns=list(COLUMNS))
    return frame.astype({"learning_rate": float})


def archived_runs(name: str, root: Path = Path()) -> list[FinishedRun]:
    """The runs in the archive of a study; LedgerError for one that cannot be used."""
    path = archive_of(name)
    return [
        FinishedRun(
            f"{path.as_posix()}/{record.spec.stage}/{record.spec.cell}/{record.spec.run_id}",
            record,
            tuple(rows),
            _content_hash(record, rows),
        )
        for record, rows in read_archive(root / path)
    ]


def _content_hash(record: RunRecord, rows: Sequence[Row]) -> str:
    """SHA-256 of a run in an archive, which has no files of its own to hash."""
    texts = [record.model_dump_json(), *(row.model_dump_json() for row in rows)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def archive_frame(
    names: Sequence[str], denominator: Denominator, root: Path = Path()
) -> pd.DataFrame:
    """Evaluations of the named studies, as `evaluations` has them."""
    frames = [evaluations(archived_runs(name, root), denominator, name) for name in names]
    return pd.concat(frames, ignore_index=True)
