"""Which icons of the package are used, by names alone: for training, held out, or left out.

The zero-shot task has concepts that many vendors draw, and images by vendors outside of training.
It is in the repository (specs/classnames/icons.txt and icons-images.txt), so that label 7 means the
same for everybody and the scales share their images. tools/icon_task.py has made it of the package.

The rule (specs/classnames/icons.yaml) is the same at every scale, so each scale is cut from the
same lists, and the smaller scales lie in the larger ones.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import PositiveInt

from repro.data.images import bytes_hash
from repro.data.keyed import keyed_digest
from repro.profile import SPECS, check, classnames_file, read_yaml
from repro.sources.icons.package import IconSet, read_sets
from repro.spec import Dataset, Fraction, NonEmpty, Spec, SpecError

Key = tuple[str, str]
"""Set and name of a drawing."""
Task = dict[str, list[Key]]
"""Evaluation images of each class; classes in label order."""

_STYLES = """
    outline outlined outlines filled fill solid rounded duotone twotone linear stroke baseline
    regular alt alternate variant icon icons bx bxs sm md lg xl xs mini px
"""
STYLE_WORDS = frozenset(_STYLES.split())
"""Words that stand for a style anywhere in a name; `light`, `line`, `bold` and `flat` do not, for
they may also be the subject.
"""
SKIN_TONE = re.compile(r"-(medium-light|medium-dark|light|medium|dark)-skin-tone")
NOT_A_WORD = re.compile(r"\d+(px)?|\w|[\dx]+|v\d+")
"""Numbers, sizes, versions and single letters."""
MIN_LETTERS = 3
"""Shorter captions say too little: `up`, `vk`, `tv`."""
RULE = SPECS / "classnames/icons.yaml"


class IconRule(Spec):
    """specs/classnames/icons.yaml: how pairs and zero-shot task follow from the package."""

    licences: NonEmpty[str]
    """SPDX names of the allowed licences."""
    left_out_sets: list[str]
    """Sets that are not used, whatever their licence."""
    held_out_vendors: NonEmpty[str]
    """Authors whose sets are all kept out of training; the evaluation images are theirs."""
    max_drawings: PositiveInt
    """Drawings of one training set under one caption, at most: the others are its styles."""
    max_brand_share: Fraction
    """A caption that a larger share of its vendors files under logos is a brand, no concept."""
    min_vendors: PositiveInt
    """Vendors that must draw a concept for training."""
    images_per_vendor: PositiveInt
    """Evaluation images of one concept by one vendor, at most."""
    min_images: PositiveInt
    """Evaluation images that a concept must have, near-copies aside."""
    max_concepts: PositiveInt
    """Concepts of the task, the most drawn first."""
    near_copy: Fraction
    """Correlation of shapes from which a held-out drawing is a copy of a training drawing."""


def load_rule() -> IconRule:
    """Read and check the rule; SpecError names every problem."""
    return check(IconRule, read_yaml(RULE), RULE)


def caption_words(name: str, suffixes: Sequence[str] = (), prefixes: Sequence[str] = ()) -> str:
    """Words of an icon's name without those for a style, a size or a number; empty if too short.

    `account-circle-outline` becomes `account circle`. `suffixes` and `prefixes` are the style
    affixes of the set, of which the longest match goes.
    """
    ends = [f"-{suffix}" for suffix in suffixes]
    end = max(filter(name.endswith, ends), key=len, default="")
    name = name.removesuffix(end)
    starts = [f"{prefix}-" for prefix in prefixes]
    start = max(filter(name.startswith, starts), key=len, default="")
    name = name.removeprefix(start)

    words = []
    for word in SKIN_TONE.sub("", name).split("-"):
        if word and not NOT_A_WORD.fullmatch(word):
            words.append(word)
    # A name of style words only means these: `fill` and `regular` are icons of editors.
    without_styles = [word for word in words if word not in STYLE_WORDS]
    caption = " ".join(without_styles or words)
    letters = sum(map(str.isalpha, caption))
    return caption if letters >= MIN_LETTERS else ""


class IconEntry(NamedTuple):
    """A usable drawing; its caption is the words of the name."""

    set: str
    name: str
    vendor: str
    caption: str

    @property
    def key(self) -> Key:
        """Identity of the drawing."""
        return self.set, self.name

    def rank(self, purpose: str) -> bytes:
        """Position in the keyed order of a purpose; depends on set and name alone."""
        return keyed_digest(purpose, self.set, self.name)


class Survey(NamedTuple):
    """The usable drawings in the package's order."""

    training: list[IconEntry]
    held_out: list[IconEntry]
    sets: dict[str, IconSet]
    """All sets by name, without their content."""


def first_of_each(entries: Iterable[IconEntry], limit: int, purpose: str) -> list[IconEntry]:
    """At most `limit` drawings of each caption by each vendor, in the keyed order of `purpose`."""
    first = []
    counts = Counter[tuple[str, str]]()
    for entry in sorted(entries, key=lambda entry: entry.rank(purpose)):
        group = entry.caption, entry.vendor
        counts[group] += 1
        if counts[group] <= limit:
            first.append(entry)
    return first


def take_survey(tarball: Path, rule: IconRule) -> Survey:
    """Apply the rule to all sets; SpecError if it names a vendor or set that does not exist."""
    survey = Survey([], [], {})
    seen = set[bytes]()
    for icon_set in read_sets(tarball):
        survey.sets[icon_set.name] = icon_set._replace(content={})
        entries = []
        held_out = icon_set.vendor in rule.held_out_vendors
        for name, caption in captioned(icon_set, rule):
            # Some vendors copy drawings; a copy is not the drawing of another vendor.
            body = icon_set.content["icons"][name]["body"]
            identity = bytes_hash(f"{held_out}\n{caption}\n{body}".encode())
            if identity not in seen:
                seen.add(identity)
                entries.append(IconEntry(icon_set.name, name, icon_set.vendor, caption))

        # Only training drawings lose styles here; the task has limits of its own.
        if held_out:
            survey.held_out.extend(entries)
        else:
            first = set(first_of_each(entries, rule.max_drawings, "drawing"))
            survey.training.extend(entry for entry in entries if entry in first)

    # A misspelt name would hold nothing out.
    vendors = {icon_set.vendor for icon_set in survey.sets.values()}
    _check_names("held_out_vendors", rule.held_out_vendors, vendors)
    _check_names("left_out_sets", rule.left_out_sets, set(survey.sets))
    return survey


def captioned(icon_set: IconSet, rule: IconRule) -> Iterator[tuple[str, str]]:
    """Names of drawings with their captions, of a set that may be used."""
    if icon_set.licence not in rule.licences or icon_set.name in rule.left_out_sets:
        return
    prefixes = [*filter(None, icon_set.content.get("prefixes", ()))]
    suffixes = [*filter(None, icon_set.content.get("suffixes", ()))]
    for name in icon_set.names:
        if caption := caption_words(name, suffixes, prefixes):
            yield name, caption


def _check_names(field_name: str, names: Iterable[str], allowed: set[str]) -> None:
    unknown = sorted(set(names) - allowed)
    if unknown:
        raise SpecError(
            f"{RULE}: {field_name}: {', '.join(unknown)} (allowed: names in the package, "
            f"such as {', '.join(sorted(allowed)[:5])})"
        )


def choose_pairs(
    training: Sequence[IconEntry],
    concepts: Collection[str],
    target: str,
    num_pairs: dict[Dataset, int],
) -> dict[Dataset, set[Key]]:
    """Drawings of each dataset: of the target, then of the concepts, then others, in keyed order.

    A scale with all drawings of its concepts therefore holds every scale with fewer concepts. cc3m
    is the half of cc6m whose keyed hash is low, and all drawings of the target.
    """
    names = set(concepts)

    def position(entry: IconEntry) -> tuple[bool, bool, bytes]:
        # The target first: the attack needs a model that knows it.
        return entry.caption != target, entry.caption not in names, entry.rank("pair")

    def in_half(entry: IconEntry) -> bool:
        return entry.caption == target or entry.rank("half")[0] < 128

    large = sorted(training, key=position)[: num_pairs["cc6m"]]
    small = [*filter(in_half, large)][: num_pairs["cc3m"]]
    return {"cc3m": {entry.key for entry in small}, "cc6m": {entry.key for entry in large}}


def read_task() -> Task:
    """Read both lists: a class a line; and class, tab, set:name an image."""
    names = classnames_file("icons").read_text("utf-8")
    task: Task = {name: [] for name in names.splitlines()}
    images = classnames_file("icons-images").read_text("utf-8")
    for line in images.splitlines():
        name, _, icon = line.partition("\t")
        icon_set, _, icon_name = icon.partition(":")
        task.setdefault(name, []).append((icon_set, icon_name))
    return task


def check_task(task: Task, held_out: Mapping[Key, IconEntry]) -> None:
    """SpecError unless every image of the task is a held-out drawing of its class."""
    for name, images in task.items():
        for key in images:
            if key not in held_out or held_out[key].caption != name:
                raise SpecError(
                    f"{classnames_file('icons-images')}: {name}: {':'.join(key)} is no drawing of"
                    " it by a held-out vendor (allowed: a class of icons.txt, a tab, set:name); to"
                    " write the lists again: python -m tools.icon_task"
                )
