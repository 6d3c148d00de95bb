"""A study's outcome as Markdown: its pre-trainings, and by learning rate what cleaning made of the
models.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from repro.ledger import Row
from repro.markdown import table_lines
from repro.study.archive import ArchivedRun, read_archive
from repro.study.spec import Study, Variant, archive_of, load_study, varied

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


class _Finetuning(NamedTuple):
    """What the runs of a line share beside their variant."""

    cell: str
    loss: str
    clean_size: str
    learning_rate: float


def outcome_table(name: str) -> str:
    """For each variant and model, accuracy and ASR at the end of pre-training, by seed; where the
    study cleans, a second table of what each learning rate makes of them.
    """
    study = load_study(name)
    runs = read_archive(archive_of(name))
    ends = _ends(runs)

    lines = []
    for label, variant in study.variants.items():
        for (of, cell), by_seed in sorted(ends.items()):
            if of == label:
                lines.append(_cells(label, variant, cell, by_seed))

    tables = [table_lines(HEADER, lines)] if lines else []
    if "clean" in study.stages:
        tables.append(table_lines(CLEANING_HEADER, _cleaning_lines(study, runs)))
    return "\n\n".join("\n".join(table) for table in tables) + "\n"


def _cleaning_lines(study: Study, runs: Iterable[ArchivedRun]) -> list[list[str]]:
    """One line a variant, cell and learning rate, in the order of the study's file."""
    found: dict[str, dict[_Finetuning, dict[int, list[Row]]]] = defaultdict(dict)
    for record, rows in runs:
        spec = record.spec
        if spec.stage == "clean" and rows:
            rate = spec.schedule.learning_rate
            finetuning = _Finetuning(spec.cell, spec.loss, str(spec.clean_size), rate)
            found[spec.variant].setdefault(finetuning, {})[spec.seed] = rows

    lines = []
    for label, variant in study.variants.items():
        cap = varied(study, variant).evaluate.asr_cap
        for finetuning, by_seed in sorted(found[label].items()):
            seeds = sorted(by_seed)
            tried = [by_seed[seed] for seed in seeds]
            lines.append(
                [
                    label,
                    _changed(variant),
                    finetuning.cell,
                    finetuning.loss,
                    finetuning.clean_size,
                    " / ".join(sorted({str(rows[-1].step) for rows in tried})),
                    f"{finetuning.learning_rate:g}",
                    ", ".join(map(str, seeds)),
                    "; ".join(_shown(rows[0]) for rows in tried),
                    "; ".join(_best_at(rows, cap) for rows in tried),
                    "; ".join(_shown(rows[-1]) for rows in tried),
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


def _ends(runs: Iterable[ArchivedRun]) -> dict[tuple[str, str], dict[int, _End]]:
    """By variant and cell, then by seed."""
    found: dict[tuple[str, str], dict[int, _End]] = defaultdict(dict)
    for record, rows in runs:
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
