"""The settings table: what the paper does, and what holds in a profile instead.

Values are those of the checked profiles, sources are the comments of specs/paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.profile import SPECS, load_profile
from repro.report.format import label
from repro.report.numbers.cells import CLEANCLIP, DATASETS, OBJECTIVES, TABLE1_ROWS
from repro.report.scales.quoted import QuotedSpec
from repro.report.schema.scales import SettingRow, SettingValue
from repro.spec import CleanCell, Profile

Value = str | int | float | list[float]
Values = Mapping[str, Value]
"""A value by what has it: dataset, cleaning size or objective, as printed."""
PRINTED = "paper"
"""The profile that has the paper's settings."""


@dataclass(frozen=True, slots=True)
class ComparedSetting:
    """A row of the table before it is filled in."""

    name: str
    read: Callable[[Profile], Values]
    part: str
    """The file of a profile that has it."""
    fields: tuple[str, ...]
    """Where in that file of specs/paper its sources stand."""


def settings_table(name: str, root: Path = Path()) -> list[SettingRow]:
    """The settings of the profile of this name beside the paper's, from specs/ below `root`.

    No rows for a replay, which has no profile.
    """
    if not has_profile(name, root):
        return []

    specs = root / SPECS
    paper, here = load_profile(PRINTED, specs), load_profile(name, specs)
    quoted = {
        part: QuotedSpec(specs / PRINTED / f"{part}.yaml") for part in ("data", "pretrain", "clean")
    }
    return [
        {
            "setting": setting.name,
            "paper": _shared(setting.read(paper)),
            "here": _shared(setting.read(here)),
            "source": _sources(quoted[setting.part], setting.fields),
        }
        for setting in COMPARED
    ]


def has_profile(name: str, root: Path = Path()) -> bool:
    """Whether specs/ below `root` has a profile of this name: a replay has none."""
    return (root / SPECS / name).is_dir()


def poisoned_shares(profile: Profile) -> dict[str, float]:
    """Poisoned pairs of each dataset slot as a fraction of its pairs."""
    data = profile.data
    return {slot: data.poison.num_poisoned[slot] / data.num_pairs[slot] for slot in DATASETS}


def patch_share(profile: Profile) -> float | None:
    """Fraction of the image that the trigger's patch covers; None for a trigger without a patch."""
    trigger = profile.data.poison.trigger
    if trigger.name not in ("badnet", "yellow"):
        return None
    return (trigger.patch_size / profile.data.image_size) ** 2


def _shared(values: Values) -> list[SettingValue]:
    """Each value once, with what has it."""
    found: list[SettingValue] = []
    for name, value in values.items():
        for entry in found:
            if entry["value"] == value:
                entry["of"].append(name)
                break
        else:
            found.append({"of": [name], "value": value})

    # What is the same everywhere needs no names.
    if len(found) == 1:
        found[0]["of"] = []
    return found


def _sources(quoted: QuotedSpec, fields: tuple[str, ...]) -> str:
    """The sources of several fields, each once."""
    found = dict.fromkeys(filter(None, map(quoted.source, fields)))

    # What another one says as well need not be said twice.
    return "; ".join(
        source for source in found if not any(source in other for other in found if other != source)
    )


def _model(profile: Profile) -> Values:
    model = profile.pretrain.model
    blocks = ", ".join(map(str, model.vision.layers))
    return {
        "": f"ResNet of {blocks} blocks, width {model.vision.width}; "
        f"text transformer of depth {model.text.layers}, width {model.text.width}"
    }


def _image_size(profile: Profile) -> Values:
    return {"": profile.data.image_size}


def _pairs(profile: Profile) -> Values:
    return {label(slot): profile.data.num_pairs[slot] for slot in DATASETS}


def _poisoned(profile: Profile) -> Values:
    return {label(slot): share for slot, share in poisoned_shares(profile).items()}


def _patch(profile: Profile) -> Values:
    share = patch_share(profile)
    return {"": f"no patch: {profile.data.poison.trigger.name}" if share is None else share}


def _epochs(profile: Profile) -> Values:
    return {label(goal): profile.pretrain.objectives[goal].epochs for goal in OBJECTIVES}


def _batch(profile: Profile) -> Values:
    return {label(goal): profile.pretrain.objectives[goal].global_batch_size for goal in OBJECTIVES}


def _rates(profile: Profile) -> Values:
    return {label(goal): [profile.pretrain.objectives[goal].learning_rate] for goal in OBJECTIVES}


def _cleaning_pairs(profile: Profile) -> Values:
    return {label(size): count for size, count in profile.data.cleaning_sizes.items()}


def _cleaning_shares(profile: Profile) -> Values:
    data = profile.data
    return {
        f"{label(slot)}, {label(size)}": data.cleaning_sizes[size] / data.num_pairs[slot]
        for slot, size in TABLE1_ROWS
        if size in data.cleaning_sizes
    }


def _cleaning_epochs(profile: Profile) -> Values:
    return {"": profile.clean.epochs}


def _cleaning_batch(profile: Profile) -> Values:
    return _of_cleanclip(profile, lambda cells: max(cell.global_batch_size for cell in cells))


def _cleaning_rates(profile: Profile) -> Values:
    return _of_cleanclip(
        profile, lambda cells: sorted({rate for cell in cells for rate in cell.learning_rates})
    )


def _of_cleanclip(profile: Profile, value: Callable[[list[CleanCell]], Value]) -> Values:
    """What the blocks of the sweep with CleanCLIP say of each row of Table 1."""
    found: dict[str, Value] = {}
    for slot, size in TABLE1_ROWS:
        cells = [
            cell
            for cell in profile.clean.cells
            if slot in cell.datasets and size in cell.clean_sizes and CLEANCLIP in cell.losses
        ]
        if cells:
            found[f"{label(slot)}, {label(size)}"] = value(cells)
    return found


def _rhythm(profile: Profile) -> Values:
    spec = profile.clean
    if spec.evaluations_per_epoch is not None:
        # As text, since a fraction would be printed in percent.
        return {"": f"{spec.evaluations_per_epoch:g}"}
    return {"": f"every {spec.evaluate_every_steps} steps and at the end"}


def _seeds(profile: Profile) -> Values:
    return {"": ", ".join(map(str, profile.pretrain.seeds))}


COMPARED = (
    ComparedSetting("model", _model, "pretrain", ("model", "model.embed_dim")),
    ComparedSetting("image size (px)", _image_size, "data", ("image_size",)),
    ComparedSetting("pairs", _pairs, "data", ("num_pairs",)),
    ComparedSetting("poisoned pairs (%)", _poisoned, "data", ("poison.num_poisoned",)),
    ComparedSetting("patch, of the image (%)", _patch, "data", ("poison.trigger",)),
    ComparedSetting("pre-training epochs", _epochs, "pretrain", ("objectives.mmcl.epochs",)),
    ComparedSetting("pre-training batch", _batch, "pretrain", ("objectives.mmcl.norm_batch_size",)),
    ComparedSetting("pre-training rates", _rates, "pretrain", ("objectives.mmcl.learning_rate",)),
    ComparedSetting("cleaning pairs", _cleaning_pairs, "data", ("cleaning_sizes",)),
    ComparedSetting("cleaning pairs (%)", _cleaning_shares, "data", ("cleaning_sizes",)),
    ComparedSetting("cleaning epochs", _cleaning_epochs, "clean", ("epochs",)),
    ComparedSetting("cleaning batch", _cleaning_batch, "clean", ("cells.0.global_batch_size",)),
    ComparedSetting(
        "cleaning rates",
        _cleaning_rates,
        "clean",
        ("cells.0.learning_rates", "cells.1.learning_rates", "cells.2.learning_rates"),
    ),
    ComparedSetting("evaluations an epoch", _rhythm, "clean", ("evaluations_per_epoch",)),
    ComparedSetting("seeds", _seeds, "pretrain", ("seeds",)),
)
