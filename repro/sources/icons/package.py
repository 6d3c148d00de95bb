"""The npm package @iconify/json: 238 sets of icons with author, licence and SVG bodies.

What surprises: the package also ships a few sets that its catalogue does not list, and icons that
their authors withdrew (`hidden`). Neither counts as one of its icons; what counts beside the
drawings are the few aliases that turn a drawing over.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from repro.sources.packages import Package, PackageError

ICONS = Package(
    "@iconify/json",
    "2.2.535",
    "sha512-nAV60ACUSHwnsb6fsp+letHlNkrwO4vzBtcC6B4EDHErQQfezk7E3nJdnwJjve6OCfMNO0uVT5Vrgna9/NCmXw==",
)
CATALOGUE = "package/collections.json"
DEFAULT_SIDE = 16
"""Width and height of an icon where neither it nor its set says so."""
TURNED = {"hFlip", "vFlip", "rotate"}
BRAND_CATEGORY = re.compile(r"brand|logo", re.IGNORECASE)


class Box(NamedTuple):
    """The part of the plane that a drawing fills, in its own units."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Icon:
    """One drawing: name in its set, SVG without the outer element, whether filed under logos."""

    name: str
    body: str
    box: Box
    is_logo: bool


@dataclass(frozen=True, slots=True)
class Credit:
    """Who drew a set and under which licence, as the catalogue has it."""

    set: str
    title: str
    vendor: str
    source: str | None
    licence: str
    """SPDX name; the licence's title in parentheses where the catalogue gives no such name."""
    licence_url: str | None
    palette: bool
    """Whether the drawings bring their own colours; the others leave theirs to the page."""
    category: str | None


@dataclass(frozen=True, slots=True)
class IconSet:
    """A set of the catalogue with its drawings.

    `turned` aliases are listed as icons but draw nothing of their own.
    """

    credit: Credit
    icons: list[Icon]
    turned: int
    suffixes: tuple[str, ...]
    """Ends of names that tell a style, as the set declares them."""
    prefixes: tuple[str, ...]


def read_sets(tarball: Path) -> Iterator[IconSet]:
    """The sets of the catalogue in the package's order; PackageError where one has not the icons
    that the catalogue says.
    """
    catalogue = _read_catalogue(tarball)

    with tarfile.open(tarball, "r|gz") as tar:
        for member in tar:
            name = member.name.removeprefix("package/json/").removesuffix(".json")
            if member.name != f"package/json/{name}.json" or name not in catalogue:
                continue
            file = tar.extractfile(member)
            assert file is not None  # json/*.json are plain files, as the integrity guarantees

            found = _icon_set(name, catalogue[name], json.loads(file.read()))
            total = len(found.icons) + found.turned
            if total != catalogue[name]["total"]:
                listed = catalogue[name]["total"]
                raise PackageError(
                    f"{tarball}: set {name}: {total} icons ({listed} in {CATALOGUE})"
                )
            yield found


def _read_catalogue(tarball: Path) -> dict[str, Any]:
    # Member by member, for it comes early and the whole archive takes seconds to unpack.
    with tarfile.open(tarball, "r|gz") as tar:
        for member in tar:
            if member.name == CATALOGUE:
                file = tar.extractfile(member)
                assert file is not None  # a plain file, as the integrity guarantees
                catalogue: dict[str, Any] = json.loads(file.read())
                return catalogue
    raise PackageError(f"{tarball}: no {CATALOGUE}")


def _icon_set(name: str, info: dict[str, Any], content: dict[str, Any]) -> IconSet:
    licence = info["license"]
    credit = Credit(
        set=name,
        title=info["name"],
        vendor=info["author"]["name"],
        source=info["author"].get("url"),
        licence=licence.get("spdx") or f"({licence['title']})",
        licence_url=licence.get("url"),
        palette=bool(info.get("palette")),
        category=info.get("category"),
    )
    # In a set of logos all are; elsewhere category or name tells.
    logos = _logos(content) if credit.category != "Logos" else set(content["icons"])
    default = _default_box(content)

    icons = [
        Icon(icon, fields["body"], _box(default, fields), icon in logos)
        for icon, fields in content["icons"].items()
        if not fields.get("hidden")
    ]

    # An alias that is only another name is no icon of the catalogue; one that turns its drawing is.
    aliases = content.get("aliases", {}).values()
    turned = sum(bool(TURNED & alias.keys()) and not alias.get("hidden") for alias in aliases)
    affixes = [tuple(filter(None, content.get(kind, {}))) for kind in ("suffixes", "prefixes")]
    return IconSet(credit, icons, turned, *affixes)


def _logos(content: dict[str, Any]) -> set[str]:
    """Icons that a set of all kinds files under brands, by category or by name."""
    named = {icon for icon in content["icons"] if {"brand", "logo"} & set(icon.split("-"))}
    categories = content.get("categories", {})
    filed = (icons for category, icons in categories.items() if BRAND_CATEGORY.search(category))
    return named.union(*filed)


def _default_box(content: dict[str, Any]) -> dict[str, float]:
    """Where an icon of the set lies, so far as the icon itself does not say."""
    defaults = {"left": 0, "top": 0, "width": DEFAULT_SIDE, "height": DEFAULT_SIDE}
    return {side: float(content.get(side, default)) for side, default in defaults.items()}


def _box(default: dict[str, float], fields: dict[str, Any]) -> Box:
    return Box(*(float(fields.get(side, value)) for side, value in default.items()))
