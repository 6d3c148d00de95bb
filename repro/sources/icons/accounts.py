"""Number of icons by fate, and the credits of the sets in use.

In each account `listed` is the sum of the other entries.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from repro.sources.icons.package import ICONS
from repro.sources.icons.pairs import PairWriter
from repro.sources.icons.survey import IconEntry, IconRule, Survey
from repro.sources.packages import WORDNET_CREDIT
from repro.spec import Dataset

Images = Sequence[tuple[str, IconEntry]]
"""Evaluation images: class name and drawing, in label order."""


def package_account(survey: Survey) -> dict[str, int]:
    """All icons that the package's catalogue counts."""
    return {"listed": survey.account.total(), **dict(sorted(survey.account.items()))}


def pair_account(survey: Survey, pairs: PairWriter, refused: Counter[str]) -> dict[str, int]:
    """The drawings for training."""
    return {
        "listed": len(survey.training),
        "beyond_scale": len(survey.training) - len(pairs.members),
        **dict(sorted(refused.items())),
        "duplicate": pairs.duplicates,
        "used": len(pairs.entries),
    }


def accounting(
    sources: Mapping[str, Mapping[str, int]],
    survey: Survey,
    rule: IconRule,
    pairs: Mapping[Dataset, PairWriter],
    images: Images,
) -> dict[str, Any]:
    """Content of accounting.json: accounts by source, and sizes of stores and task."""
    per_class = Counter(name for name, _ in images)
    task = {
        "concepts": len(per_class),
        "fewest_images": min(per_class.values()),
        "most_images": max(per_class.values()),
        "vendors_trained": len({entry.vendor for entry in pairs["cc6m"].entries}),
        "vendors_held_out": len({entry.vendor for _, entry in images}),
        "near_copy": rule.near_copy,
        "brands": len(survey.brands),
    }
    for name, writer in sorted(pairs.items()):
        drawings = sum(entry.caption in per_class for entry in writer.entries)
        task[f"{name}_drawings_of_concepts"] = drawings
    used = {name: len(writer.entries) for name, writer in pairs.items()}
    return {
        "sources": sources,
        "used": used | {"evaluation": len(images)},
        "task": task,
        "left_out_sets": survey.left_out_sets,
    }


def attribution(
    survey: Survey, rule: IconRule, pairs: Mapping[Dataset, PairWriter], images: Images
) -> dict[str, Any]:
    """Content of attribution.json: author and licence of every set in use."""
    # Name of a set -> number of its images in each store.
    used: dict[str, Counter[str]] = defaultdict(Counter)
    for name, writer in pairs.items():
        for entry in writer.entries:
            used[entry.set][name] += 1
    for _, entry in images:
        used[entry.set]["evaluation"] += 1

    sets = []
    for set_name, counts in sorted(used.items()):
        credit = survey.credits[set_name]
        sets.append(
            {
                "set": set_name,
                "title": credit.title,
                "copyright": credit.vendor,
                "held_out": credit.vendor in rule.held_out_vendors,
                "license": credit.licence,
                "license_url": credit.licence_url,
                "source": credit.source,
                "package": ICONS.name,
                "version": ICONS.version,
                "images": {store: counts[store] for store in ("cc3m", "cc6m", "evaluation")},
            }
        )
    changes = "rasterised, one-colour drawings coloured, set on a ground"
    return {"changes": changes, "images": sets, "text": [WORDNET_CREDIT]}
