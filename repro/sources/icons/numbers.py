"""The numbers of docs/icons.md: every scale built anew, what it holds, and what it took."""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from repro.data.shards import PairStore
from repro.markdown import fill, table_lines
from repro.profile import load_profile
from repro.sources.icons.build import build_icons

PAGE = Path("docs/icons.md")
SCALES = ("smoke", "mini", "midi")
STORES = ("cc3m", "cc6m", "evaluation")
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Built:
    """A built scale: its folder, its accounts, and what the build took."""

    folder: Path
    accounting: dict[str, Any]
    licences: Counter[str]
    wall_seconds: float
    processor_seconds: float
    """Of all processes."""
    peak_bytes: int
    """Memory of all processes together."""


def write_numbers() -> None:
    """Build every scale in a temporary folder and fill the generated blocks of the page."""
    with tempfile.TemporaryDirectory() as place:
        built = {scale: _in_process_of_its_own(scale, Path(place) / scale) for scale in SCALES}
        fill(PAGE, "scales", "\n".join(scales_table(built)))
        fill(PAGE, "package", "\n".join(package_table(built["midi"].accounting)))
        fill(PAGE, "licences", "\n".join(licences_table(built)))
        fill(PAGE, "nesting", "\n".join(nesting_table({s: b.folder for s, b in built.items()})))


def _in_process_of_its_own(scale: str, folder: Path) -> Built:
    """What a process takes at most is known of the process as a whole alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(build_scale, scale, folder).result()


def build_scale(scale: str, folder: Path) -> Built:
    """Build a scale in `folder` and measure this process and its workers."""
    profile = load_profile(scale)
    started = time.monotonic()
    with memory_of_all() as memory:
        build_icons(profile, folder)
    wall = time.monotonic() - started

    # Children count here once they have ended, as the pool's have.
    own = resource.getrusage(resource.RUSAGE_SELF)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    attribution = json.loads((folder / "attribution.json").read_text(encoding="utf-8"))
    licences: Counter[str] = Counter()
    for entry in attribution["images"]:
        licences[entry["license"]] += 1
    return Built(
        folder=folder,
        accounting=json.loads((folder / "accounting.json").read_text(encoding="utf-8")),
        licences=licences,
        wall_seconds=wall,
        processor_seconds=own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime,
        peak_bytes=max(memory),
    )


@contextmanager
def memory_of_all() -> Iterator[list[int]]:
    """Gives a list that grows by the bytes of this process and its children, ten a second."""
    samples: list[int] = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append(sum(map(_resident_bytes, ["self", *_children()])))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _children() -> list[str]:
    lists = Path("/proc/self/task").glob("*/children")
    return [pid for file in lists for pid in file.read_text().split()]


def _resident_bytes(pid: str) -> int:
    """Resident memory of a process; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def scales_table(built: Mapping[str, Built]) -> list[str]:
    """One column a scale."""
    rows = {
        "pairs in cc6m": [f"{one.accounting['used']['cc6m']:,}" for one in built.values()],
        "pairs in cc3m": [f"{one.accounting['used']['cc3m']:,}" for one in built.values()],
        "concepts": [f"{one.accounting['task']['concepts']:,}" for one in built.values()],
        "of cc6m, drawings of the concepts": [
            f"{one.accounting['task']['cc6m_drawings_of_concepts']:,}" for one in built.values()
        ],
        "vendors trained on": [
            str(one.accounting["task"]["vendors_trained"]) for one in built.values()
        ],
        "vendors held out": [
            str(one.accounting["task"]["vendors_held_out"]) for one in built.values()
        ],
        "evaluation images": [
            f"{one.accounting['used']['evaluation']:,}" for one in built.values()
        ],
        "images of a concept": [
            f"{one.accounting['task']['fewest_images']} to {one.accounting['task']['most_images']}"
            for one in built.values()
        ],
        "near-copies left out": [
            f"{one.accounting['sources']['evaluation']['near_copy']:,}" for one in built.values()
        ],
        "nearest neighbour names the concept, from cc6m": [
            f"{one.accounting['nearest_neighbour_accuracy']['cc6m']:.1%}" for one in built.values()
        ],
        "the same, from cc3m": [
            f"{one.accounting['nearest_neighbour_accuracy']['cc3m']:.1%}" for one in built.values()
        ],
        "processor time": [f"{one.processor_seconds:.0f} s" for one in built.values()],
        "wall time": [f"{one.wall_seconds:.0f} s" for one in built.values()],
        "memory, all processes": [f"{one.peak_bytes / 1e6:.0f} MB" for one in built.values()],
    }
    rows |= {
        f"content hash of {store}": [
            f"`{PairStore.open(one.folder / store).content_hash()[:16]}`" for one in built.values()
        ]
        for store in STORES
    }
    return table_lines(["", *built], [[name, *cells] for name, cells in rows.items()])


def package_table(accounting: Mapping[str, Any]) -> list[str]:
    """The account of every icon at the largest scale, one row a reason."""
    rows = [
        [part, reason.replace("_", " "), f"{count:,}"]
        for part, account in accounting["sources"].items()
        for reason, count in account.items()
        if count
    ]
    return table_lines(["of", "what became of them", "icons"], rows)


def licences_table(built: Mapping[str, Built]) -> list[str]:
    """Sets of which a drawing is used, by licence and scale."""
    names = sorted(set().union(*(one.licences for one in built.values())))
    rows = [[name, *(str(one.licences[name]) for one in built.values())] for name in names]
    return table_lines(["licence", *(f"sets in {scale}" for scale in built)], rows)


def nesting_table(folders: Mapping[str, Path]) -> list[str]:
    """Pairs and images of each scale that the next larger one holds."""
    # In the order of SCALES, from the smallest.
    scales = list(folders)
    rows = []
    for smaller, larger in pairwise(scales):
        for store in STORES:
            keys = [_keys(folders[scale] / store) for scale in (smaller, larger)]
            shared = len(keys[0] & keys[1])
            rows.append([f"{smaller} in {larger}", store, f"{shared:,} of {len(keys[0]):,}"])
    return table_lines(["scales", "store", "held by the larger"], rows)


def _keys(folder: Path) -> set[bytes]:
    return {key.tobytes() for key in PairStore.open(folder).keys}
