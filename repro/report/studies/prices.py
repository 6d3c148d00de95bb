"""What CleanCLIP costs a model without a backdoor, beside what it costs the poisoned one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from repro.report.schema.studies import EffectRow
from repro.report.studies.words import model_name


class Price(NamedTuple):
    """What the finetuning costs an unpoisoned model and its poisoned twin, as a fraction of the
    images; of models that were cleaned on every seed.
    """

    control: EffectRow
    poisoned: EffectRow
    without_backdoor: float
    with_backdoor: float


def prices(study: Mapping[str, Any]) -> Iterator[Price]:
    """The unpoisoned variants of a study, model by model, beside its reference."""
    # The poisoned twin of each unpoisoned model: same data, size and objective, as its name says.
    reference = {
        model_name(row): row for row in study["rows"] if row["variant"] == study["reference"]
    }
    unpoisoned = [variant["variant"] for variant in study["variants"] if not variant["poisoned"]]
    for name in unpoisoned:
        for row in study["rows"]:
            other = reference.get(model_name(row))
            if row["variant"] != name or other is None:
                continue

            # What the finetuning costs both: the second is not always the dearer one.
            without, with_backdoor = _lost(row), _lost(other)
            if without is not None and with_backdoor is not None:
                yield Price(row, other, without, with_backdoor)


def _lost(row: EffectRow) -> float | None:
    """Mean accuracy before cleaning less the best at the cap; None where a seed was not cleaned."""
    # The two means would be of different seeds.
    if row["not_cleaned"]:
        return None
    before, after = row["means"]["accuracy"], row["means"]["cleaned_accuracy"]
    return None if before is None or after is None else before - after
