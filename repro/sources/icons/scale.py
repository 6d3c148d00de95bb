"""What a scale takes of the drawings, so that every smaller scale lies in every larger one.

The order is one for all: drawings of the target, then of the scale's concepts, then the others,
each in keyed order. A scale that holds all drawings of its concepts therefore holds every scale
with fewer concepts. cc3m is the half of cc6m whose keyed hash is low, and so nests as cc6m does,
where num_pairs does not cut it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from repro.sources.icons.survey import IconEntry, Key
from repro.spec import Dataset

Keys = set[Key]


def choose_pairs(
    training: Sequence[IconEntry],
    names: Collection[str],
    target: str,
    num_pairs: dict[Dataset, int],
) -> dict[Dataset, Keys]:
    """Set and name of the drawings of each slot."""
    concepts = set(names)

    def place(entry: IconEntry) -> tuple[int, bytes]:
        # The attack needs the target to be learnt, so all its drawings are in every slot.
        if entry.caption == target:
            return 0, entry.rank("pair")
        return (1 if entry.caption in concepts else 2), entry.rank("pair")

    large = sorted(training, key=place)[: num_pairs["cc6m"]]

    # A first byte below 128 of 256 is one half, and the same one at every scale.
    half = [entry for entry in large if entry.caption == target or entry.rank("half")[0] < 128]
    small = half[: num_pairs["cc3m"]]
    return {"cc3m": {entry.key for entry in small}, "cc6m": {entry.key for entry in large}}
