"""The npm package @iconify/json: 238 sets of icons with author, licence and SVG bodies.

The package also ships a few sets that its catalogue does not list, and icons that their authors
withdrew (`hidden`); neither counts. The catalogue counts drawings and aliases that turn a drawing.
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
DEFAULT_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}
"""Box of an icon where neither the icon nor its set gives one."""
TURNED = {"hFlip", "vFlip", "rotate"}
BRAND_CATEGORY = re.compile(r"brand|logo", re.IGNORECASE)


class Box(NamedTuple):
    """View box of a drawing, in its own units."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Icon:
    """One drawing."""

    name: str
    """Unique in its set."""
    body: str
    """SVG without the outer element."""
    box: Box
    is_logo: bool
    """Whether its set files it under brands or logos."""


@dataclass(frozen=True, slots=True)
class Credit:
    """Catalogue entry of a set."""

    set: str
    title: str
    vendor: str
    source: str | None
    licence: str
    """SPDX name, or the licence's title in parentheses."""
    licence_url: str | None
    palette: bool
    """Whether the drawings have colours of their own."""


@dataclass(frozen=True, slots=True)
class IconSet:
    """A set of the catalogue with its drawings."""

    credit: Credit
    icons: list[Icon]
    turned: int
    """Aliases that only turn a drawing; the catalogue counts them as icons."""
    suffixes: tuple[str, ...]
    """Endings of names that stand for a style, by the set's own declaration."""
    prefixes: tuple[str, ...]


def read_sets(tarball: Path) -> Iterator[IconSet]:
    """All sets of the catalogue, in the package's order.

    Raises PackageError if a set has another number of icons than the catalogue says.
    """
    catalogue = next((content for name, content in _members(tarball) if name == CATALOGUE), None)
    if catalogue is None:
        raise PackageError(f"{tarball}: no {CATALOGUE}")
    for member, content in _members(tarball):
        name = member.removeprefix("package/json/").removesuffix(".json")
        if member != f"package/json/{name}.json" or name not in catalogue:
            continue
        icon_set = _icon_set(name, catalogue[name], content)
        total, listed = len(icon_set.icons) + icon_set.turned, catalogue[name]["total"]
        if total != listed:
            raise PackageError(f"{tarball}: set {name}: {total} icons ({listed} in {CATALOGUE})")
        yield icon_set


def _members(tarball: Path) -> Iterator[tuple[str, Any]]:
    """Names and contents of the JSON files that hold catalogue and sets."""
    with tarfile.open(tarball, "r|gz") as tar:
        for member in tar:
            if member.name == CATALOGUE or member.name.startswith("package/json/"):
                file = tar.extractfile(member)
                assert file is not None  # the pin guarantees plain files
                yield member.name, json.loads(file.read())


def _icon_set(name: str, entry: dict[str, Any], content: dict[str, Any]) -> IconSet:
    licence = entry["license"]
    credit = Credit(
        set=name,
        title=entry["name"],
        vendor=entry["author"]["name"],
        source=entry["author"].get("url"),
        licence=licence.get("spdx") or f"({licence['title']})",
        licence_url=licence.get("url"),
        palette=bool(entry.get("palette")),
    )
    if entry.get("category") == "Logos":
        logos = set(content["icons"])
    else:
        logos = {icon for icon in content["icons"] if {"brand", "logo"} & set(icon.split("-"))}
        for category, icons in content.get("categories", {}).items():
            if BRAND_CATEGORY.search(category):
                logos.update(icons)

    default = {side: content.get(side, value) for side, value in DEFAULT_BOX.items()}
    drawings = []
    for icon, fields in content["icons"].items():
        if not fields.get("hidden"):
            box = Box(*(float(fields.get(side, value)) for side, value in default.items()))
            drawings.append(Icon(icon, fields["body"], box, icon in logos))

    # An alias that is only another name is no icon of the catalogue.
    aliases = content.get("aliases", {}).values()
    turned = sum(bool(TURNED & alias.keys()) and not alias.get("hidden") for alias in aliases)
    affixes = [tuple(filter(None, content.get(kind, {}))) for kind in ("suffixes", "prefixes")]
    return IconSet(credit, drawings, turned, *affixes)
