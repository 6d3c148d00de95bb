"""The same trainings on several kinds of machine: how much of a result is rounding."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from math import sqrt
from typing import Any

from repro.report.outcomes import MEASURES, Outcome, outcomes
from repro.report.points import CLEANCLIP, Run, Settings
from repro.report.studies import SideStudy
from repro.spec import digest

Cell = tuple[str, str, str | None]
"""Dataset slot, pre-training objective, cleaning size."""


def repeated(studies: Sequence[SideStudy], settings: Settings) -> list[dict[str, Any]]:
    """Outcomes of the unchanged profile where several kinds of machine trained and cleaned from equal data, code and seeds.

    One row a dataset, objective and cleaning size. `machines` has each one's values by seed; `difference` is the largest
    between machines at one seed, `spread` the standard deviation over seeds on one machine (root of the mean variance).
    """
    runs: dict[str, dict[str, Run]] = defaultdict(dict)
    for study in studies:
        unchanged = {name for name, variant in study.outline.variants.items() if not variant.overrides and variant.poisoned}
        for run in study.runs:
            if run.record.spec.variant in unchanged:
                runs[run.machine].setdefault(run.record.fingerprint, run)
    found: dict[Cell, dict[str, dict[int, tuple[frozenset[str], Outcome]]]] = defaultdict(lambda: defaultdict(dict))
    for name, by_fingerprint in runs.items():
        own = list(by_fingerprint.values())
        for (_, *cell, size), by_seed in outcomes(own, settings).items():
            for seed, outcome in by_seed.items():
                found[cell[0], cell[1], size][name][seed] = (_asked(own, (cell[0], cell[1], size), seed), outcome)
    rows = [_row(cell, dict(sorted(by_machine.items()))) for cell, by_machine in sorted(found.items(), key=str)]
    return [row for row in rows if row]


def _asked(runs: Sequence[Run], cell: Cell, seed: int) -> frozenset[str]:
    """What was computed for an outcome, whoever computed it: specifications, code and inputs but for the model, which is computed too."""
    specs = [
        (run.record, run.record.spec) for run in runs
        if (run.record.spec.dataset, run.record.spec.pretrain_objective, run.record.spec.seed) == (*cell[:2], seed)
    ]  # fmt: skip
    return frozenset(
        digest([spec.model_copy(update={"variant": ""}).model_dump(mode="json"), record.code, {**record.inputs, "model": ""}])
        for record, spec in specs if spec.stage == "pretrain" or (spec.clean_size == cell[2] and spec.loss == CLEANCLIP)
    )  # fmt: skip


def _row(cell: Cell, by_machine: dict[str, dict[int, tuple[frozenset[str], Outcome]]]) -> dict[str, Any] | None:
    """The row of a cell, over the seeds for which all its machines computed the same; None if that is not two machines and seeds."""
    shared = set[int].intersection(*map(set, by_machine.values()))
    seeds = sorted(seed for seed in shared if len({by_seed[seed][0] for by_seed in by_machine.values()}) == 1)
    if len(by_machine) < 2 or len(seeds) < 2:
        return None
    values: dict[str, dict[str, list[float | None]]] = {
        name: {measure: [getattr(by_seed[seed][1], measure) for seed in seeds] for measure in MEASURES}
        for name, by_seed in by_machine.items()
    }
    difference: dict[str, float | None] = {}
    spread: dict[str, float | None] = {}
    for measure in MEASURES:
        columns = [[value for value in of[measure] if value is not None] for of in values.values()]
        whole = all(len(column) == len(seeds) for column in columns)
        difference[measure] = max(max(at_seed) - min(at_seed) for at_seed in zip(*columns, strict=True)) if whole else None
        spread[measure] = sqrt(statistics.mean(statistics.variance(column) for column in columns)) if whole else None
    return {
        "dataset": cell[0], "pretrain_objective": cell[1], "clean_size": cell[2], "seeds": seeds,
        "machines": [{"machine": name, "values": of} for name, of in values.items()], "difference": difference, "spread": spread,
    }  # fmt: skip
