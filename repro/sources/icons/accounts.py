"""What became of every icon, and who drew those that are used.

In each account `listed` is the sum of all else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from repro.sources.icons.package import ICONS
from repro.sources.icons.rule import IconRule
from repro.sources.icons.slots import SlotWriter
from repro.sources.icons.survey import IconEntry, Survey
from repro.sources.packages import WORDNET_CREDIT
from repro.spec import Dataset

Images = Sequence[tuple[str, IconEntry]]
"""The evaluation images that are used: class name and drawing, in label order."""


def of_package(survey: Survey) -> dict[str, int]:
    """All icons that the package's catalogue counts."""
    return {"listed": survey.account.total(), **dict(sorted(survey.account.items()))}


def of_pairs(survey: Survey, slot: SlotWriter, refused: Counter[str]) -> dict[str, int]:
    """The drawings for training, as the larger slot takes them."""
    return {
        "listed": len(survey.training),
        "beyond_scale": len(survey.training) - len(slot.members),
        **dict(sorted(refused.items())),
        "duplicate": slot.duplicates,
        "used": len(slot.entries),
    }


def of_task(
    survey: Survey, rule: IconRule, images: Images, slots: Mapping[Dataset, SlotWriter]
) -> dict[str, Any]:
    """How large the zero-shot task is, and by how many vendors it is trained and asked."""
    per_class = Counter(name for name, _ in images)
    names = set(per_class)
    counts = sorted(per_class.values())
    of_concepts = {
        f"{slot}_drawings_of_concepts": sum(entry.caption in names for entry in writer.entries)
        for slot, writer in sorted(slots.items())
    }
    return {
        "concepts": len(per_class),
        "fewest_images": counts[0],
        "most_images": counts[-1],
        "vendors_trained": len({entry.vendor for entry in slots["cc6m"].entries}),
        "vendors_held_out": len({entry.vendor for _, entry in images}),
        "near_copy": rule.near_copy,
        "brands": len(survey.brands),
        **of_concepts,
    }


def accounting(
    sources: Mapping[str, Mapping[str, int]],
    survey: Survey,
    rule: IconRule,
    slots: Mapping[Dataset, SlotWriter],
    images: Images,
) -> dict[str, Any]:
    """The account of every icon, and the size of what was made of them."""
    used = {slot: len(writer.entries) for slot, writer in slots.items()}
    return {
        "sources": sources,
        "used": used | {"evaluation": len(images)},
        "task": of_task(survey, rule, images, slots),
        "left_out_sets": survey.left_out_sets,
    }


def attribution(
    survey: Survey, rule: IconRule, slots: Mapping[Dataset, SlotWriter], images: Images
) -> dict[str, Any]:
    """Who drew what under which licence, for every set of which a drawing is used."""
    # Name of a set to the number of images taken from it, by store.
    used: dict[str, Counter[str]] = defaultdict(Counter)
    for slot, writer in slots.items():
        for entry in writer.entries:
            used[entry.set][slot] += 1
    for _, entry in images:
        used[entry.set]["evaluation"] += 1

    sets = []
    for name, counts in sorted(used.items()):
        credit = survey.credits[name]
        sets.append(
            {
                "set": name,
                "title": credit.title,
                "copyright": credit.vendor,
                "held_out": credit.vendor in rule.held_out_vendors,
                "license": credit.licence,
                "license_url": credit.licence_url,
                "source": credit.source,
                "package": ICONS.name,
                "version": ICONS.version,
                "images": {slot: counts[slot] for slot in ("cc3m", "cc6m", "evaluation")},
            }
        )
    changes = "rasterised, one-colour drawings coloured, set on a ground"
    return {"changes": changes, "images": sets, "text": [WORDNET_CREDIT]}
