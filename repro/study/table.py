"""A study's outcome as one Markdown table: a line for each training, its seeds side by side."""

from __future__ import annotations

from collections import defaultdict

from repro.ledger import Row
from repro.markdown import table_lines
from repro.study.archive import read_archive
from repro.study.spec import Variant, archive_of, load_study, varied

HEADER = (
    "variant",
    "changed",
    "model",
    "training",
    "steps",
    "seeds",
    "start: top-1 / ASR %",
    "best at the ASR threshold: top-1 / ASR % (lost)",
    "end: top-1 / ASR %",
)


def outcome_table(name: str) -> str:
    """Zero-shot top-1 accuracy and ASR at start and end of each training of a study, and of the
    most accurate evaluation with an ASR up to the threshold.
    """
    study = load_study(name)
    runs: dict[tuple[str, str, str], dict[int, list[Row]]] = defaultdict(dict)
    for record, rows in read_archive(archive_of(name)):
        spec = record.spec
        training = "pre-training"
        if spec.stage == "clean":
            training = f"{spec.loss}, {spec.clean_size}, {spec.schedule.learning_rate:g}"
        if rows and spec.variant in study.variants:
            runs[spec.variant, spec.cell, training][spec.seed] = rows

    lines = []
    order = list(study.variants)
    for key in sorted(runs, key=lambda key: (order.index(key[0]), key[2] != "pre-training", key)):
        label, cell, training = key
        by_seed = sorted(runs[key].items())
        cap = varied(study, study.variants[label]).evaluate.asr_cap
        lines.append(
            [
                label,
                _changed(study.variants[label]),
                cell,
                training,
                " / ".join(sorted({str(rows[-1].step) for _, rows in by_seed})),
                ", ".join(str(seed) for seed, _ in by_seed),
                "; ".join(_percent(rows[0]) for _, rows in by_seed),
                "; ".join(_best_at(rows, cap) for _, rows in by_seed),
                "; ".join(_percent(rows[-1]) for _, rows in by_seed),
            ]
        )
    return "\n".join(table_lines(HEADER, lines)) + "\n"


def _percent(row: Row) -> str:
    return f"{100 * row.accuracy:.1f} / {100 * row.asr('non_target'):.1f}"


def _best_at(rows: list[Row], cap: float) -> str:
    """The most accurate evaluation after the start whose ASR is at most `cap`."""
    allowed = [row for row in rows[1:] if row.asr("non_target") <= cap]
    if not allowed:
        return "none"
    best = max(allowed, key=lambda row: row.accuracy)
    return f"{_percent(best)} ({1 - best.accuracy / rows[0].accuracy:.1%})"


def _changed(variant: Variant) -> str:
    changed = ", ".join(f"`{path}: {value}`" for path, value in variant.overrides.items())
    # The control changes no value: it differs by its pairs.
    return changed or ("-" if variant.poisoned else "no poison")
