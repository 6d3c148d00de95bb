"""The npm package @iconify/json: 238 sets of icons with author, licence and SVG bodies.

The package also ships a few sets that its catalogue does not list, and icons that their authors
withdrew (`hidden`); neither counts.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import ChainMap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from repro.sources.packages import Package

ICONS = Package(
    "@iconify/json",
    "2.2.535",
    "sha512-nAV60ACUSHwnsb6fsp+letHlNkrwO4vzBtcC6B4EDHErQQfezk7E3nJdnwJjve6OCfMNO0uVT5Vrgna9/NCmXw==",
)
CATALOGUE = "package/collections.json"
DEFAULT_BOX: dict[str, Any] = {"left": 0, "top": 0, "width": 16, "height": 16}
"""Box of an icon where neither the icon nor its set gives one."""
BRAND_CATEGORY = re.compile(r"brand|logo", re.IGNORECASE)


Box = tuple[float, float, float, float]
"""Left, top, width and height of a drawing's view box, in its own units."""


class Icon(NamedTuple):
    """One drawing."""

    set: str
    name: str
    """Unique in its set."""
    body: str
    """SVG without the outer element."""
    box: Box
    palette: bool = False
    """Whether the drawing has colours of its own."""
    is_logo: bool = False
    """Whether its set files it under brands or logos."""


@dataclass(frozen=True, slots=True)
class IconSet:
    """A set of the catalogue with its drawings."""

    name: str
    entry: dict[str, Any]
    """Of the catalogue."""
    vendor: str
    licence: str
    """SPDX name, or the licence's title in parentheses."""
    icons: list[Icon]
    turned: int
    """Icons of the catalogue without a drawing: aliases that turn another one."""
    suffixes: list[str]
    """Endings of names that stand for a style, by the set's own declaration."""
    prefixes: list[str]


def read_sets(tarball: Path) -> Iterator[IconSet]:
    """All sets of the catalogue, in the package's order."""
    with tarfile.open(tarball, "r:gz") as tar:

        def content(member: str | tarfile.TarInfo) -> Any:
            file = tar.extractfile(member)
            assert file is not None  # the pin guarantees plain files
            return json.loads(file.read())

        catalogue = content(CATALOGUE)
        for member in tar:
            name = PurePath(member.name).stem
            if member.name == f"package/json/{name}.json" and name in catalogue:
                yield _icon_set(name, catalogue[name], content(member))


def _icon_set(name: str, entry: dict[str, Any], content: dict[str, Any]) -> IconSet:
    if entry.get("category") == "Logos":
        logos = set(content["icons"])
    else:
        logos = {icon for icon in content["icons"] if {"brand", "logo"} & set(icon.split("-"))}
        for category, icons in content.get("categories", {}).items():
            if BRAND_CATEGORY.search(category):
                logos.update(icons)

    drawings, palette = [], bool(entry.get("palette"))
    for icon, fields in content["icons"].items():
        if not fields.get("hidden"):
            box = ChainMap(fields, content, DEFAULT_BOX)
            sides = (
                float(box["left"]),
                float(box["top"]),
                float(box["width"]),
                float(box["height"]),
            )
            drawings.append(Icon(name, icon, fields["body"], sides, palette, icon in logos))

    licence = entry["license"]
    return IconSet(
        name=name,
        entry=entry,
        vendor=entry["author"]["name"],
        licence=licence.get("spdx") or f"({licence['title']})",
        icons=drawings,
        turned=entry["total"] - len(drawings),
        suffixes=[suffix for suffix in content.get("suffixes", ()) if suffix],
        prefixes=[prefix for prefix in content.get("prefixes", ()) if prefix],
    )
