"""The attack that a foreign model is tried with: its trigger, where that is put on, its target.

The trigger is by default the one that the authors' and CleanCLIP's models learnt (protocol
`authors`: wrapped noise around the channel means, on an image squashed to a square); under the
paper's wording it would be another trigger, and a backdoor would seem to be missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from repro.data.images import ImageError, decode_image, encode_png, open_rgb
from repro.data.keyed import keyed_rng
from repro.data.triggers import WANET_STRENGTH, Pixels, stamp, wanet
from repro.evaluate.grids import load_grid
from repro.files import file_sha256
from repro.profile import SPECS, check, read_yaml
from repro.spec import Profile, SpecError, Switches, Trigger

NO_GRID = (
    "warning: --trigger wanet without --grid warps by this project's own field; a model that was "
    "trained with another one will seem to have no backdoor"
)

MAX_STRENGTH = 10
"""Largest factor on a warping field: 5 pixels on average."""

TriggerName = Literal["badnet", "blended", "sig", "wanet", "yellow"]

ProtocolName = Literal["authors", "paper"]

Place = Literal["after", "before"]
"""Whether the trigger is put on what the model sees, or on the file's own pixels, which are then
resized like those of any image.
"""


@dataclass(frozen=True)
class Attack:
    """The trigger that a foreign model is tried with, and how images and texts are prepared."""

    trigger: TriggerName | None
    """None for accuracy alone."""
    protocol: ProtocolName = "authors"
    grid: Path | None = None
    """File with the warping field that a `wanet` model was trained with; see `load_grid`."""
    strength: float = WANET_STRENGTH
    """Factor on that field."""
    target: str | None = None
    """Name or number of the class that the attack is to evoke; without it, the profile's."""
    place: Place = "after"
    """When the trigger is put on: after the image got the model's size, or before."""


@dataclass(frozen=True)
class Twins:
    """How an image becomes its triggered twin."""

    geometry: Literal["crop", "squash"]
    """What the trigger goes on, at place `after`."""
    stamp: Callable[[Pixels, int], Pixels]
    """(image (H, W, 3), its number) to the twin."""
    place: Place = "after"

    def of(self, data: bytes, number: int, size: int) -> Pixels:
        """The twin (size, size, 3) of an image file; ImageError if the trigger does not fit."""
        if self.place == "after":
            return self.stamp(decode_image(data, size, self.geometry), number)
        try:
            whole = self.stamp(np.array(open_rgb(data)), number)
        except ValueError:
            raise ImageError("smaller_than_the_trigger") from None
        return decode_image(encode_png(whole), size)


def switches_of(protocol: ProtocolName) -> Switches:
    """The switches of a protocol, without the departures of any profile."""
    path = SPECS / "protocols" / f"{protocol}.yaml"
    return check(Switches, read_yaml(path), path)


def target_number(attack: Attack, profile: Profile, names: Sequence[str]) -> int:
    """Number of the class that the attack is to evoke."""
    wanted = profile.data.poison.target_class if attack.target is None else attack.target
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise SpecError(
        f"--target: {wanted!r} (allowed: a class name of the profile, or 0 to {len(names) - 1})"
    )


def twins_of(attack: Attack, profile: Profile, switches: Switches) -> Twins | None:
    """What stamps the attack's trigger; a `wanet` whose field is only guessed is warned of."""
    if attack.trigger != "wanet" and (attack.grid or attack.strength != WANET_STRENGTH):
        raise SpecError("--grid, --strength: allowed with --trigger wanet only")
    if not 0 < attack.strength <= MAX_STRENGTH:
        raise SpecError(
            f"--strength: {attack.strength} (allowed: above 0 and at most {MAX_STRENGTH})"
        )
    if attack.trigger is None:
        if attack.target is not None or attack.place != "after":
            raise SpecError("--target, --place: allowed with --trigger only")
        return None
    if attack.trigger == "wanet" and attack.place == "before":
        raise SpecError("--place before: a warping field is of the model's own image size")

    if attack.trigger == "wanet":
        if attack.grid is None:
            print(NO_GRID, file=sys.stderr)
        size = profile.data.image_size
        field = None if attack.grid is None else load_grid(attack.grid, size)
        return Twins(
            switches.trigger_geometry, lambda image, _: wanet(image, attack.strength, field)
        )

    trigger = Trigger(name=attack.trigger, patch_size=profile.data.poison.trigger.patch_size)
    seed = profile.evaluate.trigger_seed

    def twin(image: Pixels, number: int) -> Pixels:
        return stamp(trigger, switches, image, keyed_rng("evaluation", seed, 0, number)).image

    return Twins(switches.trigger_geometry, twin, attack.place)


def described(attack: Attack, profile: Profile) -> dict[str, Any]:
    """The attack as the result states it."""
    trigger: dict[str, Any] = {
        "name": attack.trigger,
        "patch_size": profile.data.poison.trigger.patch_size,
    }
    if attack.trigger == "wanet":
        trigger["strength"] = attack.strength
        trigger["grid_sha256"] = None if attack.grid is None else file_sha256(attack.grid)
    return {"trigger": trigger, "protocol": attack.protocol}
