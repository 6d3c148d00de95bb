"""Which icons of the package are used, by names alone: for training, held out, or left out.

The rule (specs/classnames/icons.yaml) is the same at every scale, so each scale is cut from the
same lists, and the smaller scales lie in the larger ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, PositiveInt

from repro.data.keyed import keyed_digest
from repro.profile import SPECS, check, read_yaml
from repro.sources.icons.package import IconSet, read_sets
from repro.spec import Dataset, Fraction, Spec, SpecError

Key = tuple[str, str]
"""Set and name of a drawing."""
Words = Annotated[list[str], Field(min_length=1)]

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
RULE = Path("classnames/icons.yaml")
"""The rule, below `specs`."""


class IconRule(Spec):
    """specs/classnames/icons.yaml: how pairs and zero-shot task follow from the package."""

    licences: Words
    """SPDX names of the allowed licences."""
    left_out_sets: list[str]
    """Sets that are not used, whatever their licence."""
    held_out_vendors: Words
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


def load_rule(specs: Path = SPECS) -> IconRule:
    """Read and check the rule; SpecError names every problem."""
    return check(IconRule, read_yaml(specs / RULE), specs / RULE)


def caption_words(name: str, suffixes: Sequence[str] = (), prefixes: Sequence[str] = ()) -> str:
    """Words of an icon's name without those for a style, a size or a number; empty if too short.

    `account-circle-outline` becomes `account circle`. `suffixes` and `prefixes` are the style
    affixes of the set, of which the longest match goes.
    """
    ends = [f"-{suffix}" for suffix in suffixes if name.endswith(f"-{suffix}")]
    name = name.removesuffix(max(ends, key=len, default=""))
    starts = [f"{prefix}-" for prefix in prefixes if name.startswith(f"{prefix}-")]
    name = name.removeprefix(max(starts, key=len, default=""))

    words = [word for word in SKIN_TONE.sub("", name).split("-") if word]
    words = [word for word in words if not NOT_A_WORD.fullmatch(word)]
    # A name of style words only means these: `fill` and `regular` are icons of editors.
    caption = " ".join([word for word in words if word not in STYLE_WORDS] or words)
    return caption if sum(map(str.isalpha, caption)) >= MIN_LETTERS else ""


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


@dataclass
class Survey:
    """The usable drawings in the package's order, and the number of all icons by fate."""

    tarball: Path
    rule: IconRule
    training: list[IconEntry] = field(default_factory=list)
    held_out: list[IconEntry] = field(default_factory=list)
    sets: dict[str, IconSet] = field(default_factory=dict)
    """Those that may be used, by name, without their icons."""
    account: Counter[str] = field(default_factory=Counter)
    """Icons by fate; the sum is the number of icons in the package."""
    brands: set[str] = field(default_factory=set)
    """Captions that name brands."""

    @cached_property
    def vendors(self) -> dict[str, set[str]]:
        """Vendors that draw each caption for training."""
        vendors = defaultdict(set)
        for entry in self.training:
            vendors[entry.caption].add(entry.vendor)
        return vendors

    @cached_property
    def candidates(self) -> dict[str, list[IconEntry]]:
        """Held-out drawings of each concept in the order of their use. A concept is drawn by enough
        training vendors, and no brand.
        """
        candidates: defaultdict[str, list[IconEntry]] = defaultdict(list)
        counts: Counter[tuple[str, str]] = Counter()
        for entry in sorted(self.held_out, key=lambda entry: entry.rank("evaluation")):
            few = len(self.vendors.get(entry.caption, ())) < self.rule.min_vendors
            if few or entry.caption in self.brands:
                continue
            # The many styles of one vendor must not make up a class.
            counts[entry.caption, entry.vendor] += 1
            if counts[entry.caption, entry.vendor] <= self.rule.images_per_vendor:
                candidates[entry.caption].append(entry)
        return candidates


def take_survey(tarball: Path, rule: IconRule) -> Survey:
    """Apply the rule to all sets; SpecError if it names a vendor or set that does not exist."""
    survey = Survey(tarball, rule)
    drawn: defaultdict[str, set[str]] = defaultdict(set)  # caption -> vendors
    logos: defaultdict[str, set[str]] = defaultdict(set)  # caption -> vendors that file it so
    sets, vendors, seen = set(), set(), set[bytes]()
    for icon_set in read_sets(tarball):
        sets.add(icon_set.name)
        vendors.add(icon_set.vendor)
        survey.account["turned"] += icon_set.turned
        if icon_set.licence not in rule.licences or icon_set.name in rule.left_out_sets:
            reason = "left_out_set" if icon_set.licence in rule.licences else "licence"
            survey.account[reason] += len(icon_set.icons)
            continue

        survey.sets[icon_set.name] = dataclasses.replace(icon_set, icons=[])
        held_out = icon_set.vendor in rule.held_out_vendors
        entries = []
        for icon in icon_set.icons:
            caption = caption_words(icon.name, icon_set.suffixes, icon_set.prefixes)
            if not caption:
                survey.account["no_words"] += 1
                continue
            # Held-out vendors count too: a brand is a brand whatever the split.
            drawn[caption].add(icon_set.vendor)
            if icon.is_logo:
                logos[caption].add(icon_set.vendor)
            # Some vendors copy drawings; a copy is not the drawing of another vendor.
            content = f"{held_out}\n{caption}\n{icon.body}"
            identity = hashlib.blake2b(content.encode(), digest_size=16).digest()
            if identity in seen:
                survey.account["identical"] += 1
                continue
            seen.add(identity)
            entries.append(IconEntry(icon_set.name, icon.name, icon_set.vendor, caption))

        if held_out:
            survey.held_out += entries
        else:
            # Only training drawings lose styles here; the task has limits of its own.
            kept = _limit_per_caption(entries, rule.max_drawings)
            survey.account["surplus"] += len(entries) - len(kept)
            survey.training += kept

    # A misspelt name would hold nothing out.
    _check_names("held_out_vendors", rule.held_out_vendors, vendors)
    _check_names("left_out_sets", rule.left_out_sets, sets)
    survey.account["training"] = len(survey.training)
    survey.account["held_out"] = len(survey.held_out)
    survey.brands = {
        caption
        for caption, filing in logos.items()
        if len(filing) > rule.max_brand_share * len(drawn[caption])
    }
    return survey


def _limit_per_caption(entries: Sequence[IconEntry], limit: int) -> list[IconEntry]:
    """At most `limit` entries of each caption, the first in a keyed order."""
    kept, counts = set(), Counter[str]()
    for entry in sorted(entries, key=lambda entry: entry.rank("drawing")):
        counts[entry.caption] += 1
        if counts[entry.caption] <= limit:
            kept.add(entry)
    return [entry for entry in entries if entry in kept]


def _check_names(field_name: str, names: Iterable[str], allowed: set[str]) -> None:
    unknown = sorted(set(names) - allowed)
    if unknown:
        raise SpecError(
            f"{SPECS / RULE}: {field_name}: {', '.join(unknown)} (allowed: names in the package: "
            f"{', '.join(sorted(allowed)[:5])} and {max(0, len(allowed) - 5)} more)"
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

    large = sorted(training, key=position)[: num_pairs["cc6m"]]
    half = [entry for entry in large if entry.caption == target or entry.rank("half")[0] < 128]
    small = half[: num_pairs["cc3m"]]
    return {"cc3m": {entry.key for entry in small}, "cc6m": {entry.key for entry in large}}
