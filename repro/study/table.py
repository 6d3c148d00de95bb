"""A study's outcome as Markdown."""

from __future__ import annotations

import statistics
from collections import defaultdict

from repro.ledger import Row
from repro.study.archive import read_archive
from repro.study.spec import archive_of, load_study


def outcome_table(name: str) -> str:
    """The study's outcome as Markdown: for each variant and model, accuracy and ASR at the end of pre-training, by seed."""
    study = load_study(name)
    ends: dict[tuple[str, str], dict[int, tuple[Row, float]]] = defaultdict(dict)
    for record, rows in read_archive(archive_of(name)):
        if record.spec.stage == "pretrain" and rows:
            ends[record.spec.variant, record.spec.cell][record.spec.seed] = (
                rows[-1],
                record.train_seconds,
            )
    lines = [
        "| variant | changed | model | seeds | zero-shot top-1 % | ASR % | lowest ASR % | seconds | why |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for label, variant in study.variants.items():
        changed = ", ".join(f"`{path}: {value}`" for path, value in variant.overrides.items()) or (
            "-" if variant.poisoned else "no poison"
        )
        for (of, cell), runs in sorted(ends.items()):
            if of != label:
                continue
            rows = [runs[seed][0] for seed in sorted(runs)]
            rates = [row.asr("non_target") for row in rows]
            accuracy, attack = (
                " / ".join(f"{100 * value:.1f}" for value in values)
                for values in ([row.accuracy for row in rows], rates)
            )
            seconds = statistics.mean(runs[seed][1] for seed in runs)
            seeds = ", ".join(map(str, sorted(runs)))
            cells = [
                label,
                changed,
                cell,
                seeds,
                accuracy,
                attack,
                f"{100 * min(rates):.1f}",
                f"{seconds:.0f}",
                variant.why,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
