"""How far a profile is from the paper: its settings beside the paper's, and the results by scale.

Sources of the paper's values are the comments of specs/paper.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.data.triggers import TRIGGERS, PatchTrigger
from repro.profile import SPECS, load_profile
from repro.report.format import label, percent
from repro.report.judging.claims import Paper
from repro.report.numbers.cells import CLEANCLIP, DATASETS, OBJECTIVES, TABLE1_ROWS
from repro.report.numbers.evidence import Settings
from repro.report.studies.results import read_study_results, studied
from repro.report.studies.tables import StudyEntry
from repro.spec import CleanSize, Dataset, Objective, Profile

PRINTED, LARGER = "paper", "midi"
"""Profiles: the paper's settings, and the scale between the default one and the paper's. A study
of its name has the results of the latter."""
DATASET: Dataset = "cc6m"
"""All pairs of a scale, cleaned with both sizes."""
SIZES: tuple[CleanSize, ...] = tuple(size for dataset, size in TABLE1_ROWS if dataset == DATASET)
Value = str | int | float | Sequence[float] | None
Values = Mapping[str, Value]
"""A value by its dataset, cleaning size or objective, as printed; by "" where it holds for all."""


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting of the paper and of this profile, in words."""

    setting: str
    paper: str
    here: str


@dataclass(frozen=True, slots=True)
class ScaleResult:
    """A model of CC6M at one scale, means over seeds, fractions."""

    pretrain_objective: Objective
    accuracy: float | None
    """Before cleaning, as the next one."""
    asr: float | None
    lost: dict[CleanSize, float | None]
    """Share of the accuracy lost at the ASR threshold."""
    at_least: list[CleanSize]
    """Sizes with which some seed was not cleaned, so that its loss is a lower bound."""


@dataclass(frozen=True, slots=True)
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


def settings_table(name: str, root: Path = Path()) -> list[SettingRow]:
    """The settings of a profile beside the paper's, from specs/ below `root`.

    No rows for a replay of the authors' files, which has no profile.
    """
    if not _has_profile(name, root):
        return []
    paper, here = (load_profile(profile, root / SPECS) for profile in (PRINTED, name))
    return [
        SettingRow(setting, in_words(read(paper)), in_words(read(here)))
        for setting, read in COMPARED.items()
    ]


def scale_rows(
    name: str, own: Sequence[StudyEntry], paper: Paper, root: Path = Path()
) -> list[ScaleRow]:
    """The profile by its studies (`own`, those of most seeds first), the scale `midi`, the paper.

    No rows for a replay of the authors' files, which has no profile.
    """
    if not _has_profile(name, root):
        return []
    rows = [_row(load_profile(name, root / SPECS), *_results(own))]
    if name != LARGER and _has_profile(LARGER, root):
        larger = load_profile(LARGER, root / SPECS)
        results = read_study_results(LARGER, root)
        found = studied(results, Settings.of(larger), None, root)
        rows.append(_row(larger, *_results(found.studies)))
    return [*rows, _row(load_profile(PRINTED, root / SPECS), [], list(_printed(paper)))]


def in_words(values: Values) -> str:
    """Each value once, after what has it; a value that holds for all stands alone."""
    owners: dict[str, list[str]] = {}
    for owner, value in values.items():
        owners.setdefault(_word(value), []).append(owner)
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
    return ", ".join(f"{rate:g}" for rate in value)


def _has_profile(name: str, root: Path) -> bool:
    return (root / SPECS / f"{name}.yaml").is_file()


def _row(profile: Profile, seeds: list[int], results: list[ScaleResult]) -> ScaleRow:
    pairs, poisoned = profile.data.num_pairs[DATASET], _poisoned(profile, DATASET)
    return ScaleRow(profile.name, pairs, poisoned, _patch(profile), seeds, results)


def _results(studies: Sequence[StudyEntry]) -> tuple[list[int], list[ScaleResult]]:
    """Seeds and results of the first study whose reference cleans models of both objectives."""
    for study in studies:
        rows = [
            row for row in study.rows if (row.variant, row.dataset) == (study.reference, DATASET)
        ]
        if {row.pretrain_objective for row in rows if row.tried} != set(OBJECTIVES):
            continue
        results = []
        for objective in OBJECTIVES:
            by_size = {of.clean_size: of for of in rows if of.pretrain_objective == objective}
            start = next(iter(by_size.values())).measures
            sizes = [size for size in SIZES if size in by_size]
            results.append(
                ScaleResult(
                    objective,
                    start["accuracy"].mean,
                    start["asr"].mean,
                    {size: by_size[size].measures["lost"].mean for size in sizes},
                    [size for size in sizes if by_size[size].not_cleaned],
                )
            )
        return rows[0].seeds, results
    return [], []


def _printed(paper: Paper) -> Iterator[ScaleResult]:
    """The paper's own numbers."""
    for objective in OBJECTIVES:
        if (start := paper.start(DATASET, objective)) is None:
            continue
        lost: dict[CleanSize, float | None] = {
            size: 1 - cell.clean_accuracy / cell.original_accuracy
            for size in SIZES
            if (cell := paper.cleaned(DATASET, size, objective)) and cell.clean_accuracy is not None
        }
        yield ScaleResult(objective, start.accuracy, start.asr, lost, at_least=[])


def _poisoned(profile: Profile, dataset: Dataset) -> float:
    """Poisoned pairs as a fraction of all."""
    return profile.data.poison.num_poisoned[dataset] / profile.data.num_pairs[dataset]


def _patch(profile: Profile) -> float | None:
    """Fraction of the image that the trigger's patch covers; None for a trigger without a patch."""
    trigger = profile.data.poison.trigger
    if not isinstance(TRIGGERS[trigger.name], PatchTrigger):
        return None
    return (trigger.patch_size / profile.data.image_size) ** 2


def _model(profile: Profile) -> Values:
    model = profile.pretrain.model
    blocks = ", ".join(map(str, model.vision.layers))
    return {
        "": f"ResNet of {blocks} blocks, width {model.vision.width}; "
        f"text transformer of depth {model.text.layers}, width {model.text.width}"
    }


def _objectives(profile: Profile, field: str) -> Values:
    objectives = profile.pretrain.objectives
    return {label(name): getattr(objectives[name], field) for name in OBJECTIVES}


def _cleaning_shares(profile: Profile) -> Values:
    data = profile.data
    return {
        f"{label(dataset)}, {label(size)}": data.cleaning_sizes[size] / data.num_pairs[dataset]
        for dataset, size in TABLE1_ROWS
        if size in data.cleaning_sizes
    }


def _cleanclip(profile: Profile, field: str) -> Values:
    """The cells of the sweep with CleanCLIP for each row of Table 1: the largest number, or all."""
    values: dict[str, Value] = {}
    for dataset, size in TABLE1_ROWS:
        cells = [
            getattr(cell, field)
            for cell in profile.clean.cells
            if dataset in cell.datasets and size in cell.clean_sizes and CLEANCLIP in cell.losses
        ]
        if cells:
            several = isinstance(cells[0], list)
            value = sorted({v for cell in cells for v in cell}) if several else max(cells)
            values[f"{label(dataset)}, {label(size)}"] = value
    return values


def _rhythm(profile: Profile) -> Values:
    spec = profile.clean
    if spec.evaluations_per_epoch is not None:
        # As text, since a fraction would be printed in percent.
        return {"": f"{spec.evaluations_per_epoch:g}"}
    return {"": f"every {spec.evaluate_every_steps} steps and at the end"}


def _ages(profile: Profile) -> Values:
    return {
        f"{label(data)}, {label(goal)}": str(profile.pretrain.model_age[data][goal])
        for data in DATASETS
        for goal in OBJECTIVES
    }


def _shortcuts(profile: Profile) -> Values:
    """What saves work and changes no rule of the study."""
    parts, clean = profile.pretrain.text_parts, profile.clean
    rule, steps = clean.stop_early, []
    if parts > 1:
        steps.append(f"captions in {parts} parts by length")
    if clean.images_between:
        steps.append(f"{clean.images_between} images of a class within an epoch")
    if rule:
        steps.append(f"runs with no ASR below {rule.asr:.0%} in {rule.epochs} epochs given up")
    return {"": "; ".join(steps) or "none"}


COMPARED: dict[str, Callable[[Profile], Values]] = {
    "model": _model,
    "image size (px)": lambda of: {"": of.data.image_size},
    "pairs": lambda of: {label(name): of.data.num_pairs[name] for name in DATASETS},
    "poisoned pairs (%)": lambda of: {label(name): _poisoned(of, name) for name in DATASETS},
    "patch, of the image (%)": lambda of: {"": _patch(of)},
    "pre-training epochs": lambda of: _objectives(of, "epochs"),
    "model that is cleaned, epoch": _ages,
    "pre-training batch": lambda of: _objectives(of, "global_batch_size"),
    "pairs of a BatchNorm group": lambda of: _objectives(of, "norm_batch_size"),
    "pre-training rate": lambda of: {
        name: f"{rate:g}" for name, rate in _objectives(of, "learning_rate").items()
    },
    "arithmetic": lambda of: {"": of.pretrain.precision + ", compiled" * of.pretrain.compile},
    "cleaning pairs": lambda of: {
        label(size): count for size, count in of.data.cleaning_sizes.items()
    },
    "cleaning pairs (%)": _cleaning_shares,
    "cleaning epochs": lambda of: {"": of.clean.epochs},
    "cleaning batch": lambda of: _cleanclip(of, "global_batch_size"),
    "cleaning rates": lambda of: _cleanclip(of, "learning_rates"),
    "evaluations an epoch": _rhythm,
    "shortcuts": _shortcuts,
    "seed of the run": lambda of: {"": ", ".join(map(str, of.pretrain.seeds))},
}
"""Setting to its values in a profile."""
