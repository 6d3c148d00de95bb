"""`python -m benchmarks.growth`: processor seconds of what reads all runs, or all rows of a store,
at growing sizes. The last column is the exponent of the last step: 1 for linear growth.

Runs are those of the study `confirmation`, repeated under other seeds; rows have no images.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.timing import processor_seconds
from repro.data.index import Captions, Index
from repro.data.poison import choose_rows
from repro.data.shards import PairStore
from repro.ledger import identity_of, rows_text
from repro.profile import load_profile
from repro.report.points import archived_runs, evaluations
from repro.runs.deliver import is_delivered
from repro.runs.layout import RESULTS, results_dir
from repro.runs.published import ROWS
from repro.runs.run import Run, fingerprint_of
from repro.study.archive import ArchivedRun, read_archive, unpack_run, write_archive
from repro.study.spec import archive_of, lacking, load_study

STUDY = "confirmation"
TIMES = (1, 4, 16)
"""How many times the runs of STUDY there are."""
STORE_ROWS = (10_000, 100_000, 1_000_000)
PUBLISHED = 54
"""Runs of a profile that the driver looks at, once."""
SEEDS = 1000
"""Between one repetition of the runs and the next."""
WORDS = ("red", "green", "small", "old", "banana", "kettle", "lamp", "river", "picture", "drawing")


def repeated(runs: list[ArchivedRun], times: int) -> Iterator[ArchivedRun]:
    """The runs, and as many again under other seeds."""
    for number in range(times):
        for record, rows in runs:
            spec = record.spec.model_copy(update={"seed": record.spec.seed + SEEDS * number})
            names = identity_of(spec, record.fingerprint)
            same = [row.model_copy(update=names) for row in rows]
            files = record.files | {ROWS: hashlib.sha256(rows_text(same)).hexdigest()}
            yield ArchivedRun(record.model_copy(update={"spec": spec, "files": files}), same)


def store(count: int, folder: Path) -> PairStore:
    """A store of `count` rows with keys and captions."""
    rng = np.random.default_rng(0)
    words = rng.integers(len(WORDS), size=(count, 6))
    captions = Captions.of(" ".join(WORDS[word] for word in row) for row in words)
    keys = rng.integers(256, size=(2, count, 16), dtype=np.uint8)
    zeros = np.zeros(count, np.int64)
    index = Index(zeros.astype(np.int32), zeros, zeros, keys[0], keys[1], zeros - 1, captions)
    return PairStore(folder, index, [])


def of_rows(count: int, folder: Path) -> dict[str, Callable[[], object]]:
    """What is measured on a store of so many rows, by name."""
    profile = load_profile("mini")
    pairs = store(count, folder)
    some = np.arange(count // 50)
    other = pairs.index.take(some)
    return {
        "poison: which rows": lambda: choose_rows(profile, "cc3m", pairs),
        "poison: the index with the poisoned rows": lambda: pairs.index.replace(some, other),
    }


def of_runs(times: int, folder: Path) -> dict[str, Callable[[], object]]:
    """What is measured on so many times the runs, by name."""
    archive, results = folder / archive_of(STUDY), folder / RESULTS
    write_archive(archive, repeated(read_archive(archive_of(STUDY)), times))
    runs, study = archived_runs(archive), load_study(STUDY)
    # An archive is read once a process; this one nobody has read yet.
    unread = Path(shutil.copy(archive, folder / "unread.jsonl.gz"))
    denominator = load_profile("mini").switches.asr_denominator
    published = [run.record for run in runs[: PUBLISHED * times]]
    for run in runs[: PUBLISHED * times]:
        spec = run.record.spec
        unpack_run(run.record, run.rows, results_dir(spec, results) / spec.run_id)

    def driver() -> None:
        for record in published:
            fingerprint_of(record.spec, record.inputs)
            run = Run(record.spec, record.fingerprint, {}, record.code)
            assert is_delivered(run, results, models=False)

    return {
        "`verify`, `study`: an archive read": lambda: read_archive(unread),
        "report: its runs, when it is read": lambda: archived_runs(unread),
        "report: the table of their evaluations": lambda: evaluations(runs, denominator),
        "`study`: what is missing": lambda: list(lacking(study, (run.record for run in runs))),
        f"driver: whether {PUBLISHED} runs are delivered": driver,
    }


def measured(
    sizes: Sequence[int], functions: Callable[[int, Path], dict[str, Callable[[], object]]]
) -> dict[str, list[float]]:
    """Processor seconds by name, one value a size."""
    seconds: dict[str, list[float]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for name, function in functions(size, Path(folder)).items():
                before = processor_seconds()
                function()
                seconds.setdefault(name, []).append(processor_seconds() - before)
    return seconds


def table(sizes: Sequence[str], seconds: dict[str, list[float]], step: float) -> str:
    """The seconds as Markdown; `step` is the last size over the one before."""
    lines = [f"| | {' | '.join(sizes)} | exponent |", "|---" * (len(sizes) + 2) + "|"]
    for name, values in seconds.items():
        exponent = math.log(values[-1] / values[-2]) / math.log(step)
        cells = " | ".join(f"{value:.3g} s" for value in values)
        lines.append(f"| {name} | {cells} | {exponent:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Print both tables, each when it is there."""
    heads = [f"{times} times the runs" for times in TIMES]
    print(table(heads, measured(TIMES, of_runs), TIMES[-1] / TIMES[-2]), flush=True)
    heads = [f"{count:,} rows" for count in STORE_ROWS]
    print(f"\n{table(heads, measured(STORE_ROWS, of_rows), STORE_ROWS[-1] / STORE_ROWS[-2])}")


if __name__ == "__main__":
    main()
