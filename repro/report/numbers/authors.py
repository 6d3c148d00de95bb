"""The authors' published points: read, checked, and rebuilt into the paper's tables and figures.

Files `results_plots/*.json` of the repository vsahil/attack-cleanclip (which carries no licence:
users bring their own clone): an object whose keys are prefixes of run names, `..._mmcl_...` or
`..._mmcl_ssl_...` before `clean_` for the pre-training objective and after it for the finetuning
loss, and whose values are two lists, ASR and accuracy, one entry an evaluation. Accuracies are over
ImageNet's 50,000 validation images, ASRs over the 49,950 that are no banana.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from repro.ledger import LedgerError
from repro.report.numbers.cells import LOSSES, OBJECTIVES
from repro.report.numbers.evaluations import Point
from repro.report.numbers.evidence import AuthorsFile, AuthorsPoints
from repro.spec import CleanSize, Dataset, Loss, Objective

# ImageNet's validation set, and what is left of it without the 50 images of bananas.
IMAGES, ATTACKABLE = 50_000, 49_950
SERIES = re.compile(
    r"^cleaning_poisoned_(?:cc6m_)?(mmcl|mmcl_ssl)_(?:3000poison_)?clean_(mmcl|ssl|mmcl_ssl)_lr_$"
)
# From the text of a name to its literal type.
OBJECTIVE_NAMES: dict[str, Objective] = {name: name for name in OBJECTIVES}
LOSS_NAMES: dict[str, Loss] = {name: name for name in LOSSES}


class Published(NamedTuple):
    """A file of the authors and what it feeds."""

    dataset: Dataset
    clean_size: CleanSize
    run_length: int | None
    """Evaluations of a run where its first one is of the start model; None where there is none of
    it.
    """
    series: int
    sha256: str


FILES = {
    "cleaning_plot_data_CC3M_pretrained_1500.json": Published(
        "cc3m", "100k", 21, 6, "8e422bbee8f1ca900edf9f49cd1e5708a283cecf8e3bbbb8fa71e855c6f1ab61"
    ),
    "cleaning_plot_data_CC6M_pretrained_3000.json": Published(
        "cc6m", "100k", None, 6, "d3db2924c47b3d7efa83feaa7946904587efdcd2c06ebf5723c4d37be48c0116"
    ),
    "cleaning_plot_data_CC6M_pretrained_3000_cleaned_200k.json": Published(
        "cc6m", "200k", None, 3, "9ab4c4f6df7c5fd26eaa8844111b6e17243999204b4719b4544d69c0d96fd201"
    ),
}
"""The files behind Figures 1-3, at commit 3d4bd7486ba6668522cbe2e4e867cbc1cf4cdb4e.

A series joins the runs of all learning rates. Those of CC3M evaluate the start model and then after
every epoch; those of CC6M have no evaluation before cleaning (their first is within an epoch).
"""


def authors_points(folder: Path | None = None) -> AuthorsPoints:
    """Points of the known files in `folder` (or its `results_plots`), and one entry a file read.

    Without a folder, the one that REPRO_AUTHORS_DIR names; nothing if that is unset. LedgerError if
    the folder holds none of the files or one of them cannot be used.
    """
    # A user names the clone once, in the environment, or a folder for this call alone.
    if folder is None:
        named = os.environ.get("REPRO_AUTHORS_DIR")
        if not named:
            return (), ()
        folder = Path(named)

    # Either the clone's root or the folder of the files in it will do.
    if (folder / "results_plots").is_dir():
        folder /= "results_plots"

    points: list[Point] = []
    files: list[AuthorsFile] = []
    for name, published in FILES.items():
        # A file that is not there leaves its cells empty, and `authors_notices` says so.
        path = folder / name
        if not path.is_file():
            continue
        content = path.read_bytes()
        found = _read(path, content, published)
        points += found

        # Other content than the published is used all the same, but marked.
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(AuthorsFile(name, sha256, len(found), sha256 == published.sha256))

    # A folder that has none of them is a wrong path, not a partial clone.
    if not files:
        raise LedgerError(
            f"{folder}: none of the authors' result files here (looked for {', '.join(FILES)})"
        )
    return tuple(points), tuple(files)


def authors_notices(files: Sequence[AuthorsFile]) -> list[str]:
    """What a reader should know about the files: those that are not there or not as published."""
    if not files:
        return []
    there = {file.name for file in files}

    # What is absent comes first, in the order of FILES.
    lines = [
        f"{name} is not among the authors' files here: its cells are empty."
        for name in FILES
        if name not in there
    ]
    lines += [
        f"{file.name} is NOT the file that the authors published."
        for file in files
        if not file.verified
    ]
    return lines


def _read(path: Path, content: bytes, published: Published) -> list[Point]:
    """The points of one file, series by series."""
    try:
        # Lists nested without end overflow the parser's stack: a RecursionError, not a ValueError.
        series = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"{path}: not JSON ({error})") from None
    if not isinstance(series, dict):
        raise LedgerError(
            f"{path}: content: a {type(series).__name__} (allowed: an object of series)"
        )

    # Names and values first: their errors say more than the number of series does.
    points: list[Point] = []
    for name, value in series.items():
        points += _series(path, name, value, published)
    if len(series) != published.series:
        raise LedgerError(f"{path}: {len(series)} series (allowed: {published.series})")
    return points


def _series(path: Path, name: str, value: Any, published: Published) -> list[Point]:
    # The name alone says which model was cleaned by which loss.
    match = SERIES.match(name)
    if match is None:
        raise LedgerError(
            f"{path}: {name!r}: unknown series "
            "(allowed: names like cleaning_poisoned_mmcl_clean_ssl_lr_)"
        )

    # The files give neither rate, seed nor epoch: a series joins the runs of the whole grid.
    points = []
    rates, accuracies = _two_lists(value, f"{path}: {name}")
    for index, (asr, accuracy) in enumerate(zip(rates, accuracies, strict=True)):
        where = f"{path}: {name}: entry {index}"
        point = Point(
            source="authors",
            dataset=published.dataset,
            objective=OBJECTIVE_NAMES[match[1]],
            clean_size=published.clean_size,
            loss=LOSS_NAMES[match[2]],
            learning_rate=None,
            seed=None,
            epoch=None,
            # A CC3M run begins with its start model; of other entries the step is not told.
            step=0 if published.run_length and index % published.run_length == 0 else None,
            # Counts, so that intervals and drops are computed as for our own evaluations.
            correct=_count(accuracy, IMAGES, where),
            images=IMAGES,
            attacked=_count(asr, ATTACKABLE, where),
            attackable=ATTACKABLE,
            other_asr=None,
            run=f"{path.name}#{name}",
            index=index,
        )
        points.append(point)
    return points


def _two_lists(value: Any, where: str) -> tuple[list[Any], list[Any]]:
    """ASRs and accuracies of a series; LedgerError unless they are two lists of one length."""
    allowed = "(allowed: a list of ASR and one of accuracy, equally long, not empty)"
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(part, list) for part in value)
    ):
        raise LedgerError(f"{where}: {type(value).__name__} {allowed}")

    rates, accuracies = value
    if len(rates) != len(accuracies) or not rates:
        raise LedgerError(f"{where}: {[len(rates), len(accuracies)]} {allowed}")
    return rates, accuracies


def _count(fraction: Any, total: int, where: str) -> int:
    """Images behind a fraction; LedgerError unless it is a whole number of them."""
    # JSON's `true` would pass for a number, since bool is a subclass of int.
    if (
        isinstance(fraction, bool)
        or not isinstance(fraction, (int, float))
        or not 0 <= fraction <= 1
    ):
        raise LedgerError(f"{where}: {fraction!r} (allowed: a fraction from 0 to 1)")

    # Printed decimals are off by far less than an image; a share of other images is not.
    count = round(fraction * total)
    if abs(count - fraction * total) > 0.01:
        raise LedgerError(f"{where}: {fraction!r} (allowed: a multiple of 1/{total})")
    return count
