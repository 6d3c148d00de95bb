"""How far a profile is from the paper: its settings beside the paper's, and the results by scale.

Sources of the paper's values are the comments of specs/paper.yaml.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any, NamedTuple

from repro.data.triggers import TRIGGERS, PatchTrigger
from repro.names import CLEAN_SIZES
from repro.profile import load_profile
from repro.report.cells import CLEANCLIP, DATASETS, OBJECTIVES, TABLE1_ROWS
from repro.report.claims import Arms, Claims, Paper
from repro.report.format import label, percent, rate
from repro.report.measures import CleanedModel, Evaluations, Models, lost_at_cap
from repro.report.studies import LARGER
from repro.spec import CleanSize, Dataset, Objective, Profile, ResNetConfig, VitConfig

PRINTED = "paper"
"""Profile with the paper's settings."""
IMAGE_SIZE = "image size (px)"
"""Name of a row of the settings."""
DATASET: Dataset = "cc6m"
"""All pairs of a scale, cleaned with both sizes."""
Value = str | int | float | Sequence[float] | None


class Sweep(NamedTuple):
    """The cleaning of one row of Table 1."""

    share: float
    """Cleaning pairs as a fraction of all."""
    batch: int
    """The largest."""
    rates: list[float]


@dataclass(frozen=True)
class SettingRow:
    """A setting of the paper and of this profile, in words."""

    setting: str
    paper: str
    here: str


@dataclass(frozen=True)
class ScaleResult:
    """A model of CC6M at one scale, means over seeds, fractions."""

    pretrain_objective: Objective
    accuracy: float | None
    """Before cleaning, as the next one."""
    asr: float | None
    lost: Mapping[CleanSize, float | None]
    """Share of the accuracy lost at the ASR threshold."""
    at_least: list[CleanSize]
    """Sizes with which some seed was not cleaned, so that its loss is a lower bound."""


@dataclass(frozen=True)
class ScaleRow:
    """One scale, with counts and shares for CC6M."""

    scale: str
    """The profile."""
    pairs: int
    poisoned: float
    """Fraction of the pairs."""
    patch: float | None
    """Fraction of the image; None for a trigger without a patch."""
    seeds: list[int]
    results: list[ScaleResult]


def settings_table(name: str) -> list[SettingRow]:
    """The settings of a profile beside the paper's."""
    paper, here = (_settings(load_profile(profile)) for profile in (PRINTED, name))
    # The paper names no seed; the one of its profile is our choice.
    paper |= {"seed of the run": "not said"}
    return [SettingRow(setting, words, here[setting]) for setting, words in paper.items()]


def _tower(vision: ResNetConfig | VitConfig) -> str:
    if isinstance(vision, VitConfig):
        return f"ViT of depth {vision.layers}, patches of {vision.patch_size} px"
    return f"ResNet of {', '.join(map(str, vision.layers))} blocks"


def _settings(profile: Profile) -> dict[str, str]:
    ages = {
        f"{label(dataset)}, {label(objective)}": str(profile.pretrain.model_age[dataset][objective])
        for dataset, objective in product(DATASETS, OBJECTIVES)
    }
    data, pretrain, clean = profile.data, profile.pretrain, profile.clean
    vision, text, sweeps = pretrain.model.vision, pretrain.model.text, _sweeps(profile)
    evaluations = (
        f"every {clean.evaluate_every_steps} steps and at the end"
        if clean.evaluations_per_epoch is None
        else rate(clean.evaluations_per_epoch)
    )
    objectives = pretrain.objectives
    return {
        "model": f"{_tower(vision)}, width {vision.width}; "
        f"text transformer of depth {text.layers}, width {text.width}",
        IMAGE_SIZE: str(data.image_size),
        "pairs": in_words(data.num_pairs),
        "poisoned pairs (%)": in_words(_poisoned(profile)),
        "patch, of the image (%)": in_words({"": _patch(profile)}),
        "pre-training epochs": in_words(objectives, "epochs"),
        "model that is cleaned, epoch": in_words(ages),
        "pre-training batch": in_words(objectives, "global_batch_size"),
        "pairs of a BatchNorm group": in_words(objectives, "norm_batch_size"),
        "pre-training rate": in_words(objectives, "learning_rate", "g"),
        "arithmetic": f"{pretrain.precision}, compiled" if pretrain.compile else pretrain.precision,
        "cleaning pairs": in_words(data.cleaning_sizes),
        "cleaning pairs (%)": in_words(sweeps, "share"),
        "cleaning epochs": str(clean.epochs),
        "cleaning batch": in_words(sweeps, "batch"),
        "cleaning rates": in_words(sweeps, "rates"),
        "evaluations an epoch": evaluations,
        "shortcuts": "; ".join(_shortcuts(profile)) or "none",
        "seed of the run": ", ".join(map(str, pretrain.seeds)),
    }


def _shortcuts(profile: Profile) -> Iterator[str]:
    """What the profile saves time by."""
    parts, stop = profile.pretrain.text_parts, profile.clean.stop_early
    if parts > 1:
        yield f"captions in {parts} parts by length"
    if profile.clean.images_between:
        yield f"{profile.clean.images_between} images of a class within an epoch"
    if stop:
        yield f"runs with no ASR below {100 * stop.asr:.0f}% in {stop.epochs} epochs given up"


def scale_rows(
    name: str, evaluations: Evaluations, claims: Claims, leading: Arms
) -> list[ScaleRow]:
    """The profile by its `leading` runs, the scale `midi` by the runs of its exploratory verdicts,
    the paper.
    """
    arms = {name: leading}
    arms[LARGER] = arms.get(LARGER) or claims.comparisons.exploratory.get(LARGER, leading)
    results: dict[str, tuple[list[int], list[ScaleResult]]] = {
        LARGER: _results(evaluations, arms[LARGER]),
        name: _results(evaluations, leading),
        PRINTED: ([], list(_printed(claims.paper))),
    }
    rows = []
    for scale in dict.fromkeys((name, LARGER, PRINTED)):
        profile = load_profile(scale)
        pairs = profile.data.num_pairs[DATASET]
        poisoned = _poisoned(profile)[DATASET]
        seeds, models = results[scale]
        rows.append(ScaleRow(scale, pairs, poisoned, _patch(profile), seeds, models))
    return rows


def in_words(values: Mapping[Any, Any], field: str = "", form: str = "") -> str:
    """Each value once, after what has it; a value that holds for all stands alone.

    Of each value its `field`, if one is named.
    """
    owners: dict[str, list[str]] = {}
    for owner, value in values.items():
        if field:
            value = getattr(value, field)
        word = format(value, form) if form else _word(value)
        owners.setdefault(word, []).append(label(owner))
    if len(owners) == 1:
        return next(iter(owners))
    return "; ".join(f"{' and '.join(of)}: {word}" for word, of in owners.items())


def _word(value: Value) -> str:
    match value:
        case None | str():
            return value or "–"
        case int():
            return f"{value:,}"
        case float():
            # The paper's share of poisoned pairs, 0.05%, would be 0.1% with one decimal.
            return f"{100 * value:.2g}" if 0 < value < 0.01 else percent(value)
    if len(value) > 5:
        return f"{len(value)} from {value[0]:g} to {value[-1]:g}"
    return ", ".join(f"{number:g}" for number in value)


def _results(evaluations: Evaluations, arms: Arms) -> tuple[list[int], list[ScaleResult]]:
    """Seeds and models of a scale; none of the report's own runs, which are one seed."""
    seeds: list[int] = []
    results: list[ScaleResult] = []
    for objective in OBJECTIVES if arms.study else ():
        starts: list[CleanedModel] = []
        lost: dict[CleanSize, float | None] = {}
        at_least: list[CleanSize] = []
        for size in CLEAN_SIZES:
            which = Models((arms.mmcl_ssl,), objective, DATASET, size)
            if not (models := evaluations.models(which)):
                continue
            seeds = seeds or sorted(models)
            starts = starts or list(models.values())
            losses = evaluations.values(which, lost_at_cap).values()
            lost[size] = fmean(of.value for of in losses) if losses else None
            if any(of.at_least for of in losses):
                at_least.append(size)
        if starts:
            accuracy = fmean(model.start.accuracy for model in starts)
            asr = fmean(model.start.asr for model in starts)
            results.append(ScaleResult(objective, accuracy, asr, lost, at_least))
    return seeds, results


def _printed(paper: Paper) -> Iterator[ScaleResult]:
    """The paper's own numbers."""
    for objective in OBJECTIVES:
        start = paper.start(DATASET, objective)
        lost = {
            cell.clean_size: 1 - cell.clean_accuracy / cell.original_accuracy
            for cell in paper.table1
            if (cell.dataset, cell.pretrain_objective) == (DATASET, objective)
            and cell.clean_accuracy is not None
        }
        yield ScaleResult(objective, start.accuracy, start.asr, lost, at_least=[])


def _poisoned(profile: Profile) -> dict[Dataset, float]:
    """Poisoned pairs as a fraction of all."""
    data = profile.data
    return {name: data.poison.num_poisoned[name] / data.num_pairs[name] for name in DATASETS}


def _patch(profile: Profile) -> float | None:
    """Fraction of the image that the trigger's patch covers; None for a trigger without a patch."""
    trigger = profile.data.poison.trigger
    if not isinstance(TRIGGERS[trigger.name], PatchTrigger):
        return None
    return (trigger.patch_size / profile.data.image_size) ** 2


def _sweeps(profile: Profile) -> dict[str, Sweep]:
    """The sweep with CleanCLIP of each row of Table 1 that the profile has."""
    sweeps, data = {}, profile.data
    for dataset, size in TABLE1_ROWS:
        cells = [
            cell
            for cell in profile.clean.cells
            if dataset in cell.datasets and size in cell.clean_sizes and CLEANCLIP in cell.losses
        ]
        if cells:
            sweeps[f"{label(dataset)}, {label(size)}"] = Sweep(
                share=data.cleaning_sizes[size] / data.num_pairs[dataset],
                batch=max(cell.global_batch_size for cell in cells),
                rates=sorted({rate for cell in cells for rate in cell.learning_rates}),
            )
    return sweeps
