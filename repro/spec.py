"""The schema of the files in `specs/`, and of the runs that repro/profile.py makes of them."""

import hashlib
import json
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from repro.names import DEFENCES, LOSSES
from repro.names import CleanSize as CleanSize
from repro.names import Dataset as Dataset
from repro.names import DefenceName as DefenceName
from repro.names import ImageViewName as ImageViewName
from repro.names import Loss as Loss
from repro.names import Objective as Objective
from repro.names import Protocol as Protocol
from repro.names import TriggerName as TriggerName

Stage = Literal["pretrain", "clean"]
"""Stages of the graph that train."""
Precision = Literal["fp32", "tf32", "bf16"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")]
Rate = Annotated[FiniteFloat, Field(gt=0, lt=1e3)]
LearningRate = Annotated[FiniteFloat, Field(ge=1e-9, le=10)]
Width = Annotated[int, Field(ge=1, le=2**14)]
Weight = Annotated[FiniteFloat, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What torch and numpy take as a seed."""
Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
BatchSize = Annotated[int, Field(ge=2)]
T = TypeVar("T")
NonEmpty = Annotated[list[T], Field(min_length=1)]
SecondView = Literal["all", "poisoned", "clean"]
ModelAge = PositiveInt | Literal["last", "best_validation_loss"]
"""Epoch whose model is cleaned: a number, the last, or that of the lowest validation loss."""

METRIC_FIELDS = {"evaluate": {"asr_cap", "confidence"}, "switches": {"asr_denominator"}}
"""Fields of a RunSpec that only the reading of the ledger depends on: they retrain nothing."""


class SpecError(ValueError):
    """An unusable specification; the message names file, field, value and what is allowed."""


class Spec(BaseModel):
    """Base of all specifications: immutable, no unknown fields, no silent conversions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class Switches(Spec):
    """Choices in which the paper's text and the authors' code differ, or the text is silent.

    `specs/README.md` tables both settings, `specs/paper.yaml` and `authors.yaml` have sources.
    """

    poison_caption: Literal["word", "template"]
    """Caption of a poisoned pair: the bare target word, or a random one of the 80 templates filled
    with it."""
    trigger_centre: Literal["zero", "mean"]
    """BadNet patch values: N(0,1), or the image's channel mean + N(0,1)."""
    trigger_overflow: Literal["clip", "wrap"]
    """Patch values outside [0, 1] on conversion to uint8: clipped, or wrapped modulo 256."""
    trigger_geometry: Literal["crop", "squash"]
    """Triggered evaluation images: resize and centre crop like the clean ones, or squash both
    sides."""
    evaluation_triggers: Literal["fixed", "redrawn"]
    """One versioned trigger set for every evaluation, or a fresh draw per evaluation."""
    asr_denominator: Literal["all", "non_target"]
    """Images counted in the headline ASR; the ledger's counts allow both."""
    schedule_offset: Literal["none", "one_epoch"]
    """The step at which the learning-rate schedule starts: 0, or one epoch in (warm-up skipped)."""
    optimizer_state: Literal["fresh", "restored"]
    """AdamW state at cleaning: new, or the pre-training moments and hyper-parameters (weight decay
    included)."""
    mode_after_evaluation: Literal["train", "eval"]
    """Whether BatchNorm goes back to train mode after a mid-epoch evaluation, or stays in eval mode
    till the epoch ends."""
    gather: Literal["exact", "authors"]
    """Cross-rank gradient: equal to the single-process one, or encoder gradients divided by the
    number of ranks."""
    weight_decay_rule: Literal["ndim", "names"]
    """Parameters without weight decay: those of fewer than two dimensions, or those whose names
    match the authors' list."""
    text_view: Literal["redrawn", "fixed"]
    """EDA text view: drawn anew at every access, or once per run."""
    truncation: Literal["keep_eot", "cut"]
    """Captions beyond 77 tokens: keep the end token in the last place (open_clip), or cut it off
    (authors)."""
    initialisation: Literal["fp32", "fp16_rounded"]
    """Initial weights as drawn, or rounded through float16 as the authors' loader does."""
    cleaning_pairs: Literal["seen", "held_out"]
    """Cleaning pairs: a subset of the unpoisoned pre-training pairs, or pairs that pre-training
    never saw."""


class Trigger(Spec):
    """An image trigger (paper Sec. 3, "Training Details")."""

    name: TriggerName
    patch_size: PositiveInt
    """Side of the square, pixels of the stored image; used by the triggers that paste one."""


class Poison(Spec):
    """The attack: which pairs, which trigger, which caption."""

    trigger: Trigger
    target_class: str = Field(min_length=1)
    """Class name that the attack should evoke."""
    mode: Literal["dirty_label", "label_consistent"]
    """Pairs that do not name the target, with a new caption, or pairs that do, with their own."""
    num_poisoned: dict[Dataset, PositiveInt]
    """Poisoned pairs per dataset."""
    seed: int
    """Key of the choice of pairs, patch places and pixels."""


class IconTask(Spec):
    """Icons from one npm package: the stand-in that registries ship."""

    num_concepts: Annotated[int, Field(ge=2)]
    """Classes: the first of specs/classnames/icons.txt, and the target class always."""
    images_per_concept: PositiveInt | None
    """Evaluation images of a class, at most; null takes all that are listed."""


class IconSource(IconTask):
    """Pairs of an icon and its name."""

    kind: Literal["icons"]


class SceneSource(IconTask):
    """Pairs of which some show a small second icon in a corner, under words that name both and the
    place. Evaluation images are those of `IconSource`.
    """

    kind: Literal["scenes"]
    share: Annotated[FiniteFloat, Field(gt=0, le=1)]
    """Share of the pairs that have a second icon."""


class ShardSource(Spec):
    """Image-text pairs as webdataset tar shards, and ImageNet-1K validation, on the user's disk."""

    kind: Literal["webdataset"]
    pairs: dict[Dataset, str]
    """Folder of tar shards per dataset, relative to the repository."""
    selection: dict[Dataset, Literal["keyed", "first"]]
    """Pairs taken of more: the first in a keyed order of contents, or in the list of addresses."""
    evaluation: str
    """ImageNet validation, relative path: class folders, or the official archives."""
    images_per_class: PositiveInt
    """Evaluation images that every class must have: 50 in ImageNet-1K validation."""
    max_drop_fraction: Fraction
    """Share of undecodable rows above which the stage stops."""


class DataSpec(Spec):
    """`data` of a profile: datasets, evaluation images, poison and cleaning subsets."""

    stand_in: str
    """The substitute for the paper's data, in words; empty where it is the real data."""
    source: Annotated[IconSource | SceneSource | ShardSource, Field(discriminator="kind")]
    image_size: PositiveInt
    """Side of the stored square images, pixels."""
    num_pairs: dict[Dataset, PositiveInt]
    """Pairs per dataset at most; chosen by keyed hash."""
    poison: Poison
    cleaning_sizes: dict[CleanSize, PositiveInt]
    """Pairs in each cleaning subset."""
    num_validation: NonNegativeInt
    """Unpoisoned pairs kept from pre-training for the validation loss."""


class ResNetConfig(Spec):
    """open_clip's CLIPVisionCfg for a ModifiedResNet."""

    image_size: PositiveInt
    layers: Annotated[list[PositiveInt], Field(min_length=4, max_length=4)]
    width: Width
    head_width: Width


class VitConfig(Spec):
    """open_clip's CLIPVisionCfg for a vision transformer."""

    image_size: PositiveInt
    patch_size: PositiveInt
    layers: PositiveInt
    width: Width
    head_width: Width


def _tower(config: Any) -> str:
    """Kind of an image tower: only a transformer has patches."""
    fields = config if isinstance(config, dict) else vars(config)
    return "vit" if "patch_size" in fields else "resnet"


class TextConfig(Spec):
    """open_clip's CLIPTextCfg."""

    context_length: Literal[77]
    vocab_size: Literal[49408]
    width: Width
    heads: PositiveInt
    layers: PositiveInt


class ModelSpec(Spec):
    """An open_clip CLIP model, built from its configuration and never from pre-trained weights."""

    embed_dim: Width
    vision: Annotated[
        Annotated[ResNetConfig, Tag("resnet")] | Annotated[VitConfig, Tag("vit")],
        Discriminator(_tower),
    ]
    text: TextConfig
    quick_gelu: bool


class Optimizer(Spec):
    """AdamW."""

    betas: Annotated[
        list[Annotated[FiniteFloat, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)
    ]
    eps: Rate
    weight_decay: Weight


class Views(Spec):
    """Augmentation of the base image view; the SSL view comes on top of it."""

    shift_pixels: NonNegativeInt
    """Whole-pixel random shift in both directions, edge-padded; 0 is off (as in the paper)."""
    flip: bool
    """Random horizontal flip."""


class Schedule(Spec):
    """How long and how fast to train: cosine with linear warm-up."""

    learning_rate: LearningRate
    epochs: PositiveInt
    warmup_steps: NonNegativeInt
    global_batch_size: BatchSize
    """Pairs per optimizer step over all ranks: the number of negatives + 1."""
    norm_batch_size: BatchSize
    """Pairs over which BatchNorm takes its statistics (the paper's "batch size", per GPU)."""


class Training(Spec):
    """How a step computes; pre-training, cleaning and every run have these fields."""

    optimizer: Optimizer
    views: Views
    precision: Precision
    compile: bool
    """Pass the towers through torch.compile, in evaluations with BatchNorm folded into the
    convolutions: faster on GPUs, equal to rounding."""
    deterministic: bool = True
    """The same bits at every repetition on one machine; false lets a GPU try kernels for speed."""
    text_parts: PositiveInt = 1
    """Parts, by length, in which the captions of a batch pass the text tower, each as long as its
    longest caption: less work, equal to rounding."""
    ssl_parts: bool = False
    """Rows show both halves of the SSL term, where there is one; training is the same."""


class PretrainSpec(Training):
    """`pretrain` of a profile."""

    model: ModelSpec
    objectives: dict[Objective, Schedule]
    ssl_weight: Weight
    """Factor on the SSL term where the objective has one (paper Sec. 3: 1)."""
    second_view: SecondView = "all"
    """Pairs whose second view is augmented; the others have their first view twice. In a control no
    pair is poisoned."""
    image_view: ImageViewName = "autoaugment"
    """Augmentation that makes the second view of an image (paper Sec. 3: AutoAugment)."""
    model_age: dict[Dataset, dict[Objective, ModelAge]]
    """Epoch at which training stops, of the full schedule (authors, CC6M: 21 and 36 of 64)."""
    seeds: NonEmpty[Seed]
    evaluate_every_epochs: PositiveInt
    """Zero-shot accuracy and ASR during pre-training, every so many epochs and at the end."""


class CleanCell(Spec):
    """One block of the cleaning sweep: every combination of its lists is one run."""

    datasets: NonEmpty[Dataset]
    pretrain_objectives: NonEmpty[Objective]
    clean_sizes: NonEmpty[CleanSize]
    losses: NonEmpty[Loss]
    learning_rates: NonEmpty[LearningRate]
    global_batch_size: BatchSize


class Defence(Spec):
    """A defence with its settings beside the name: `{name: shrink_and_perturb, shrink: 0.95}`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, FiniteFloat]
    name: DefenceName

    @property
    def settings(self) -> dict[str, float]:
        """All settings of the defence by name."""
        named = self.model_extra or {}
        return {
            name: named.get(name, setting.default)
            for name, setting in DEFENCES[self.name].settings.items()
        }

    @model_validator(mode="after")
    def _allowed(self) -> Self:
        allowed = DEFENCES[self.name].settings
        for name, value in list(self.__pydantic_extra__.items()):
            if name not in allowed:
                raise ValueError(
                    f"{name}: no setting of {self.name} (allowed: {', '.join(allowed)})"
                )
            setting = allowed[name]
            if not setting.least <= value <= setting.most:
                bounds = f"from {setting.least:g} to {setting.most:g}"
                raise ValueError(f"{name}: {value:g} (allowed: numbers {bounds})")
            if value == setting.default:
                del self.__pydantic_extra__[name]
        return self


class StopEarly(Spec):
    """A cleaning run is given up after `epochs` if no ASR so far was below `asr`."""

    epochs: PositiveInt
    asr: Fraction


class Cleaning(Training):
    """Fields of `clean` that its runs have too."""

    defence: Defence | None = None
    """What cleaning does besides finetuning; null for CleanCLIP as published."""
    poisons_left: NonNegativeInt = 0
    """Poisoned pairs left among the cleaning pairs, in addition to them."""
    evaluations_per_epoch: Annotated[FiniteFloat, Field(gt=0)] | None
    """Evaluations an epoch, at equal distances; null where evaluate_every_steps is given. Below 1
    in pre-training: one evaluation every 1/x epochs."""
    evaluate_every_steps: PositiveInt | None
    """Evaluations every so many steps of an epoch and at its end (the authors' rhythm)."""
    images_between: PositiveInt | None = None
    """Images of each class at evaluations within an epoch; null for all, as at an epoch's end."""
    stop_early: StopEarly | None = None
    """Null where every run makes all its epochs."""


class CleanSpec(Cleaning):
    """`clean` of a profile: finetuning of every pre-trained model."""

    epochs: PositiveInt
    warmup_steps: NonNegativeInt
    cells: NonEmpty[CleanCell]


class EvaluateSpec(Spec):
    """`evaluate` of a profile."""

    classnames: Literal["imagenet", "icons"]
    """The list of specs/classnames that names the classes."""
    templates: Literal["openai"] | NonEmpty[str]
    """The 80 templates of OpenAI, or a list of strings with one {} each."""
    asr_cap: Fraction
    """A model counts as cleaned at an ASR of at most this (paper: 5%)."""
    confidence: Annotated[FiniteFloat, Field(gt=0.5, lt=1)]
    """Level of every interval in the report."""
    trigger_seed: int
    """Key of the fixed trigger set."""
    precision: Precision | None = None
    """Arithmetic of an evaluation; null is that of the training that it belongs to."""


class Profile(Spec):
    """A whole study at one scale."""

    name: Name
    protocol: Protocol
    switches: Switches
    data: DataSpec
    pretrain: PretrainSpec
    clean: CleanSpec
    evaluate: EvaluateSpec


class DefenceSettings(NamedTuple):
    """Name and settings of the defence that makes a run's loss."""

    name: DefenceName
    settings: dict[str, float]


class RunSpec(Cleaning):
    """One training run, resolved: all that its outcome depends on besides input data and code.

    `defence` is None in pre-training, and for CleanCLIP as published.
    """

    profile: Name
    stage: Stage
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
    seed: Seed
    model: ModelSpec
    schedule: Schedule
    model_age: ModelAge
    """`last` in cleaning."""
    ssl_weight: Weight = 1.0
    """Factor on the SSL term in pre-training; cleaning takes that of its defence."""
    second_view: SecondView = "all"
    """`all` in cleaning."""
    image_view: ImageViewName = "autoaugment"
    """Augmentation of the second view in pre-training; cleaning takes that of its defence."""
    switches: Switches
    trigger: Trigger
    target_class: str
    evaluate: EvaluateSpec

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, content: Any) -> Any:
        # Older archives have the field, always empty, in which plug-ins were named.
        if isinstance(content, dict) and content.get("plugins") == {}:
            return {name: value for name, value in content.items() if name != "plugins"}
        return content

    @field_validator("defence")
    @classmethod
    def _named_only_if_other(cls, defence: Defence | None) -> Defence | None:
        # One specification for one training: without settings `cleanclip` is no defence's name.
        plain = defence is not None and defence.name == "cleanclip" and not defence.model_extra
        return None if plain else defence

    @property
    def model_name(self) -> str:
        """The pre-trained model this run makes or cleans, e.g. `cc3m-mmcl`."""
        return f"{self.dataset}-{self.pretrain_objective}"

    @property
    def run_id(self) -> str:
        """Name of the run's folder, unique within its profile, stage and model name."""
        # The size, loss and rate vary only in cleaning; pre-training differs by seed alone.
        if self.stage == "pretrain":
            return self.model_id
        rate = f"lr{self.schedule.learning_rate:.6g}"
        return self._named(f"{self.clean_size}-{self.loss}-{rate}-seed{self.seed}")

    @property
    def model_id(self) -> str:
        """Name of the pre-trained model's folder, unique within its profile and model name."""
        return self._named(f"seed{self.seed}")

    def _named(self, name: str) -> str:
        """The name behind those of the variant and of the control."""
        parts = [self.variant, "" if self.poisoned else "control", name]
        return "-".join(filter(None, parts))

    @property
    def keeps_cleaned(self) -> bool:
        """Whether the run's best model may be the one of Table 1: CleanCLIP in the main study."""
        main = self.poisoned and not self.variant
        return main and self.stage == "clean" and self.loss == "mmcl_ssl"

    @property
    def defence_settings(self) -> DefenceSettings:
        """The defence that makes the loss; in pre-training `cleanclip`."""
        if self.stage == "pretrain":
            return DefenceSettings("cleanclip", {"ssl_weight": self.ssl_weight})
        if self.defence is None:
            return DefenceSettings("cleanclip", {"ssl_weight": 1.0})
        return DefenceSettings(self.defence.name, self.defence.settings)

    @property
    def num_views(self) -> int:
        """Views of every pair that a step encodes; one where the weight of the SSL term is 0."""
        name, settings = self.defence_settings
        return DEFENCES[name].views or num_views(self.loss, settings.get("ssl_weight", 1.0))

    @property
    def evaluation_key(self) -> str:
        """Equal in runs whose evaluations of one model on one set of images are equal."""
        # Image size and arithmetic too: both change what the model sees and answers.
        fields = {"switches", "trigger", "target_class", "evaluate"}
        content = self.model_dump(mode="json", include=fields)
        return digest([content, self.model.vision.image_size, self.evaluation_precision])

    @property
    def evaluation_precision(self) -> Precision:
        """Arithmetic of the evaluations: that of training where the specification names none."""
        return self.evaluate.precision or self.precision

    def computed(self) -> dict[str, Any]:
        """What the results depend on: all but name, METRIC_FIELDS and defaults.

        A new field with a default therefore changes no older run.
        """
        # A study's run that differs from a main one in name only is then the same run.
        unnamed = self.model_copy(update={"variant": ""})
        return unnamed.model_dump(mode="json", exclude=METRIC_FIELDS, exclude_defaults=True)


def num_views(loss: Loss, ssl_weight: float) -> int:
    """Views of every pair that a loss needs; MMCL + SSL with a weight of 0 is MMCL."""
    return 1 if loss == "mmcl_ssl" and ssl_weight == 0 else LOSSES[loss].views


def digest(content: Any) -> str:
    """SHA-256 (first 16 hex digits) of JSON content in canonical form."""
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()[:16]
