"""A study's outcome as Markdown: its pre-trainings, and by learning rate what cleaning made of the
models.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from repro.ledger import Row
from repro.markdown import table_lines
from repro.study.archive import read_archive
from repro.study.spec import Variant, archive_of, load_study, varied

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


CLEANING_HEADER = (
    "variant",
    "changed",
    "model",
    "loss",
    "pairs",
    "steps",
    "learning rate",
    "seeds",
    "start: top-1 / ASR %",
    "best at the cap: top-1 / ASR % (lost)",
    "end: top-1 / ASR %",
)


@dataclass(frozen=True)
class _End:
    """The last evaluation of a pre-training."""

    row: Row
    train_seconds: float


def outcome_table(name: str) -> str:
    """For each variant and model, accuracy and ASR at the end of pre-training, by seed; where the
    study cleans, a second table of what each learning rate makes of them.
    """
    study = load_study(name)
    ends = _ends(name)

    lines = []
    for label, variant in study.variants.items():
        for (of, cell), by_seed in sorted(ends.items()):
            if of == label:
                lines.append(_cells(label, variant, cell, by_seed))

    tables = [table_lines(HEADER, lines)] if lines else []
    if "clean" in study.stages:
        tables.append(table_lines(CLEANING_HEADER, _cleaning_lines(name)))
    return "\n\n".join("\n".join(table) for table in tables) + "\n"


def _cleaning_lines(name: str) -> list[list[str]]:
    """One line a variant, cell and learning rate, in the order of the study's file."""
    study = load_study(name)
    found: dict[tuple[str, str, str, str, float], dict[int, list[Row]]] = defaultdict(dict)
    for record, rows in read_archive(archive_of(name)):
        spec = record.spec
        if spec.stage == "clean" and rows and spec.loss is not None:
            size = f"{spec.clean_size}"
            rate = spec.schedule.learning_rate
            found[spec.variant, spec.cell, spec.loss, size, rate][spec.seed] = rows

    order = list(study.variants)
    lines = []
    for key in sorted(found, key=lambda item: (order.index(item[0]), item[1:])):
        label, cell, loss, size, rate = key
        by_seed = found[key]
        variant = study.variants[label]
        cap = varied(study, variant).evaluate.asr_cap
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        lines.append(
            [
                label,
                _changed(variant),
                cell,
                loss,
                size,
                " / ".join(sorted({str(rows[-1].step) for rows in runs})),
                f"{rate:g}",
                ", ".join(map(str, sorted(by_seed))),
                "; ".join(_shown(rows[0]) for rows in runs),
                "; ".join(_best_at(rows, cap) for rows in runs),
                "; ".join(_shown(rows[-1]) for rows in runs),
            ]
        )
    return lines


def _shown(row: Row) -> str:
    return f"{100 * row.accuracy:.1f} / {100 * row.asr('non_target'):.1f}"


def _best_at(rows: Sequence[Row], cap: float) -> str:
    """The most accurate evaluation after the start whose ASR is at most the cap."""
    allowed = [row for row in rows[1:] if row.asr("non_target") <= cap]
    if not allowed:
        return "none"
    best = max(allowed, key=lambda row: row.accuracy)
    return f"{_shown(best)} ({1 - best.accuracy / rows[0].accuracy:.1%})"


def _ends(name: str) -> dict[tuple[str, str], dict[int, _End]]:
    """By variant and cell, then by seed."""
    found: dict[tuple[str, str], dict[int, _End]] = defaultdict(dict)
    for record, rows in read_archive(archive_of(name)):
        if record.spec.stage == "pretrain" and rows:
            model = record.spec.variant, record.spec.cell
            found[model][record.spec.seed] = _End(rows[-1], record.train_seconds)
    return found


def _changed(variant: Variant) -> str:
    changed = ", ".join(f"`{path}: {value}`" for path, value in variant.overrides.items())
    # The control changes no value: it differs by its pairs.
    return changed or ("-" if variant.poisoned else "no poison")


def _cells(label: str, variant: Variant, cell: str, by_seed: dict[int, _End]) -> list[str]:
    rows = [by_seed[seed].row for seed in sorted(by_seed)]
    rates = [row.asr("non_target") for row in rows]
    seconds = statistics.mean(end.train_seconds for end in by_seed.values())
    return [
        label,
        _changed(variant),
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
