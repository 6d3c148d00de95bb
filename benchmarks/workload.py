"""What both sides work on: one cell of the profile `mini`, CleanCLIP of the model pre-trained with
MMCL + SSL on `cc6m`.

The start model has random weights: training and evaluation take the same time whatever the weights
are.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from PIL import Image

from repro.data.images import encode_png
from repro.data.shards import PairStore, ShardWriter, write_store
from repro.data.stages import poison_stage
from repro.data.templates import templates_of
from repro.evaluate.images import EvaluationSet
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import evaluate_model
from repro.profile import clean_runs, load_profile
from repro.runs.layout import content_hash, standard_inputs
from repro.runs.published import write_record
from repro.sources.stage import data_stage
from repro.spec import RunSpec
from repro.train.build import build_model, build_optimizer
from repro.train.model import PairEncoder
from repro.train.pairs import TrainingPairs
from repro.train.predictions import Predictions
from repro.train.process.checkpoint import save_tensors
from repro.train.step import training_step
from tests.support.ledger import record_of

RATE = 1e-4
RN50_BATCH, RN50_PAIRS = 16, 64
"""Pairs per step and in all, where the paper's model is measured on a processor."""
RN50_CLASSES, RN50_IMAGES = 10, 50
"""Classes and images of its evaluation: with eight templates, prompts are to images what they are
for ImageNet.
"""
RN50_TEMPLATES = [
    f"a {kind} photo of {article} {{}}"
    for kind in ("good", "bad", "large", "small")
    for article in ("a", "the")
]


@dataclass(frozen=True)
class Workload:
    """Runs that differ in their learning rate, and where their inputs lie."""

    specs: list[RunSpec]
    inputs: dict[str, Path]
    """As `repro.launch` names them: pairs, evaluation, synonyms, model."""

    @property
    def spec(self) -> RunSpec:
        return self.specs[0]

    @cached_property
    def store(self) -> PairStore:
        return PairStore.open(self.inputs["pairs"])

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the store that the run trains on."""
        with np.load(self.inputs["pairs"] / "rows.npz", allow_pickle=False) as arrays:
            rows: NDArray[np.int64] = arrays[str(self.spec.clean_size)]
            return rows

    @cached_property
    def names(self) -> list[str]:
        """Class names in label order."""
        return (
            (self.inputs["evaluation"] / "classnames.txt").read_text(encoding="utf-8").splitlines()
        )

    def pairs(self, cache: Path) -> TrainingPairs:
        """Our loader."""
        return TrainingPairs(self.spec, self.store, self.rows, self.inputs["synonyms"], cache, 0, 1)

    def model(self) -> CLIP:
        """The start model as our worker builds it."""
        model = build_model(self.spec.model, self.spec.seed, self.spec.switches.initialisation)
        model.train()
        return model

    def evaluate(self, model: CLIP, cache: Path) -> Predictions:
        """Our evaluation from nothing: images decoded, triggers stamped and prompts tokenised in
        this very call.
        """
        spec = self.spec
        images = EvaluationSet(
            self.inputs["evaluation"],
            spec.model.vision.image_size,
            self.names.index(spec.target_class),
            spec.trigger,
            spec.switches,
            spec.evaluate.trigger_seed,
            cache,
        )
        prompts = PromptSet(self.names, templates_of(spec.evaluate), spec.switches.truncation)
        return evaluate_model(model, images, prompts, torch.device("cpu"))


class Trainer:
    """Our training step on a model of its own."""

    def __init__(self, spec: RunSpec, model: CLIP) -> None:
        self.spec, self.model = spec, model
        self.optimizer = build_optimizer(model, spec.optimizer, spec.switches.weight_decay_rule)
        self.encoder = PairEncoder(
            model, spec.schedule.global_batch_size // spec.schedule.norm_batch_size
        )

    def step(self, images: torch.Tensor, tokens: torch.Tensor) -> float:
        """One optimizer step on a batch of `TrainingPairs`; returns the loss."""
        return float(
            training_step(
                self.encoder, self.model, self.optimizer, images, tokens, self.spec, RATE
            )["loss"]
        )


def mini_workload(folder: Path, learning_rates: int) -> Workload:
    """The cell with its first so many learning rates; makes its data, as the stages do, where they
    are not there yet.
    """
    profile = load_profile("mini")
    runs = [
        run
        for run in clean_runs(profile, "cc6m", "mmcl_ssl")
        if (run.clean_size, run.loss) == ("100k", "mmcl_ssl")
    ]
    specs = [run for run in runs if run.seed == runs[0].seed][:learning_rates]
    inputs = {name: path.absolute() for name, path in standard_inputs(specs[0]).items()} | {
        "model": folder / "model"
    }
    if not inputs["evaluation"].exists():
        data_stage(profile.name)
    if not inputs["pairs"].exists():
        poison_stage(profile.name, "cc6m")
    workload = Workload(specs, inputs)
    save_model(workload)
    return workload


def rn50_workload(folder: Path, source: Workload) -> Workload:
    """The paper's cleaning of `cc3m`, on drawings enlarged to its resolution and captions as long
    as the web's, thrice those of `mini`.
    """
    spec = next(
        run
        for run in clean_runs(load_profile("paper"), "cc3m", "mmcl_ssl")
        if run.loss == "mmcl_ssl"
    )
    schedule = spec.schedule.model_copy(
        update={"global_batch_size": RN50_BATCH, "norm_batch_size": RN50_BATCH}
    )
    spec = spec.model_copy(update={"schedule": schedule, "precision": "fp32"})
    inputs = source.inputs | {"pairs": folder / "pairs_rn50", "model": folder / "model_rn50"}
    workload = Workload([spec], inputs)
    if not inputs["pairs"].exists():
        inputs["pairs"].mkdir()
        writer = ShardWriter(inputs["pairs"])
        for row in source.rows[:RN50_PAIRS]:
            caption = ", ".join([source.store.captions[int(row)]] * 3)
            writer.add(_enlarged(source.store, int(row), spec), "png", caption)
        write_store(inputs["pairs"], *writer.close())
        np.savez(inputs["pairs"] / "rows.npz", **{str(spec.clean_size): np.arange(RN50_PAIRS)})  # type: ignore[arg-type]  # its stub
        save_model(workload)
    return workload


def rn50_evaluation_workload(folder: Path, source: Workload) -> Workload:
    """`rn50_workload` with a zero-shot task of its own: the first classes of `mini`, its images
    enlarged.
    """
    training = rn50_workload(folder, source)
    evaluate = training.spec.evaluate.model_copy(update={"templates": RN50_TEMPLATES})
    target = source.names.index(source.spec.target_class)
    classes = [*range(RN50_CLASSES - 1), target]
    spec = training.spec.model_copy(
        update={"evaluate": evaluate, "target_class": source.spec.target_class}
    )

    out = folder / "evaluation_rn50"
    if not out.exists():
        out.mkdir()
        drawn = PairStore.open(source.inputs["evaluation"])
        rows = np.flatnonzero(np.isin(drawn.labels, classes))
        writer = ShardWriter(out)
        for number in range(RN50_IMAGES):
            row = int(rows[number % len(rows)])
            writer.add(
                _enlarged(drawn, row, spec), "png", "", classes.index(int(drawn.labels[row]))
            )
        write_store(out, *writer.close())
        names = "".join(f"{source.names[label]}\n" for label in classes)
        (out / "classnames.txt").write_text(names, encoding="utf-8")

    return Workload([spec], training.inputs | {"evaluation": out})


def _enlarged(store: PairStore, row: int, spec: RunSpec) -> bytes:
    """A drawing as PNG at the resolution of the run's model."""
    side = spec.model.vision.image_size
    drawing = Image.open(io.BytesIO(store.image_bytes(row))).convert("RGB")
    enlarged = drawing.resize((side, side), Image.Resampling.BICUBIC)
    return encode_png(np.asarray(enlarged))


def save_model(workload: Workload) -> None:
    """A start model of random weights, with the record that cleaning asks for."""
    folder = workload.inputs["model"]
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / "model.safetensors", workload.model().state_dict())
    record = record_of(workload.spec, model_hash=content_hash(folder))
    write_record(folder / "run.json", record)
