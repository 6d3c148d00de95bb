"""What the package holds for us, by names alone: drawings for training and held-out ones, and
what is left out.

The choice knows no scale, so that every scale is cut from the same list.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from repro.data.keyed import keyed_digest
from repro.sources.icons.names import caption_words
from repro.sources.icons.package import Credit, IconSet, read_sets
from repro.sources.icons.rule import IconRule, rule_file
from repro.spec import SpecError

Key = tuple[str, str]
"""Set and name of a drawing."""


class IconEntry(NamedTuple):
    """A drawing that may be used: set and name, vendor, and the words of its caption."""

    set: str
    name: str
    vendor: str
    caption: str

    @property
    def key(self) -> Key:
        """Identity of the drawing."""
        return self.set, self.name

    def rank(self, purpose: str) -> bytes:
        """Place in the keyed order of a purpose; it depends on set and name alone."""
        return keyed_digest(purpose, self.set, self.name)


@dataclass
class Survey:
    """The usable drawings in the package's order, and the account of all its icons."""

    training: list[IconEntry] = field(default_factory=list)
    held_out: list[IconEntry] = field(default_factory=list)
    credits: dict[str, Credit] = field(default_factory=dict)
    """Of the sets that may be used, by name."""
    left_out_sets: dict[str, str] = field(default_factory=dict)
    """Sets that are not used, with their licence."""
    account: Counter[str] = field(default_factory=Counter)
    """Icons by what became of them; all together they are the package's icons."""
    brands: set[str] = field(default_factory=set)
    """Captions that name brands."""

    def training_vendors(self) -> dict[str, set[str]]:
        """Vendors that draw each caption for training."""
        vendors = defaultdict(set)
        for entry in self.training:
            vendors[entry.caption].add(entry.vendor)
        return vendors


def take_survey(tarball: Path, rule: IconRule) -> Survey:
    """Read all sets once.

    SpecError if the rule names a vendor or a set that the package does not have.
    """
    survey, brands, seen = Survey(), _BrandCount(), set[bytes]()
    sets, vendors = set(), set()

    for icon_set in read_sets(tarball):
        credit = icon_set.credit
        sets.add(credit.set)
        vendors.add(credit.vendor)
        survey.account["turned"] += icon_set.turned
        reason = _why_left_out(credit, rule)
        if reason is not None:
            survey.account[reason] += len(icon_set.icons)
            survey.left_out_sets[credit.set] = credit.licence
            continue

        survey.credits[credit.set] = credit
        held_out = credit.vendor in rule.held_out_vendors
        entries = _entries(icon_set, held_out, survey.account, brands, seen)
        if held_out:
            survey.held_out += entries
            continue

        # Surplus styles are cut among training drawings alone; the task has limits of its own.
        kept = _few_a_caption(entries, rule.max_drawings)
        survey.account["surplus"] += len(entries) - len(kept)
        survey.training += kept

    # A misspelt name would hold nothing out, without a word.
    _check_known("held_out_vendors", rule.held_out_vendors, vendors)
    _check_known("left_out_sets", rule.left_out_sets, sets)

    survey.account["training"] = len(survey.training)
    survey.account["held_out"] = len(survey.held_out)
    survey.brands = brands.above(rule.max_brand_share)
    return survey


class _BrandCount:
    """Vendors that draw a caption, and those among them that file it under logos."""

    def __init__(self) -> None:
        self.drawn: defaultdict[str, set[str]] = defaultdict(set)
        self.as_logo: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, caption: str, vendor: str, is_logo: bool) -> None:
        self.drawn[caption].add(vendor)
        if is_logo:
            self.as_logo[caption].add(vendor)

    def above(self, share: float) -> set[str]:
        """Captions that more than this share of their vendors file under logos."""
        counts = ((caption, len(vendors)) for caption, vendors in self.as_logo.items())
        return {caption for caption, logos in counts if logos > share * len(self.drawn[caption])}


def _why_left_out(credit: Credit, rule: IconRule) -> str | None:
    if credit.licence not in rule.licences:
        return "licence"
    return "left_out_set" if credit.set in rule.left_out_sets else None


def _entries(
    icon_set: IconSet, held_out: bool, account: Counter[str], brands: _BrandCount, seen: set[bytes]
) -> list[IconEntry]:
    """Drawings of a set with a caption that are not, body and caption, one that was there
    before.
    """
    entries = []
    credit = icon_set.credit
    for icon in icon_set.icons:
        caption = caption_words(icon.name, icon_set.suffixes, icon_set.prefixes)
        if not caption:
            account["no_words"] += 1
            continue
        # Held-out vendors count too: whether a word is a brand does not depend on the split.
        brands.add(caption, credit.vendor, icon.is_logo)

        # Vendors hand drawings on unchanged; the copy would count as a drawing of another vendor.
        content = f"{held_out}\n{caption}\n{icon.body}"
        identity = hashlib.blake2b(content.encode(), digest_size=16).digest()
        if identity in seen:
            account["identical"] += 1
            continue
        seen.add(identity)
        entries.append(IconEntry(credit.set, icon.name, credit.vendor, caption))
    return entries


def _few_a_caption(entries: Sequence[IconEntry], limit: int) -> list[IconEntry]:
    """At most `limit` entries of each caption, the first in a keyed order, in the order given."""
    by_caption = defaultdict(list)
    for entry in entries:
        by_caption[entry.caption].append(entry)

    kept = set()
    for group in by_caption.values():
        group.sort(key=lambda entry: entry.rank("drawing"))
        kept.update(group[:limit])
    return [entry for entry in entries if entry in kept]


def _check_known(field_name: str, wanted: Iterable[str], known: set[str]) -> None:
    unknown = sorted(set(wanted) - known)
    if unknown:
        raise SpecError(
            f"{rule_file()}: {field_name}: {', '.join(unknown)} (allowed: names in the package: "
            f"{', '.join(sorted(known)[:5])} and {max(0, len(known) - 5)} more)"
        )
