"""The npm package @iconify/json: 238 sets of icons with author, licence and SVG bodies.

The package also ships a few sets that its catalogue does not list, and icons that their authors
withdrew (`hidden`); neither counts.
"""

import json
import tarfile
from collections import ChainMap
from collections.abc import Iterator
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


class Icon(NamedTuple):
    """One drawing."""

    set: str
    name: str
    """Unique in its set."""
    body: str
    """SVG without the outer element."""
    box: tuple[float, ...]
    """Left, top, width and height of the view box, in units of its own."""
    palette: bool = False
    """Whether the drawing has colours of its own."""


class IconSet(NamedTuple):
    """A set of the catalogue with its drawings."""

    name: str
    entry: dict[str, Any]
    """Of the catalogue."""
    content: dict[str, Any]
    """The set's own file."""

    @property
    def vendor(self) -> str:
        """Author."""
        return str(self.entry["author"]["name"])

    @property
    def licence(self) -> str:
        """SPDX name, or the licence's title in parentheses."""
        licence = self.entry["license"]
        return str(licence.get("spdx") or f"({licence['title']})")

    @property
    def names(self) -> list[str]:
        """Names of the drawings in the order of the file."""
        icons = self.content["icons"]
        return [name for name in icons if not icons[name].get("hidden")]

    def icon(self, name: str) -> Icon:
        """The drawing of that name."""
        fields = ChainMap(self.content["icons"][name], self.content, DEFAULT_BOX)
        box = tuple(float(fields[side]) for side in DEFAULT_BOX)
        palette = bool(self.entry.get("palette"))
        return Icon(self.name, name, fields["body"], box, palette)


def read_sets(tarball: Path) -> Iterator[IconSet]:
    """All sets of the catalogue, in the package's order."""
    with tarfile.open(tarball, "r:gz") as tar:

        def content(member: tarfile.TarInfo) -> Any:
            file = tar.extractfile(member)
            assert file is not None  # the pin guarantees plain files
            return json.loads(file.read())

        # Searched from the front: by name, tarfile would read the whole archive first.
        catalogue = content(next(member for member in tar if member.name == CATALOGUE))
        for member in tar:
            name = PurePath(member.name).stem
            if member.name == f"package/json/{name}.json" and name in catalogue:
                yield IconSet(name, catalogue[name], content(member))
