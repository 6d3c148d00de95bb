"""What the study is: typed specifications, read from YAML here and nowhere else.

A profile is a folder of `specs/` with four files (data, pretrain, clean, evaluate) on top of a protocol
file, which settles every detail in which the paper and the authors' code differ. `load_profile` checks all
of them before anything runs and reports every problem of a file at once; `pretrain_runs` and `clean_runs`
expand a profile into `RunSpec`s, one per training run, complete enough for a worker that sees nothing else.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

Dataset = Literal["cc3m", "cc6m"]
Objective = Literal["mmcl", "mmcl_ssl"]
Loss = Literal["mmcl", "ssl", "mmcl_ssl"]
CleanSize = Literal["100k", "200k"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")]
Rate = Annotated[FiniteFloat, Field(gt=0, lt=1e3)]
Weight = Annotated[FiniteFloat, Field(ge=0)]
Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]

LOSS_WEIGHTS: dict[str, dict[str, float]] = {
    "mmcl": {"mmcl": 1.0, "ssl": 0.0},
    "ssl": {"mmcl": 0.0, "ssl": 1.0},
    "mmcl_ssl": {"mmcl": 1.0, "ssl": 1.0},
}
"""Weights of the two terms by objective (paper Sec. 3: L_CleanCLIP = L_SSL + L_MMCL; code: both weights 1)."""


class SpecError(ValueError):
    """A specification that cannot be used; the message names file, field, value and what is allowed."""


class Spec(BaseModel):
    """Base of all specifications: immutable, no unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Switches(Spec):
    """The choices in which the paper's text and the authors' code differ, or on which the text is silent.

    `specs/protocols/{paper,authors}.yaml` give both settings with their source; `specs/README.md` tables them.
    """

    poison_caption: Literal["word", "template"]
    """Caption of a poisoned pair: the bare target word, or a random one of the 80 templates filled with it."""
    trigger_centre: Literal["zero", "mean"]
    """BadNet patch values: N(0,1), or the image's channel mean + N(0,1)."""
    trigger_overflow: Literal["clip", "wrap"]
    """What happens to patch values outside [0, 1] on conversion to uint8: clipped, or wrapped modulo 256."""
    trigger_geometry: Literal["crop", "squash"]
    """Triggered evaluation images: resize and centre crop like the clean ones, or squash both sides."""
    evaluation_triggers: Literal["fixed", "redrawn"]
    """One versioned trigger set for every evaluation, or a fresh draw per evaluation."""
    asr_denominator: Literal["all", "non_target"]
    """Images counted in the headline ASR; the ledger's bits allow both."""
    schedule_offset: Literal["none", "one_epoch"]
    """The step at which the learning-rate schedule starts: 0, or one epoch in (warm-up skipped)."""
    optimizer_state: Literal["fresh", "restored"]
    """AdamW state at cleaning: new, or the pre-training moments and hyper-parameters (weight decay included)."""
    mode_after_evaluation: Literal["train", "eval"]
    """Whether BatchNorm goes back to train mode after a mid-epoch evaluation, or stays in eval mode till the epoch ends."""
    gather: Literal["exact", "authors"]
    """Cross-rank gradient: equal to the single-process one, or encoder gradients divided by the number of ranks."""
    weight_decay_rule: Literal["ndim", "names"]
    """Parameters without weight decay: those of fewer than two dimensions, or those whose names match the authors' list."""
    text_view: Literal["redrawn", "fixed"]
    """EDA text view: drawn anew at every access, or once per run."""
    truncation: Literal["keep_eot", "cut"]
    """Captions beyond 77 tokens: keep the end token in the last place (open_clip), or cut it off (authors)."""
    initialisation: Literal["fp32", "fp16_rounded"]
    """Initial weights as drawn, or rounded through float16 as the authors' loader does."""
    cleaning_pairs: Literal["seen", "held_out"]
    """Cleaning pairs: a subset of the unpoisoned pre-training pairs, or pairs that pre-training never saw."""


class Trigger(Spec):
    """An image trigger (paper Sec. 3, "Training Details")."""

    name: Literal["badnet", "blended", "sig", "wanet", "yellow"]
    patch_size: PositiveInt
    """Side of the square patch, pixels of the stored image; used by badnet and yellow."""


class Poison(Spec):
    """The attack: which pairs, which trigger, which caption."""

    trigger: Trigger
    target_class: str = Field(min_length=1)
    """Class name that the attack should evoke."""
    mode: Literal["dirty_label", "label_consistent"]
    """Poison any pair and replace its caption, or only pairs that already name the target and keep their caption."""
    num_poisoned: dict[Dataset, PositiveInt]
    """Poisoned pairs per dataset slot."""
    seed: int
    """Key of the choice of pairs, patch places and pixels."""


class EmojiSource(Spec):
    """Emoji drawings of several vendors with CLDR names: the stand-in that package registries ship."""

    kind: Literal["emoji"]
    held_out_family: str
    """Vendor family kept out of training; its drawings are the zero-shot evaluation set."""
    num_concepts: PositiveInt
    """Classes: the first so many of specs/classnames/emoji.txt (most drawn first); the target class is always in."""
    styles: list[str] | Literal["all"]
    """Drawing styles to use (see repro/data/emoji.py)."""
    max_keywords: Annotated[int, Field(ge=0, le=5)]
    """CLDR keywords appended to a caption: 0 to this many."""


class ShardSource(Spec):
    """Image-text pairs as webdataset tar shards, and ImageNet-1K validation, on the user's disk."""

    kind: Literal["webdataset"]
    pairs: dict[Dataset, str]
    """Folder of tar shards per dataset slot, relative to the repository."""
    evaluation: str
    """ImageNet validation: class folders, flat folder with labels.csv, or the official tar; relative path."""
    max_drop_fraction: Fraction
    """Share of undecodable rows above which the stage stops."""


class DataSpec(Spec):
    """specs/<profile>/data.yaml: datasets, evaluation images, poison and cleaning subsets."""

    stand_in: str
    """What the dataset slots hold instead of the paper's data, in words; empty if they hold the real data."""
    source: Annotated[EmojiSource | ShardSource, Field(discriminator="kind")]
    image_size: PositiveInt
    """Side of the stored square images, pixels."""
    num_pairs: dict[Dataset, PositiveInt]
    """Pairs per dataset slot at most; chosen by keyed hash."""
    poison: Poison
    cleaning_sizes: dict[CleanSize, PositiveInt]
    """Pairs in each cleaning subset."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        problems = []
        for slot in ("cc3m", "cc6m"):
            if slot not in self.num_pairs:
                problems.append(f"num_pairs.{slot}: missing (allowed: a positive count)")
            if slot not in self.poison.num_poisoned:
                problems.append(f"poison.num_poisoned.{slot}: missing (allowed: a positive count)")
        for slot, poisoned in self.poison.num_poisoned.items():
            if poisoned > (total := self.num_pairs.get(slot, 0)):
                problems.append(f"poison.num_poisoned.{slot}: {poisoned} is more than the {total} pairs (allowed: 1 to {total})")
        if self.poison.trigger.patch_size > self.image_size:
            problems.append(
                f"poison.trigger.patch_size: {self.poison.trigger.patch_size} is larger than the image "
                f"(allowed: 1 to image_size = {self.image_size})"
            )
        for size, count in self.cleaning_sizes.items():
            smallest = min(self.num_pairs.values())
            if count > smallest:
                problems.append(f"cleaning_sizes.{size}: {count} is more than the smallest dataset (allowed: 1 to {smallest})")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class VisionConfig(Spec):
    """open_clip's CLIPVisionCfg for a ModifiedResNet."""

    image_size: PositiveInt
    layers: Annotated[list[PositiveInt], Field(min_length=4, max_length=4)]
    width: PositiveInt
    head_width: PositiveInt


class TextConfig(Spec):
    """open_clip's CLIPTextCfg."""

    context_length: Literal[77]
    vocab_size: Literal[49408]
    width: PositiveInt
    heads: PositiveInt
    layers: PositiveInt


class ModelSpec(Spec):
    """An open_clip CLIP model, built from its configuration and never from pre-trained weights."""

    embed_dim: PositiveInt
    vision: VisionConfig
    text: TextConfig
    quick_gelu: bool

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        problems = []
        if self.vision.image_size % 32:
            problems.append(f"vision.image_size: {self.vision.image_size} (allowed: a multiple of 32)")
        if self.vision.width * 32 % self.vision.head_width:
            problems.append(f"vision.head_width: {self.vision.head_width} (allowed: a divisor of 32 * vision.width)")
        if self.text.width % self.text.heads:
            problems.append(f"text.heads: {self.text.heads} (allowed: a divisor of text.width = {self.text.width})")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class Optimizer(Spec):
    """AdamW."""

    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    eps: Rate
    weight_decay: Weight


class Views(Spec):
    """Augmentation of the base image view; the SSL view comes on top of it."""

    shift_pixels: Annotated[int, Field(ge=0)]
    """Whole-pixel random shift in both directions, edge-padded; 0 is off (as in the paper)."""
    flip: bool
    """Random horizontal flip."""


class Schedule(Spec):
    """How long and how fast to train: cosine with linear warm-up."""

    learning_rate: Rate
    epochs: PositiveInt
    warmup_steps: Annotated[int, Field(ge=0)]
    global_batch_size: Annotated[int, Field(ge=2)]
    """Pairs per optimizer step over all ranks: the number of negatives + 1."""
    norm_batch_size: PositiveInt
    """Pairs over which BatchNorm takes its statistics (the paper's "batch size" is this, per GPU)."""
    stop_after_epochs: PositiveInt | None
    """Use the model of this epoch of the schedule (the authors cleaned CC6M models of epochs 21 and 36 of 64); null: the last."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.global_batch_size % self.norm_batch_size:
            raise ValueError(
                f"norm_batch_size: {self.norm_batch_size} (allowed: a divisor of global_batch_size = {self.global_batch_size})"
            )
        return self


class PretrainSpec(Spec):
    """specs/<profile>/pretrain.yaml."""

    model: ModelSpec
    optimizer: Optimizer
    objectives: dict[Objective, Schedule]
    views: Views
    precision: Literal["fp32", "tf32", "bf16"]
    seeds: Annotated[list[int], Field(min_length=1)]
    evaluate_every_epochs: PositiveInt
    """Zero-shot accuracy and ASR during pre-training, every so many epochs and at the end."""


class CleanCell(Spec):
    """One block of the cleaning sweep: every combination of its lists is one run."""

    datasets: Annotated[list[Dataset], Field(min_length=1)]
    pretrain_objectives: Annotated[list[Objective], Field(min_length=1)]
    clean_sizes: Annotated[list[CleanSize], Field(min_length=1)]
    losses: Annotated[list[Loss], Field(min_length=1)]
    learning_rates: Annotated[list[Rate], Field(min_length=1)]
    global_batch_size: Annotated[int, Field(ge=2)]


class CleanSpec(Spec):
    """specs/<profile>/clean.yaml: finetuning of every pre-trained model."""

    optimizer: Optimizer
    epochs: PositiveInt
    warmup_steps: Annotated[int, Field(ge=0)]
    evaluations_per_epoch: PositiveInt | None
    """Evaluations at equal distances in every epoch; null where evaluate_every_steps is given."""
    evaluate_every_steps: PositiveInt | None
    """Evaluations every so many steps of an epoch and at its end (the authors' rhythm)."""
    views: Views
    precision: Literal["fp32", "tf32", "bf16"]
    cells: Annotated[list[CleanCell], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_rhythm(self) -> Self:
        if (self.evaluations_per_epoch is None) == (self.evaluate_every_steps is None):
            raise ValueError("evaluations_per_epoch: give exactly one of evaluations_per_epoch and evaluate_every_steps")
        return self


class EvaluateSpec(Spec):
    """specs/<profile>/evaluate.yaml."""

    classnames: Literal["imagenet", "emoji"]
    templates: Literal["openai"] | Annotated[list[str], Field(min_length=1)]
    """The 80 templates of OpenAI, or a list of strings with one {} each."""
    asr_cap: Fraction
    """A model counts as cleaned at an ASR of at most this (paper: 5%)."""
    confidence: Annotated[FiniteFloat, Field(gt=0.5, lt=1)]
    """Level of every interval in the report."""
    trigger_seed: int
    """Key of the fixed trigger set."""

    @model_validator(mode="after")
    def _fillable(self) -> Self:
        if self.templates != "openai":
            bad = [t for t in self.templates if t.count("{}") != 1]
            if bad:
                raise ValueError(f"templates: {bad[0]!r} (allowed: strings with exactly one {{}})")
        return self


class Profile(Spec):
    """A whole study at one scale."""

    name: Name
    protocol: Literal["paper", "authors"]
    switches: Switches
    data: DataSpec
    pretrain: PretrainSpec
    clean: CleanSpec
    evaluate: EvaluateSpec


class RunSpec(Spec):
    """One training run, resolved: all that its outcome depends on besides input data and code."""

    profile: Name
    stage: Literal["pretrain", "clean"]
    dataset: Dataset
    pretrain_objective: Objective
    clean_size: CleanSize | None
    """None in pre-training."""
    loss: Loss
    """The training loss of this run: the pre-training objective, or the cleaning loss."""
    variant: str
    """Empty in the main study; the name of the variant in a study of specs/studies."""
    poisoned: bool
    """False for the control that is trained on the unpoisoned pairs."""
    seed: int
    model: ModelSpec
    optimizer: Optimizer
    schedule: Schedule
    views: Views
    precision: Literal["fp32", "tf32", "bf16"]
    evaluations_per_epoch: FiniteFloat | None
    """Below 1 in pre-training: one evaluation every 1/x epochs."""
    evaluate_every_steps: PositiveInt | None
    switches: Switches
    trigger: Trigger
    target_class: str
    evaluate: EvaluateSpec

    @property
    def cell(self) -> str:
        """The pre-trained model this run makes or cleans, e.g. `cc3m-mmcl`."""
        return f"{self.dataset}-{self.pretrain_objective}"

    @property
    def run_id(self) -> str:
        """Name of the run's folder, unique within its profile, stage and cell."""
        parts = [self.variant] if self.variant else []
        if not self.poisoned:
            parts.append("control")
        if self.stage == "clean":
            parts += [str(self.clean_size), self.loss, f"lr{self.schedule.learning_rate:.6g}"]
        return "-".join([*parts, f"seed{self.seed}"])

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the loss terms, `{"mmcl": ..., "ssl": ...}`."""
        return LOSS_WEIGHTS[self.loss]


SPECS = Path("specs")
T = TypeVar("T", bound=Spec)


def read_yaml(path: Path) -> Any:
    """Parse a YAML file without tags, without duplicate keys and without anchors; SpecError says what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    yaml = YAML(typ="safe", pure=True)
    try:
        if any(event.anchor for event in yaml.parse(text) if getattr(event, "anchor", None)):
            raise SpecError(f"{path}: anchors and aliases are not allowed")
        return yaml.load(text)
    except YAMLError as error:
        raise SpecError(f"{path}: not valid YAML: {error}") from None


def check(model: type[T], content: Any, path: Path) -> T:
    """Validate `content` as `model`; all problems at once, each with field, value and what is allowed."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            if item["type"] == "value_error":
                prefix = ".".join(map(str, item["loc"]))
                lines += [f"{prefix + '.' if prefix else ''}{line}" for line in str(item["ctx"]["error"]).split("\n")]
                continue
            value = "" if item["type"] == "missing" else f" (got {item['input']!r})"
            lines.append(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}{value}")
        raise SpecError("\n".join([f"{path}: {len(lines)} problem(s)", *(f"  {line}" for line in lines)])) from None


class Protocol(Spec):
    """specs/<profile>/protocol.yaml: the named protocol and the switches in which this profile departs from it."""

    protocol: Literal["paper", "authors"]
    overrides: dict[str, Any]
    """Switch name to value; every entry is a deviation that the report lists."""


def _merge(content: Any, overrides: dict[str, Any], path: Path) -> Any:
    """Return `content` with dotted-path overrides applied; a path that names no field is a SpecError."""
    content = json.loads(json.dumps(content))
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node = content
        for key in parents:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise SpecError(f"{path}: {dotted}: no such field to override")
        node[last] = value
    return content


def load_profile(name: str, specs: Path = SPECS, overrides: dict[str, Any] | None = None) -> Profile:
    """Read and check the profile `specs/<name>`.

    `overrides` maps dotted paths (`data.poison.num_poisoned.cc6m`, `switches.gather`) to values: how studies vary
    a profile. Raises SpecError with every problem of the first bad file.
    """
    folder = specs / name
    known = sorted(p.name for p in specs.iterdir() if (p / "data.yaml").is_file()) if specs.is_dir() else []
    if name not in known:
        raise SpecError(f"profile: {name!r} (allowed: {', '.join(known) or 'none found in ' + str(specs)})")
    protocol = check(Protocol, read_yaml(folder / "protocol.yaml"), folder / "protocol.yaml")
    protocol_path = specs / "protocols" / f"{protocol.protocol}.yaml"
    switches = _merge(read_yaml(protocol_path), protocol.overrides, folder / "protocol.yaml")
    parts: dict[str, tuple[type[Spec], Any, Path]] = {"switches": (Switches, switches, protocol_path)}
    models: dict[str, type[Spec]] = {"data": DataSpec, "pretrain": PretrainSpec, "clean": CleanSpec, "evaluate": EvaluateSpec}
    for part, model in models.items():
        parts[part] = (model, read_yaml(folder / f"{part}.yaml"), folder / f"{part}.yaml")
    for dotted, value in (overrides or {}).items():
        part, _, rest = dotted.partition(".")
        if part not in parts or not rest:
            raise SpecError(f"override {dotted!r} (allowed: {', '.join(parts)} followed by a field)")
        model, content, path = parts[part]
        parts[part] = (model, _merge(content, {rest: value}, path), path)
    checked: dict[str, Any] = {part: check(*arguments) for part, arguments in parts.items()}
    profile = Profile(name=name, protocol=protocol.protocol, **checked)
    _check_across(profile, folder, specs)
    return profile


def classnames_file(classnames: str, specs: Path = SPECS) -> Path:
    """The list of class names, one a line in label order."""
    return specs / "classnames" / f"{classnames}.txt"


def load_classnames(profile: Profile, specs: Path = SPECS) -> list[str]:
    """Class names of the profile's zero-shot task in label order; the target class is always among them."""
    names = classnames_file(profile.evaluate.classnames, specs).read_text(encoding="utf-8").splitlines()
    source = profile.data.source
    if isinstance(source, EmojiSource):
        target = profile.data.poison.target_class
        kept = names[: source.num_concepts]
        names = kept if target in kept or target not in names else [*kept[:-1], target]
    return names


def _check_across(profile: Profile, folder: Path, specs: Path) -> None:
    """Checks that need more than one file of the profile."""
    problems = []
    names = load_classnames(profile, specs)
    target = profile.data.poison.target_class
    if names.count(target) != 1:
        problems.append(
            f"data.yaml: poison.target_class: {target!r} names {names.count(target)} classes "
            f"(allowed: one of the {len(names)} names in {classnames_file(profile.evaluate.classnames, specs)})"
        )
    if profile.pretrain.model.vision.image_size != profile.data.image_size:
        problems.append(
            f"pretrain.yaml: model.vision.image_size: {profile.pretrain.model.vision.image_size} "
            f"(allowed: data.yaml's image_size = {profile.data.image_size})"
        )
    for index, cell in enumerate(profile.clean.cells):
        for objective in cell.pretrain_objectives:
            if objective not in profile.pretrain.objectives:
                problems.append(f"clean.yaml: cells.{index}.pretrain_objectives: {objective!r} is not pre-trained")
        for size in cell.clean_sizes:
            if size not in profile.data.cleaning_sizes:
                problems.append(f"clean.yaml: cells.{index}.clean_sizes: {size!r} (allowed: keys of data.yaml's cleaning_sizes)")
            elif profile.data.cleaning_sizes[size] < cell.global_batch_size:
                problems.append(f"clean.yaml: cells.{index}.global_batch_size: more than the {size} subset holds")
    runs = Counter((run.cell, run.run_id) for run in clean_runs(profile))
    for (cell_name, run_id), count in runs.items():
        if count > 1:
            problems.append(f"clean.yaml: cells: run {run_id} of {cell_name} is listed {count} times")
    if problems:
        raise SpecError("\n".join([f"{folder}: {len(problems)} problem(s)", *(f"  {line}" for line in problems)]))


def _cells(profile: Profile) -> list[tuple[Dataset, Objective]]:
    return list(itertools.product(profile.data.num_pairs, profile.pretrain.objectives))


def pretrain_runs(
    profile: Profile, dataset: Dataset | None = None, objective: Objective | None = None, *, variant: str = "", poisoned: bool = True
) -> list[RunSpec]:
    """Pre-training runs of the profile, or of one dataset slot and objective; one per seed."""
    spec = profile.pretrain
    return [
        RunSpec(
            profile=profile.name, stage="pretrain", dataset=slot, pretrain_objective=goal, clean_size=None, loss=goal,
            variant=variant, poisoned=poisoned, seed=seed, model=spec.model, optimizer=spec.optimizer,
            schedule=spec.objectives[goal], views=spec.views, precision=spec.precision,
            evaluations_per_epoch=1 / spec.evaluate_every_epochs, evaluate_every_steps=None, switches=profile.switches,
            trigger=profile.data.poison.trigger, target_class=profile.data.poison.target_class, evaluate=profile.evaluate,
        )
        for slot, goal in _cells(profile)
        for seed in spec.seeds
        if dataset in (None, slot) and objective in (None, goal)
    ]  # fmt: skip


def clean_runs(
    profile: Profile, dataset: Dataset | None = None, objective: Objective | None = None, *, variant: str = "", poisoned: bool = True
) -> list[RunSpec]:
    """Cleaning runs of the profile, or of one pre-trained model; ordered so that runs of one size stay together."""
    spec = profile.clean
    return [
        RunSpec(
            profile=profile.name, stage="clean", dataset=slot, pretrain_objective=goal, clean_size=size, loss=loss,
            variant=variant, poisoned=poisoned, seed=seed, model=profile.pretrain.model, optimizer=spec.optimizer,
            schedule=Schedule(
                learning_rate=rate, epochs=spec.epochs, warmup_steps=spec.warmup_steps,
                global_batch_size=cell.global_batch_size, norm_batch_size=cell.global_batch_size, stop_after_epochs=None,
            ),
            views=spec.views, precision=spec.precision, evaluations_per_epoch=spec.evaluations_per_epoch,
            evaluate_every_steps=spec.evaluate_every_steps, switches=profile.switches,
            trigger=profile.data.poison.trigger, target_class=profile.data.poison.target_class, evaluate=profile.evaluate,
        )
        for slot, goal in _cells(profile)
        for cell in spec.cells
        if slot in cell.datasets and goal in cell.pretrain_objectives
        for size in cell.clean_sizes
        for seed in profile.pretrain.seeds
        for loss in cell.losses
        for rate in cell.learning_rates
        if dataset in (None, slot) and objective in (None, goal)
    ]  # fmt: skip


def digest(content: Any) -> str:
    """SHA-256 (first 16 hex digits) of JSON content in canonical form."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
