"""The authors' published points: read, checked, and rebuilt into the paper's tables and figures.

Files `results_plots/*.json` of the repository vsahil/attack-cleanclip (which carries no licence:
users bring their own clone): an object whose keys are prefixes of run names, `..._mmcl_...` or
`..._mmcl_ssl_...` before `clean_` for the pre-training objective and after it for the finetuning
loss, and whose values are two lists, ASR and accuracy, one entry an evaluation. Accuracies are over
ImageNet's 50,000 validation images, ASRs over the 49,950 that are no banana.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from repro.ledger import LedgerError
from repro.report.points import AUTHORS
from repro.spec import CleanSize, Dataset, Fraction

# ImageNet's validation set, and what is left of it without the 50 images of bananas.
IMAGES, ATTACKABLE = 50_000, 49_950
SERIES = re.compile(
    r"^cleaning_poisoned_(?:cc6m_)?(mmcl|mmcl_ssl)_(?:3000poison_)?clean_(mmcl|ssl|mmcl_ssl)_lr_$"
)
Shares = Annotated[list[Fraction], Field(min_length=1)]
CONTENT = TypeAdapter(dict[str, Annotated[tuple[Shares, Shares], Field(strict=False)]])


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


@dataclass(frozen=True)
class AuthorsFile:
    """A file of the authors' points."""

    name: str
    sha256: str
    points: int
    verified: bool
    """Whether it is the published file, byte for byte."""


AuthorsPoints = tuple[Sequence[dict[str, Any]], Sequence[AuthorsFile]]
"""Evaluations with columns of repro/report/points.py, and the files that they were read from.

The files tell no rates, seeds and epochs; `step` is 0 for a start model and else None.
"""


def authors_points(folder: Path | None = None) -> AuthorsPoints:
    """Points of the known files in `folder` (or its `results_plots`), and one entry a file read.

    Without a folder, the one that REPRO_AUTHORS_DIR names; nothing if that is unset. LedgerError if
    the folder holds none of the files or one of them cannot be used.
    """
    if folder is None:
        named = os.environ.get("REPRO_AUTHORS_DIR")
        if not named:
            return (), ()
        folder = Path(named)
    if (folder / "results_plots").is_dir():
        folder /= "results_plots"

    points: list[dict[str, Any]] = []
    files: list[AuthorsFile] = []
    for name, published in FILES.items():
        # A file that is not there leaves its cells empty, and `authors_notices` says so.
        path = folder / name
        if path.is_file():
            content = path.read_bytes()
            of_file = list(_points(path, content, published))
            points += of_file
            # Other content than the published is used all the same, but marked.
            sha256 = hashlib.sha256(content).hexdigest()
            files.append(AuthorsFile(name, sha256, len(of_file), sha256 == published.sha256))

    # A folder that has none of them is a wrong path, not a partial clone.
    if not files:
        raise LedgerError(
            f"{folder}: none of the authors' result files here (looked for {', '.join(FILES)})"
        )
    return points, files


def authors_notices(files: Sequence[AuthorsFile]) -> list[str]:
    """What a reader should know about the files: those that are not there or not as published."""
    there = {file.name for file in files}
    return [
        *(
            f"{name} is not among the authors' files here: its cells are empty."
            for name in FILES
            if files and name not in there
        ),
        *(
            f"{file.name} is NOT the file that the authors published."
            for file in files
            if not file.verified
        ),
    ]


def _points(path: Path, content: bytes, published: Published) -> Iterator[dict[str, Any]]:
    """The points of one file, series by series."""
    try:
        series = CONTENT.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join(map(str, [path, *first["loc"]]))
        raise LedgerError(
            f"{where}: {first['msg']} (got {str(first['input'])[:80]!r}; allowed: an object of "
            "series, each a list of ASRs and one of accuracies, fractions from 0 to 1)"
        ) from None

    for name, (rates, accuracies) in series.items():
        match = SERIES.match(name)
        if match is None:
            raise LedgerError(
                f"{path}: {name!r}: unknown series "
                "(allowed: names like cleaning_poisoned_mmcl_clean_ssl_lr_)"
            )
        if len(rates) != len(accuracies):
            lengths = [len(rates), len(accuracies)]
            raise LedgerError(f"{path}: {name}: {lengths} entries (allowed: equally many)")
        for index, (asr, accuracy) in enumerate(zip(rates, accuracies, strict=True)):
            # Counts, so that intervals are computed as for our own evaluations.
            where = f"{path}: {name}: entry {index}"
            correct, attacked = _count(accuracy, IMAGES, where), _count(asr, ATTACKABLE, where)
            yield {
                "study": AUTHORS,
                "variant": "",
                "stage": "clean",
                "dataset": published.dataset,
                "pretrain_objective": match[1],
                "clean_size": published.clean_size,
                "loss": match[2],
                "poisoned": True,
                "step": 0 if published.run_length and index % published.run_length == 0 else None,
                "num_correct": correct,
                "num_images": IMAGES,
                "accuracy": correct / IMAGES,
                "attacked": attacked,
                "attackable": ATTACKABLE,
                "asr": attacked / ATTACKABLE,
                "run": f"{path.name}#{name}",
                "index": index,
                "handed_on": False,
                "diverged": False,
            }
    if len(series) != published.series:
        raise LedgerError(f"{path}: {len(series)} series (allowed: {published.series})")


def _count(fraction: float, total: int, where: str) -> int:
    """Images behind a fraction; LedgerError unless it is a whole number of them."""
    # Printed decimals are off by far less than an image; a share of other images is not.
    count = round(fraction * total)
    if abs(count - fraction * total) > 0.01:
        raise LedgerError(f"{where}: {fraction!r} (allowed: a multiple of 1/{total})")
    return count
