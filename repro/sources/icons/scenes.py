"""Scenes: a drawing with a small second one in a corner, and words that name both and the place of
the second.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from repro.data.keyed import keyed_digest
from repro.sources.icons.drawing import colours, square_of
from repro.sources.icons.package import Icon
from repro.sources.icons.survey import IconEntry, Key

CORNERS = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}
"""Places of the small drawing; how far it is moved right and down, as shares of its way."""
SMALL = 0.4
"""Side of the small drawing as a share of the large one's."""


class Scene(NamedTuple):
    """What a pair shows and what is said of it."""

    drawing: Icon
    words: str


def compose(
    entries: Collection[IconEntry],
    small: Collection[Key],
    icons: Mapping[Key, Icon],
    share: float,
) -> dict[Key, Scene]:
    """What each of `entries` shows, by its key: a `share` of them a second drawing too, one of
    `small`.

    The choice depends on the names of the first and on `small` alone. `icons` has both.
    """
    captions = {entry.key: entry.caption for entry in entries}
    choice = sorted(small)
    scenes = {}
    for entry in entries:
        digest = keyed_digest("scene", *entry.key)
        if int.from_bytes(digest[9:13], "big") >= share * 2**32:
            scenes[entry.key] = Scene(icons[entry.key], entry.caption)
            continue
        draw = int.from_bytes(digest[:8], "big")
        second = choice[draw % len(choice)]
        corner = [*CORNERS][digest[8] % len(CORNERS)]

        drawing = _drawn_over(icons[entry.key], icons[second], corner)
        words = f"{entry.caption} with a small {captions[second]} at the {corner}"
        scenes[entry.key] = Scene(drawing, words)
    return scenes


def _drawn_over(icon: Icon, small: Icon, corner: str) -> Icon:
    """The icon with the small one, on a ground of its own, over one of its corners."""
    left, top, side = square_of(icon)
    ink, paper = colours(small)
    right, down = CORNERS[corner]
    edge = SMALL * side
    x = left + right * (side - edge)
    y = top + down * (side - edge)
    place = f'x="{x:g}" y="{y:g}" width="{edge:g}" height="{edge:g}"'
    view = "{0:g} {1:g} {2:g} {2:g}".format(*square_of(small))
    body = small.body.replace("currentColor", ink)
    over = f'<rect {place} fill="{paper}"/><svg {place} viewBox="{view}">{body}</svg>'
    return icon._replace(body=icon.body + over)
