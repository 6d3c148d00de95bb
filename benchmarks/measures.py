"""The measurements of bench.json, one function each, all on a single core."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import reference
from benchmarks.timing import Measurement, compare, processor_seconds
from benchmarks.workload import (
    RATE,
    Trainer,
    Workload,
    rn50_evaluation_workload,
    rn50_workload,
)
from repro.data.shards import PairStore
from repro.launch.driver import run_all
from repro.profile import load_profile, pretrain_runs
from repro.runs.published import read_results
from repro.train.build import build_model

STEPS = 5
"""Training steps of one repetition."""
BATCHES = 15
"""Batches of one repetition of the loader."""
MATRIX = 2048
"""Rows and columns of the matrices whose product gives the rate."""
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "MKL": torch.matmul,
    "oneDNN": lambda one, other: torch.ops.mkldnn._linear_pointwise(
        one, other.T.contiguous(), None, "none", [], ""
    ),
}
"""Products of matrices by library: MKL gives processors of AMD half of what oneDNN does."""


def train_step(
    workload: Workload, folder: Path, steps: int = STEPS, repetitions: int = 7
) -> Measurement:
    """CleanCLIP's training step, the loading of its batch included."""
    slow = reference.build_model(
        workload.spec.model, workload.inputs["model"] / "model.safetensors"
    )
    optimizer = reference.build_optimizer(slow, workload.spec)
    loaded = _endless(
        reference.Pairs(workload.spec, workload.store, workload.rows, workload.inputs["synonyms"])
    )
    trainer = Trainer(workload.spec, workload.model())
    batches = _batches(workload, folder)

    def theirs() -> None:
        for _ in range(steps):
            reference.training_step(slow, optimizer, *next(loaded), workload.spec, RATE)

    def ours() -> None:
        for _ in range(steps):
            trainer.step(*next(batches))

    return compare(theirs, ours, repetitions, units=steps)


def evaluation(workload: Workload, folder: Path) -> Measurement:
    """Accuracy and ASR of one model, nothing kept from an earlier evaluation."""
    images, model = PairStore.open(workload.inputs["evaluation"]), workload.model()

    def ours() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            workload.evaluate(model, Path(cache))

    return compare(
        lambda: reference.evaluate(model, workload.spec, images, workload.names), ours, 3
    )


def train_step_rn50(workload: Workload, folder: Path) -> Measurement:
    """`train_step` for the paper's model at its resolution, with fewer pairs."""
    return train_step(rn50_workload(folder, workload), folder, 1, 3)


def evaluation_rn50(workload: Workload, folder: Path) -> Measurement:
    """`evaluation` for the paper's model at its resolution, with prompts and images in ImageNet's
    proportion.
    """
    return evaluation(rn50_evaluation_workload(folder, workload), folder)


def loader_rn50(workload: Workload, folder: Path) -> Measurement:
    """`loader` for images of the paper's resolution."""
    return loader(rn50_workload(folder, workload), folder)


def loader(workload: Workload, folder: Path) -> Measurement:
    """Batches of pairs with their augmented views, per second of one core."""
    loaded = _endless(
        reference.Pairs(workload.spec, workload.store, workload.rows, workload.inputs["synonyms"])
    )
    batches = _batches(workload, folder)
    images = BATCHES * workload.spec.schedule.global_batch_size
    return compare(
        lambda: [next(loaded) for _ in range(BATCHES)],
        lambda: [next(batches) for _ in range(BATCHES)],
        7,
        units=images,
    )


def cleaning_run(workload: Workload, folder: Path, repetitions: int = 2) -> Measurement:
    """All learning rates of the workload, from the first process to the last row; seconds are one
    learning rate's.
    """
    inputs = {name: str(path) for name, path in workload.inputs.items()}

    def theirs() -> None:
        for spec in workload.specs:
            run = folder / "run.json"
            run.write_text(
                json.dumps({"spec": spec.model_dump(mode="json"), "inputs": inputs}),
                encoding="utf-8",
            )
            subprocess.run(
                [sys.executable, "-m", "benchmarks.reference", str(run)],
                check=True,
                stdout=subprocess.DEVNULL,
            )

    def ours() -> None:
        with (
            tempfile.TemporaryDirectory(dir=folder) as work,
            contextlib.chdir(work),
            open(os.devnull, "w") as silent,
        ):
            with contextlib.redirect_stderr(silent):
                run_all(workload.specs, lambda spec: workload.inputs)
            rows = [rows for _, _, rows in read_results(Path("results"))]
            assert len(rows) == len(workload.specs)
            assert all(rows)

    return compare(theirs, ours, repetitions, units=len(workload.specs), warm_up=False)


def rn50_of_floor(workload: Workload, folder: Path) -> Measurement:
    """A training step of the paper's model on 32 pairs: the time that its multiplications would
    take at this core's rate, over its own. The rate is that of the faster library of PRODUCTS.

    `seconds` is the step's, `reference_seconds` the floor.
    """
    spec = pretrain_runs(load_profile("paper"), "cc3m", "mmcl")[0]
    schedule = spec.schedule.model_copy(update={"global_batch_size": 32, "norm_batch_size": 32})
    spec = spec.model_copy(update={"schedule": schedule, "precision": "fp32"})
    model = build_model(spec.model, 0, "fp32")
    model.train()
    trainer = Trainer(spec, model)
    random = torch.Generator().manual_seed(0)
    size = spec.model.vision.image_size
    images = torch.randint(0, 256, (1, 32, 3, size, size), generator=random, dtype=torch.uint8)
    tokens = torch.randint(1, 49406, (1, 32, 32), generator=random)
    tokens[..., -1] = 49407
    with FlopCounterMode(display=False) as counter:
        trainer.step(images, tokens)
    matrix = torch.randn(MATRIX, MATRIX, generator=random)
    library = fastest(matrix)
    product = PRODUCTS[library]
    result = compare(lambda: product(matrix, matrix), lambda: trainer.step(images, tokens), 3)
    products = counter.get_total_flops() / (2 * MATRIX**3)
    runs = [ratio * products for ratio in result.runs]
    return Measurement(
        sorted(runs)[len(runs) // 2],
        f"of the floor by {library}",
        runs,
        result.reference_seconds * products,
        result.seconds,
    )


def fastest(matrix: Tensor) -> str:
    """The library of PRODUCTS that squares the matrix in the least processor time of five tries."""
    seconds: dict[str, float] = {}
    for _ in range(5):
        for name, product in PRODUCTS.items():
            before = processor_seconds()
            product(matrix, matrix)
            seconds[name] = min(seconds.get(name, math.inf), processor_seconds() - before)
    return min(seconds, key=seconds.__getitem__)


def _endless(pairs: reference.Pairs) -> Iterator[tuple[Tensor, Tensor]]:
    loader = pairs.loader()
    for _ in count():
        yield from loader


def _batches(workload: Workload, folder: Path) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = workload.pairs(folder / "cache")
    for _ in count():
        yield from pairs.batches(0, len(pairs), 0)
