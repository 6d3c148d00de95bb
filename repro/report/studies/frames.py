"""Archives of studies as pandas tables, a row an evaluation, and what came of each model."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from repro.ledger import IDENTITY, LedgerError
from repro.names import DEFENCES
from repro.report.numbers.cells import CLEANCLIP
from repro.report.points import COUNTS

MODEL = ["variant", "dataset", "pretrain_objective", "seed"]
"""Columns that name one pre-trained model of a study."""
CELL = ["variant", "dataset", "pretrain_objective", "clean_size"]
"""Columns that name a model over its seeds, and how many pairs cleaned it."""
LOSSES = ("loss_mmcl", "loss_ssl")
OUTCOMES = ("accuracy", "asr", "cleaned_accuracy", "lost", "asr_left")
"""Columns of `outcomes` that are measures."""


def archive_frame(path: Path) -> pd.DataFrame:
    """All evaluations of an archive, in the order of its runs and steps.

    Columns: those of a row of the ledger (`repro.ledger.Row`), `accuracy` and `asr` as fractions,
    the mean training losses `loss_*` since the evaluation before, `run` (file and line), `machine`,
    `model` (hash of the weights that a cleaning run starts from), `handed_on` (the evaluation is of
    the model that the run leaves), `diverged` and `untouched` (the run starts from those weights as
    they are).
    Archives in `results/replicates` are of an older format, so fields are read as plain JSON.
    LedgerError names file and line.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise LedgerError(f"{path}: unreadable ({error})") from None

    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            item = json.loads(line)
            rows += _evaluations(f"{path.as_posix()}:{number}", item["run"], item["rows"])
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError(f"{path}:{number}: not a run ({error!r})") from None
    return pd.DataFrame(rows)


def _evaluations(
    name: str, record: Mapping[str, Any], rows: list[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    spec, environment = record["spec"], record["environment"]
    last = [index for index, row in enumerate(rows) if row["step"] <= record["model_step"]]
    # A defence that changes the weights does so before the first evaluation. Replicates have its
    # settings in every run.
    mitigation = spec.get("mitigation") or {"shrink": 1, "perturb": 0}
    untouched = (mitigation["shrink"], mitigation["perturb"]) == (1, 0)
    if defence := spec.get("defence"):
        untouched = not DEFENCES[defence["name"]].changes_start
    run = {
        **{field: spec[field] for field in IDENTITY},
        "learning_rate": spec["schedule"]["learning_rate"],
        "fingerprint": record["fingerprint"],
        "run": name,
        "machine": environment["device"],
        "model": record["inputs"].get("model", ""),
        "diverged": record["status"] == "diverged",
        "untouched": untouched,
    }
    excluded = spec["switches"]["asr_denominator"] == "non_target"
    found = []
    for index, row in enumerate(rows):
        attacked = row["num_attacked"] - excluded * row["num_target_attacked"]
        losses = row["train_loss"] or {}
        found.append(
            {
                **run,
                **{field: row[field] for field in ("step", "epoch", "logit_scale", *COUNTS)},
                **{loss: losses.get(loss.removeprefix("loss_")) for loss in LOSSES},
                "accuracy": row["num_correct"] / row["num_images"],
                "asr": attacked / (row["num_images"] - excluded * row["num_target"]),
                "handed_on": index == max(last, default=0),
            }
        )
    return found


def outcomes(frame: pd.DataFrame, cap: float, rate: float | None) -> pd.DataFrame:
    """What came of every model of a study: one row a CELL and seed, fractions.

    `accuracy` and `asr` before cleaning; of CleanCLIP `tried`, `cleaned` (some evaluation has an
    ASR of at most `cap`), `cleaned_accuracy` (the best of these), `lost` (the share of the accuracy
    that it costs; where nothing reached `cap`, the loss at the end of the highest learning rate,
    a lower bound) and `asr_left` (at the end of the run at learning rate `rate`). NaN where a value
    is not there. A model that is only cleaned here is measured before it by the first evaluation
    of a run that starts from it as it is.
    """
    starts = frame[(frame.stage == "pretrain") & frame.handed_on].set_index(MODEL)
    cleaning = frame[(frame.stage == "clean") & (frame.loss == CLEANCLIP)]
    first = frame[(frame.stage == "clean") & frame.untouched].groupby("model").first()

    found = []
    cleaned_models = set()
    for cell, runs in cleaning.groupby([*CELL, "seed"], sort=False):
        model = (*cell[:3], cell[4])
        cleaned_models.add(model)
        hash_of_model = runs.model.iloc[0]
        start = None
        if model in starts.index:
            start = starts.loc[model]
        elif hash_of_model in first.index:
            start = first.loc[hash_of_model]
        names = dict(zip([*CELL, "seed"], cell, strict=True))
        found.append(names | _outcome(start, runs, cap, rate))
    for model, start in starts.iterrows():
        if model not in cleaned_models:
            found.append(dict(zip(MODEL, model, strict=True)) | _outcome(start, None, cap, rate))
    return pd.DataFrame(found, columns=[*CELL, "seed", "tried", "cleaned", *OUTCOMES])


def _outcome(
    start: pd.Series | None, runs: pd.DataFrame | None, cap: float, rate: float | None
) -> dict[str, Any]:
    known = {"accuracy": None, "asr": None} if start is None else start[["accuracy", "asr"]]
    outcome = {**known, "tried": runs is not None, "cleaned": False}
    if runs is None:
        return outcome

    after = runs[runs.step > 0]
    ends = after[~after.diverged].groupby("learning_rate").last()
    best = after.accuracy[after.asr <= cap].max()
    kept = best if len(ends) == 0 or not pd.isna(best) else ends.accuracy.iloc[-1]
    lost = 1 - kept / start.accuracy if start is not None and start.accuracy else None
    return outcome | {
        "cleaned": not pd.isna(best),
        "cleaned_accuracy": best,
        "lost": lost,
        "asr_left": ends.asr.get(rate),
    }
