"""The settings of a profile beside the paper's, each with the source of the paper's value.

Values are those of the checked profiles; sources are the comments of specs/paper.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from repro.data.triggers import TRIGGERS, PatchTrigger
from repro.profile import SPECS, load_profile
from repro.report.format import label
from repro.report.numbers.cells import CLEANCLIP, DATASETS, OBJECTIVES, TABLE1_ROWS
from repro.spec import CleanCell, Profile

Value = str | int | float | list[float]
"""Words, a count, a fraction, or learning rates."""
Values = Mapping[str, Value]
"""A value by its dataset, cleaning size or objective, as printed; by "" where it holds for all."""
PRINTED = "paper"
"""The profile that has the paper's settings."""
SOURCE = re.compile(r"\b(?:paper|code|assumed)\b.*")
"""The source in a comment; what stands before it, such as a unit, is no part of it."""
NAMED = re.compile(r"# (\w+(?:, \w+)*): (.+)")
"""A comment on the fields of a mapping's entries: `# epochs, warmup_steps: paper Sec. 3`."""


@dataclass(frozen=True, slots=True)
class SettingValue:
    """A value of a setting."""

    of: list[str]
    """Datasets, cleaning sizes or objectives as printed; empty where it holds for all."""
    value: Value


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting of the paper and of this profile."""

    setting: str
    paper: list[SettingValue]
    here: list[SettingValue]
    source: str
    """Of the paper's value: its text, the authors' code, or an assumption."""


def settings_table(name: str, root: Path = Path()) -> list[SettingRow]:
    """The settings of the profile of this name beside the paper's, from specs/ below `root`.

    No rows for a replay of the authors' files, which has no profile.
    """
    if not has_profile(name, root):
        return []

    specs = root / SPECS
    paper, here = load_profile(PRINTED, specs), load_profile(name, specs)
    comments = read_comments(specs / f"{PRINTED}.yaml")
    return [
        SettingRow(
            setting,
            paper=_shared(read(paper)),
            here=_shared(read(here)),
            source=_sources(comments, fields),
        )
        for setting, (read, *fields) in COMPARED.items()
    ]


def has_profile(name: str, root: Path = Path()) -> bool:
    """Whether specs/ below `root` has a profile of this name."""
    return (root / SPECS / f"{name}.yaml").is_file()


def read_comments(path: Path) -> dict[str, str]:
    """The comments of a YAML file by the dotted path of the value that they follow."""
    content: Any = YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8"))
    return dict(_comments(content, ""))


def _comments(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    entries = node.items() if isinstance(node, CommentedMap) else enumerate(node)
    for key, value in entries:
        path = f"{prefix}{key}"
        # ruamel.yaml: the comment after a value stands third, and the lines above a block fourth.
        _, _, after, above = node.ca.items.get(key) or (None, None, None, None)
        for token in above or []:
            if named := NAMED.match(token.value):
                for field in named[1].split(", "):
                    yield from ((f"{path}.{entry}.{field}", named[2]) for entry in value)
        text = after.value.split("\n")[0] if after else ""
        if text.startswith("#"):
            yield path, text.removeprefix("#").strip()
        if isinstance(value, (CommentedMap, list)):
            yield from _comments(value, f"{path}.")


def _sources(comments: Mapping[str, str], fields: list[str]) -> str:
    """The sources of several fields, each once."""
    found = [SOURCE.search(comments.get(field, "")) for field in fields]
    sources = list(dict.fromkeys(source[0] for source in found if source))
    # What another one says as well need not be said twice.
    return "; ".join(
        source
        for source in sources
        if not any(source in other for other in sources if other != source)
    )


def _shared(values: Values) -> list[SettingValue]:
    """Each value once, with what has it."""
    found: list[SettingValue] = []
    for name, value in values.items():
        same = [entry for entry in found if entry.value == value]
        if same:
            same[0].of.append(name)
        else:
            found.append(SettingValue([name], value))

    # What is the same everywhere needs no names.
    return found if len(found) > 1 else [SettingValue([], entry.value) for entry in found]


def poisoned_shares(profile: Profile) -> dict[str, float]:
    """Poisoned pairs of each dataset as a fraction of its pairs."""
    data = profile.data
    return {name: data.poison.num_poisoned[name] / data.num_pairs[name] for name in DATASETS}


def patch_share(profile: Profile) -> float | None:
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


def _patch(profile: Profile) -> Values:
    share = patch_share(profile)
    return {"": f"no patch: {profile.data.poison.trigger.name}" if share is None else share}


def _by_objective(profile: Profile, field: str) -> Values:
    objectives = profile.pretrain.objectives
    return {label(name): getattr(objectives[name], field) for name in OBJECTIVES}


def _pretrain_rates(profile: Profile) -> Values:
    objectives = profile.pretrain.objectives
    return {label(name): [objectives[name].learning_rate] for name in OBJECTIVES}


def _cleaning_shares(profile: Profile) -> Values:
    data = profile.data
    return {
        f"{label(dataset)}, {label(size)}": data.cleaning_sizes[size] / data.num_pairs[dataset]
        for dataset, size in TABLE1_ROWS
        if size in data.cleaning_sizes
    }


def _of_cleanclip(profile: Profile, value: Callable[[list[CleanCell]], Value]) -> Values:
    """What the cells of the sweep with CleanCLIP say of each row of Table 1."""
    found: dict[str, Value] = {}
    for dataset, size in TABLE1_ROWS:
        cells = [
            cell
            for cell in profile.clean.cells
            if dataset in cell.datasets and size in cell.clean_sizes and CLEANCLIP in cell.losses
        ]
        if cells:
            found[f"{label(dataset)}, {label(size)}"] = value(cells)
    return found


def _rates(cells: list[CleanCell]) -> list[float]:
    return sorted({rate for cell in cells for rate in cell.learning_rates})


def _rhythm(profile: Profile) -> Values:
    spec = profile.clean
    if spec.evaluations_per_epoch is not None:
        # As text, since a fraction would be printed in percent.
        return {"": f"{spec.evaluations_per_epoch:g}"}
    return {"": f"every {spec.evaluate_every_steps} steps and at the end"}


Read = Callable[[Profile], Values]
COMPARED: dict[str, tuple[Read, *tuple[str, ...]]] = {
    "model": (_model, "pretrain.model", "pretrain.model.embed_dim"),
    "image size (px)": (lambda of: {"": of.data.image_size}, "data.image_size"),
    "pairs": (
        lambda of: {label(name): of.data.num_pairs[name] for name in DATASETS},
        "data.num_pairs",
    ),
    "poisoned pairs (%)": (
        lambda of: {label(name): share for name, share in poisoned_shares(of).items()},
        "data.poison.num_poisoned",
    ),
    "patch, of the image (%)": (_patch, "data.poison.trigger"),
    "pre-training epochs": (
        lambda of: _by_objective(of, "epochs"),
        "pretrain.objectives.mmcl.epochs",
    ),
    "pre-training batch": (
        lambda of: _by_objective(of, "global_batch_size"),
        "pretrain.objectives.mmcl.norm_batch_size",
    ),
    "pairs of a BatchNorm group": (
        lambda of: _by_objective(of, "norm_batch_size"),
        "pretrain.objectives.mmcl.norm_batch_size",
    ),
    "pre-training rates": (_pretrain_rates, "pretrain.objectives.mmcl.learning_rate"),
    "cleaning pairs": (
        lambda of: {label(size): count for size, count in of.data.cleaning_sizes.items()},
        "data.cleaning_sizes",
    ),
    "cleaning pairs (%)": (_cleaning_shares, "data.cleaning_sizes"),
    "cleaning epochs": (lambda of: {"": of.clean.epochs}, "clean.epochs"),
    "cleaning batch": (
        lambda of: _of_cleanclip(of, lambda cells: max(cell.global_batch_size for cell in cells)),
        "clean.cells.0.global_batch_size",
    ),
    "cleaning rates": (
        lambda of: _of_cleanclip(of, _rates),
        "clean.cells.0.learning_rates",
        "clean.cells.1.learning_rates",
        "clean.cells.2.learning_rates",
    ),
    "evaluations an epoch": (_rhythm, "clean.evaluations_per_epoch"),
    "seeds": (lambda of: {"": ", ".join(map(str, of.pretrain.seeds))}, "pretrain.seeds"),
}
"""Setting to its values in a profile, and the fields of specs/paper.yaml that have its source."""
