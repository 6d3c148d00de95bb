"""A study's outcome as Markdown."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from repro.ledger import Row
from repro.markdown import table_lines
from repro.study.archive import read_archive
from repro.study.spec import Variant, archive_of, load_study

HEADER = (
    "variant",
    "changed",
    "model",
    "seeds",
    "zero-shot top-1 %",
    "ASR %",
    "lowest ASR %",
    "seconds",
    "why",
)


@dataclass(frozen=True)
class _End:
    """The last evaluation of a pre-training."""

    row: Row
    train_seconds: float


def outcome_table(name: str) -> str:
    """For each variant and model, accuracy and ASR at the end of pre-training, by seed."""
    study = load_study(name)
    ends = _ends(name)

    lines = []
    for label, variant in study.variants.items():
        for (of, cell), by_seed in sorted(ends.items()):
            if of == label:
                lines.append(_cells(label, variant, cell, by_seed))

    return "\n".join(table_lines(HEADER, lines)) + "\n"


def _ends(name: str) -> dict[tuple[str, str], dict[int, _End]]:
    """By variant and cell, then by seed."""
    found: dict[tuple[str, str], dict[int, _End]] = defaultdict(dict)
    for record, rows in read_archive(archive_of(name)):
        if record.spec.stage == "pretrain" and rows:
            model = record.spec.variant, record.spec.cell
            found[model][record.spec.seed] = _End(rows[-1], record.train_seconds)
    return found


def _cells(label: str, variant: Variant, cell: str, by_seed: dict[int, _End]) -> list[str]:
    changed = ", ".join(f"`{path}: {value}`" for path, value in variant.overrides.items())
    # The control changes no value: it differs by its pairs.
    if not changed:
        changed = "-" if variant.poisoned else "no poison"

    rows = [by_seed[seed].row for seed in sorted(by_seed)]
    rates = [row.asr("non_target") for row in rows]
    seconds = statistics.mean(end.train_seconds for end in by_seed.values())
    return [
        label,
        changed,
        cell,
        ", ".join(map(str, sorted(by_seed))),
        _percentages(row.accuracy for row in rows),
        _percentages(rates),
        _percentages([min(rates)]),
        f"{seconds:.0f}",
        variant.why,
    ]


def _percentages(fractions: Iterable[float]) -> str:
    return " / ".join(f"{100 * fraction:.1f}" for fraction in fractions)
