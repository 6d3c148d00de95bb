"""Which emoji drawings exist: concepts named by CLDR, and each package's drawings of them.

Packages with a table of code points are matched by it; the older ones only name their icons, in
spellings of their time, and are matched by name against CLDR labels, the other packages' names and
aliases, Unicode names and shortcodes. What matches nothing is left out, never guessed. Left out on
purpose are flags, clocks, signs, letters, gendered variants and the like: near-copies across
vendors, which would make the zero-shot task a matter of pixels.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from repro.sources.packages import Tarball


class Style(NamedTuple):
    """One set of drawings; styles of one family come from one vendor and may share their
    designs.
    """

    package: str
    family: str
    copyright: str


STYLES = {
    "noto": Style("@iconify-json/noto", "google", "Google LLC"),
    "noto-v1": Style("@iconify-json/noto-v1", "google", "Google LLC"),
    "twemoji": Style("@iconify-json/twemoji", "twitter", "Twitter, Inc and other contributors"),
    "openmoji": Style("@iconify-json/openmoji", "openmoji", "OpenMoji, HfG Schwäbisch Gmünd"),
    "fluent": Style("@iconify-json/fluent-emoji", "microsoft", "Microsoft Corporation"),
    "fluent-flat": Style("@iconify-json/fluent-emoji-flat", "microsoft", "Microsoft Corporation"),
    "fluent-hc": Style(
        "@iconify-json/fluent-emoji-high-contrast", "microsoft", "Microsoft Corporation"
    ),
    "emojione": Style("@iconify-json/emojione", "emojione", "EmojiOne / EmojiTwo contributors"),
    "emojione-v1": Style("@iconify-json/emojione-v1", "emojione", "EmojiOne"),
    "emojione-mono": Style(
        "@iconify-json/emojione-monotone", "emojione", "EmojiOne / EmojiTwo contributors"
    ),
    "fxemoji": Style("@iconify-json/fxemoji", "mozilla", "Mozilla Foundation"),
    "streamline": Style("@iconify-json/streamline-emojis", "streamline", "Streamline"),
}

LEFT_OUT = {
    *(
        "family",
        "keycap",
        "time",
        "geometric",
        "alphanum",
        "skin-tone",
        "hair-style",
        "country-flag",
        "subdivision-flag",
    ),
    *(
        "flag",
        "arrow",
        "warning",
        "zodiac",
        "av-symbol",
        "religion",
        "math",
        "punctuation",
        "gender",
        "currency",
    ),
    "transport-sign",
}
"""CLDR subgroups whose signs all vendors draw alike."""
MIN_FAMILIES = 2
"""A concept that fewer vendors draw cannot be both trained and tested."""

# Squashed spellings of the Firefox OS set that no list of names knows (read by eye).
FXEMOJI_NAMES = {
    "beermug": "1f37a",
    "aubergine": "1f346",
    "bank": "1f3e6",
    "bath": "1f6c0",
    "bus": "1f68c",
}
# Old names that today's aliases would send to the wrong concept (read by eye).
STREAMLINE_WRONG = {"champagne-glass-1", "champagne-glass-2"}


@dataclass(frozen=True)
class Concept:
    """One emoji: code points in hex joined by dashes, CLDR short name and keywords."""

    code: str
    name: str
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """One icon of one style; `box` is left, top, width and height of its view, `body` its SVG
    elements.
    """

    concept: Concept
    style: str
    icon: str
    box: tuple[float, float, float, float]
    body: str


def find_drawings(tarballs: Mapping[str, Tarball]) -> list[Drawing]:
    """All drawings of all concepts that at least two vendors draw; by style, then code point."""
    text = tarballs["emojibase-data"]
    concepts = _concepts(text)
    icons = {style: _Icons(tarballs[STYLES[style].package]) for style in STYLES}
    everything = {
        _code(entry["hexcode"]) for entry in text.json("en/data.json") if "group" in entry
    }
    names = _names(text, icons, everything)
    drawings = [
        drawing for style in STYLES for drawing in _drawings(style, icons[style], names, concepts)
    ]
    families: dict[str, set[str]] = {}
    for drawing in drawings:
        families.setdefault(drawing.concept.code, set()).add(STYLES[drawing.style].family)
    return [drawing for drawing in drawings if len(families[drawing.concept.code]) >= MIN_FAMILIES]


def class_names(drawings: list[Drawing]) -> list[str]:
    """Names of all concepts: most drawn first, then alphabetically."""
    counts: dict[str, int] = {}
    for drawing in drawings:
        counts[drawing.concept.name] = counts.get(drawing.concept.name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def _code(hexcode: str) -> str:
    """Code points without variation selectors, in lower case."""
    return "-".join(part for part in hexcode.lower().split("-") if part not in ("fe0f", "fe0e"))


def _slug(name: str) -> str:
    """Spelling in which names of different sets are compared."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name.replace("&", " and ").replace("'", "")).strip("-")


def _concepts(text: Tarball) -> dict[str, Concept]:
    """Concepts by code point."""
    messages = text.json("en/messages.json")
    groups = {group["order"]: group["key"] for group in messages["groups"]}
    subgroups = {group["order"]: group["key"] for group in messages["subgroups"]}
    concepts = {}
    for entry in text.json("en/data.json"):
        if "group" not in entry:
            continue
        code, group, subgroup, label = (
            _code(entry["hexcode"]),
            groups[entry["group"]],
            subgroups[entry["subgroup"]],
            entry["label"],
        )
        gendered = re.search("200d-264[02]", code) or code.startswith(("1f468-200d", "1f469-200d"))
        couple = re.match(r"kiss|couple|family|men |women |man and|woman and", label)
        variant = group == "people-body" and "200d" in code and not code.startswith("1f9d1-200d")
        if not (
            group in ("flags", "component") or subgroup in LEFT_OUT or gendered or couple or variant
        ):
            concepts[code] = Concept(
                code, label, tuple(tag for tag in entry.get("tags", []) if tag != label)
            )
    return concepts


class _Icons:
    """The icons of one package."""

    def __init__(self, tarball: Tarball) -> None:
        content = tarball.json("icons.json")
        self.bodies: dict[str, dict[str, Any]] = content["icons"]
        self.aliases: dict[str, dict[str, Any]] = content.get("aliases", {})
        self.width: float = content.get("width", 16)
        self.height: float = content.get("height", self.width)
        self.by_code = {_code(code): name for code, name in tarball.json("chars.json").items()}

    def plain_aliases(self) -> Iterator[tuple[str, str]]:
        """Other names of icons, without those that turn or flip the drawing."""
        return (
            (alias, entry["parent"])
            for alias, entry in self.aliases.items()
            if set(entry) <= {"parent", "hidden"}
        )

    def resolve(self, name: str) -> str | None:
        """Name of the icon behind a chain of aliases."""
        while name not in self.bodies:
            if name not in self.aliases:
                return None
            name = self.aliases[name]["parent"]
        return name

    def drawing(self, concept: Concept, style: str, name: str) -> Drawing:
        icon = self.bodies[name]
        box = (
            icon.get("left", 0),
            icon.get("top", 0),
            icon.get("width", self.width),
            icon.get("height", self.height),
        )
        return Drawing(concept, style, name, box, icon["body"])


def _names(text: Tarball, icons: Mapping[str, _Icons], known: set[str]) -> dict[str, str]:
    """Slug -> code point, for every name that any source gives; earlier sources win."""
    names: dict[str, str] = {}
    for entry in text.json("en/data.json"):
        if "group" in entry:
            names.setdefault(_slug(entry["label"]), _code(entry["hexcode"]))
    for pack in icons.values():
        code_of = {name: code for code, name in pack.by_code.items()}
        for name, code in code_of.items():
            if code in known:
                names.setdefault(name, code)
        for alias, parent in pack.plain_aliases():
            if code_of.get(parent) in known:
                names.setdefault(alias, code_of[parent])
    for entry in text.json("en/data.json"):
        if "group" in entry and "-" not in (code := _code(entry["hexcode"])):
            names.setdefault(_slug(unicodedata.name(chr(int(code, 16)), "")), code)
    for vendor in ("github", "emojibase", "iamcal", "joypixels"):
        for hexcode, shortcodes in text.json(f"en/shortcodes/{vendor}.json").items():
            if (code := _code(hexcode)) in known:
                for shortcode in [shortcodes] if isinstance(shortcodes, str) else shortcodes:
                    names.setdefault(_slug(shortcode), code)
    names.pop("", None)
    return names


def _drawings(
    style: str, icons: _Icons, names: Mapping[str, str], concepts: Mapping[str, Concept]
) -> Iterator[Drawing]:
    """Drawings of one style by code point; an icon that stands for several concepts is taken for
    the first.
    """
    candidates: dict[str, str] = {}
    if icons.by_code:
        for code, name in icons.by_code.items():
            if code in concepts and (icon := icons.resolve(name)):
                candidates[code] = icon
    else:
        find = _finder(style, names)
        for name in [*icons.bodies, *(alias for alias, _ in icons.plain_aliases())]:
            found = find(name)
            if found and found in concepts and (icon := icons.resolve(name)):
                candidates.setdefault(found, icon)
    seen: set[str] = set()
    for code, icon in sorted(candidates.items()):
        if icon in seen:
            continue
        seen.add(icon)
        yield icons.drawing(concepts[code], style, icon)
        if style == "streamline":  # draws some concepts several times: banana-2, banana-3 ...
            stem = re.sub(r"-\d+$", "", icon)
            for other in (f"{stem}-{number}" for number in range(2, 10)):
                if other != icon and other in icons.bodies:
                    yield icons.drawing(concepts[code], style, other)


def _finder(style: str, names: Mapping[str, str]) -> Callable[[str], str | None]:
    """Function from an icon's name to a code point or None, for sets that give names only."""
    if style == "fxemoji":  # writes names without separators and with colour words
        squashed = {slug.replace("-", ""): code for slug, code in names.items()}
        return lambda name: (
            FXEMOJI_NAMES.get(name)
            or squashed.get(name)
            or squashed.get(re.sub("^(black|white|heavy)", "", name))
        )
    if style == "streamline":
        return lambda name: (
            None
            if name in STREAMLINE_WRONG
            else names.get(name) or names.get(re.sub(r"-\d+$", "", name))
        )
    return names.get
