"""Every reader of files that strangers or bad disks may have changed: valid input for each, and the
errors it may raise.

Readers that need torch are in weight_readers.py, so that the others start fast.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repro.data.images import ImageError, decode_image, encode_png
from repro.data.index import StoreError
from repro.data.shards import PairStore, ShardWriter, write_store
from repro.data.sums import write_sums
from repro.events import EVENT, parse
from repro.files import sealed
from repro.ledger import LedgerError
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.build import build
from repro.report.judging.claims import load_claims
from repro.report.material import read_material
from repro.report.numbers.authors import authors_points
from repro.report.numbers.evidence import Evidence, Settings
from repro.report.pages.html import runs_page
from repro.report.pages.sacred import read_records
from repro.report.verify import verify
from repro.runs.published import check_unique, read_bits, read_results
from repro.sources import packages
from repro.sources.shards import tars
from repro.sources.shards.imagenet import labelled_images, validation_images
from repro.spec import SpecError
from repro.study.archive import read_archive, write_archive
from tests.support.ledger import write_run, write_specs
from tests.support.reader import Reader
from tests.support.replay import CC3M, series


def make_store(folder: Path) -> None:
    """A store of five rows."""
    writer = ShardWriter(folder)
    for i in range(5):
        writer.add(encode_png(np.full((8, 8, 3), i, np.uint8)), "png", f"caption {i} ü", label=i)
    write_store(folder, *writer.close())


def read_store(folder: Path) -> Any:
    """All that a store gives, to one who put the hashes right after a change of its lists."""
    for name in ("index.npz", "shards.json"):
        write_sums(folder, {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()})
    store = PairStore.open(folder)
    return (
        list(store.captions),
        store.content_hash(),
        [store.decode(i, 8).tobytes() for i in range(len(store))],
    )


def read_foreign_tar(folder: Path) -> Any:
    """A shard is never refused: what cannot be used is counted, and the count adds up."""
    part = folder / "part.npz"
    tars._index_shard(folder / "00000.tar", part)
    with np.load(part, allow_pickle=False) as columns:
        counts, rows = json.loads(columns["told"].tobytes())["counts"], len(columns["keys"])
    dropped = sum(
        number for reason, number in counts.items() if reason not in ("listed", "obtained")
    )
    assert counts.get("listed", 0) == rows + dropped


def make_images(folder: Path) -> None:
    """A noisy image in every format that is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for suffix in ("png", "jpg", "webp"):
        Image.fromarray(pixels).save(folder / f"x.{suffix}")


def read_images(folder: Path) -> Any:
    """All images of the folder as pixels."""
    for path in folder.iterdir():
        assert decode_image(path.read_bytes(), 16).shape == (16, 16, 3)


def make_run(folder: Path) -> None:
    """A ledger of one run."""
    write_run(folder, clean_runs(write_specs(folder))[0], [(0.4, 0.9), (0.3, 0.0)])
    shutil.rmtree(folder / "specs")


def read_ledger(folder: Path) -> Any:
    """Rows and bits of all runs, consistent with each other."""
    for path, record, rows in read_results(folder / "results"):
        check_unique(rows)
        bits = read_bits(path, rows[0].num_images) if rows else {}
        assert all(array.shape[-1] == rows[0].num_images for array in bits.values())
        assert record.model_dump_json()


def read_specs(folder: Path) -> Any:
    """The profile mini, its runs, and the claims."""
    load_claims(folder / "specs" / "claims.yaml")
    profile = load_profile("mini", folder / "specs")
    return [*pretrain_runs(profile), *clean_runs(profile)]


def make_archive(folder: Path) -> None:
    """A study's archive of one run."""
    make_run(folder)
    write_archive(
        folder / "x.jsonl.gz",
        [(record, rows) for _, record, rows in read_results(folder / "results")],
    )
    shutil.rmtree(folder / "results")


def make_context(folder: Path) -> None:
    """Specifications, and the small files that the report shows beside results."""
    write_specs(folder)
    for path in ("data/mini", "poisoned/mini", "report"):
        (folder / path).mkdir(parents=True)
    accounting = {"used": {"cc3m": 4}}
    (folder / "data/mini/accounting.json").write_text(json.dumps(accounting))
    (folder / "data/mini/attribution.json").write_text(
        json.dumps({"changes": "none", "images": [], "text": []})
    )
    pair = {
        "kind": "clean",
        "row": 1,
        "caption": "a pear",
        "original_caption": None,
        "image": "iVBORw==",
    }
    evaluation = {"row": 0, "class": "pear", "image": "iVBORw==", "triggered": "iVBORw=="}
    samples = {"accounting": accounting, "pairs": [pair], "evaluation": [evaluation]}
    (folder / "poisoned/mini/cc3m-samples.json").write_bytes(sealed(samples))
    test = {"name": "tests/x.py::test_y", "passed": 1, "failed": 0, "skipped": 0}
    case = {"case": 1, "fault": "x", "must": "y", "outcome": "passed", "tests": [test]}
    faults = {
        "commit": None,
        "dirty": False,
        "date": "2026-01-02",
        "python": "3.11",
        "seconds": 1.0,
        "cases": [case],
    }
    (folder / "report/faults.json").write_text(json.dumps(faults))
    project = 'authors = [{name = "N"}]\nurls = {Repository = "https://example.org"}\n'
    (folder / "pyproject.toml").write_text(f"[project]\n{project}")


def read_files_beside(folder: Path) -> Any:
    """What the report shows beside results, on a page."""
    with contextlib.chdir(folder):
        study = Evidence(Settings.of(PROFILE()))
        build(study, load_claims(), read_material(study, Path()), folder / "out", latex_too=False)


PROFILE = functools.cache(lambda: load_profile("mini"))


def make_report(folder: Path) -> None:
    """A report without results, beside its specifications."""
    make_context(folder)
    read_files_beside(folder)


def read_report(folder: Path) -> Any:
    """Whatever was changed is named."""
    with contextlib.chdir(folder):
        return verify(folder / "out/report.json")


def make_authors(folder: Path) -> None:
    """A result file in the authors' form."""
    (folder / CC3M).write_text(json.dumps(series()))


def read_authors(folder: Path) -> Any:
    """Counts behind the authors' fractions."""
    points, _ = authors_points(folder)
    assert all(
        0 <= point.attacked <= point.attackable and 0 <= point.correct <= point.images
        for point in points
    )


def make_labels(folder: Path) -> None:
    """A flat evaluation folder's list."""
    (folder / "labels.csv").write_text("image,label\na.JPEG,0\nb.JPEG,1\n", encoding="utf-8")


def read_labels(folder: Path) -> Any:
    """Paths inside the folder, labels in range."""
    for path, label in labelled_images(folder, 2):
        assert path.resolve().is_relative_to(folder.resolve()) and label in (0, 1)


def make_validation_tar(folder: Path) -> None:
    """A tar in the form of ImageNet's, with labels beside it."""
    make_labels(folder)
    with tarfile.open(folder / "val.tar", "w") as tar:
        for name in ("a.JPEG", "b.JPEG"):
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes(700)))


def read_validation_tar(folder: Path) -> Any:
    """Bytes of the listed images; members may end early, which decoding finds."""
    return [image.read() for image in validation_images(folder / "val.tar", 2)]


def make_validation_shard(folder: Path) -> None:
    """A webdataset shard of labelled images."""
    make_store(folder)
    for name in ("index.npz", "shards.json", "SHA256SUMS"):
        (folder / name).unlink()


def read_validation_shard(folder: Path) -> Any:
    """Bytes of the images of five classes."""
    return [image.read() for image in validation_images(folder, 5)]


def make_record(folder: Path) -> None:
    """A Sacred file record."""
    record = folder / "1"
    record.mkdir()
    run = {
        "experiment": {"name": "clean"},
        "status": "COMPLETED",
        "start_time": "2026-01-02T03:04:05",
        "result": {"accuracy": 0.1},
    }
    (record / "run.json").write_text(json.dumps(run))
    (record / "config.json").write_text(
        json.dumps({"dataset": "cc3m", "schedule": {"learning_rate": 0.001}, "seed": 0})
    )
    (record / "metrics.json").write_text(
        json.dumps({"loss": {"steps": [0, 1], "values": [2.0, 1.0]}})
    )


def tarball() -> bytes:
    """A package as npm packs it, of one empty file: the same bytes at every call."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("package/data/x.exc"), io.BytesIO())
    return gzip.compress(buffer.getvalue(), mtime=0)


def make_package(folder: Path) -> None:
    """A tarball."""
    (folder / "x-1.tgz").write_bytes(tarball())


def read_package(folder: Path) -> Any:
    """A member of the tarball, held to the pin of the one that was made."""
    os.environ["REPRO_NPM_DIR"] = str(folder)
    pin = base64.b64encode(hashlib.sha512(tarball()).digest()).decode()
    package = packages.Package("x", "1", f"sha512-{pin}")
    return packages.Tarball(packages.obtain(package)).read("data/x.exc")


def make_output(folder: Path) -> None:
    """A worker's output."""
    (folder / "output").write_text(
        f'hello\n{EVENT}{{"event": "metrics", "step": 1, "values": {{"loss": 1.0}}}}\n'
    )


def read_output(folder: Path) -> Any:
    """Every line is an event or ordinary output."""
    for line in (folder / "output").read_text(errors="replace").splitlines():
        event = parse(line)
        assert event is None or isinstance(event, dict)


SPECS = ("specs/claims.yaml", "specs/mini/*.yaml", "specs/protocols/*.yaml")
BESIDE = ("data/mini/*.json", "poisoned/mini/*.json", "report/faults.json")
PROJECT = ("pyproject.toml",)
READERS = {
    "store-index": Reader(make_store, ("index.npz",), read_store, StoreError, "npz"),
    "store-list": Reader(make_store, ("shards.json",), read_store, StoreError, "json"),
    "store-shard": Reader(make_store, ("*.tar",), read_store, StoreError),
    "others-shard": Reader(make_store, ("*.tar",), read_foreign_tar, StoreError),
    "images": Reader(make_images, ("*",), read_images, ImageError),
    "validation-tar": Reader(make_validation_tar, ("*",), read_validation_tar, SpecError),
    "validation-shard": Reader(make_validation_shard, ("*",), read_validation_shard, SpecError),
    "labels": Reader(make_labels, ("*",), read_labels, SpecError),
    "ledger-record": Reader(make_run, ("**/run.json",), read_ledger, LedgerError, "json"),
    "ledger-rows": Reader(make_run, ("**/rows.jsonl",), read_ledger, LedgerError, "jsonl"),
    "ledger-bits": Reader(make_run, ("**/bits.npz",), read_ledger, LedgerError, "npz"),
    "specs": Reader(write_specs, SPECS, read_specs, SpecError, "yaml"),
    "study-archive": Reader(
        make_archive,
        ("*.gz",),
        lambda folder: read_archive(folder / "x.jsonl.gz"),
        LedgerError,
        "gz",
    ),
    "beside-results": Reader(make_context, BESIDE, read_files_beside, LedgerError, "json"),
    "project": Reader(make_context, PROJECT, read_files_beside, LedgerError),
    "report": Reader(make_report, ("out/report.json",), read_report, LedgerError, "json"),
    "authors": Reader(make_authors, ("*",), read_authors, LedgerError, "json"),
    "record": Reader(
        make_record,
        ("1/*",),
        lambda folder: runs_page("mini", read_records(folder)),
        LedgerError,
        "json",
    ),
    "npm-package": Reader(make_package, ("*",), read_package, packages.PackageError, exact=True),
    "worker-output": Reader(make_output, ("*",), read_output, ValueError),
}
