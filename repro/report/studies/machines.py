"""The same trainings on several kinds of machine: how much of a result is rounding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import sqrt
from statistics import fmean, variance
from typing import Any

from repro.report.numbers.evaluations import CLEANCLIP, FinishedRun, Settings
from repro.report.studies.effects import StudyResults
from repro.report.studies.outcomes import MEASURES, VariantOutcome, outcomes
from repro.spec import digest

Cell = tuple[str, str, str | None]
"""Dataset slot, pre-training objective, cleaning size."""
BySeed = dict[int, tuple[frozenset[str], VariantOutcome]]
"""What was computed, and what came of it."""


def repeated(studies: Sequence[StudyResults], settings: Settings) -> list[dict[str, Any]]:
    """Outcomes of the unchanged profile where several kinds of machine trained and cleaned from equal data, code and seeds.

    One row a dataset, objective and cleaning size. `machines` has each one's values by seed; `difference` is the largest
    between machines at one seed, `spread` the standard deviation over seeds on one machine (root of the mean variance).
    """
    runs: dict[str, dict[str, FinishedRun]] = defaultdict(dict)
    for study in studies:
        unchanged = {
            name
            for name, variant in study.outline.variants.items()
            if not variant.overrides and variant.poisoned
        }
        for run in study.runs:
            if run.record.spec.variant in unchanged:
                runs[run.machine].setdefault(run.record.fingerprint, run)
    found: dict[Cell, dict[str, BySeed]] = defaultdict(dict)
    for name, by_fingerprint in runs.items():
        own = list(by_fingerprint.values())
        for (_, dataset, objective, size), by_seed in outcomes(own, settings).items():
            cell: Cell = (dataset, objective, size)
            found[cell][name] = {
                seed: (_asked(own, cell, seed), outcome) for seed, outcome in by_seed.items()
            }
    rows = [
        _row(cell, dict(sorted(by_machine.items())))
        for cell, by_machine in sorted(found.items(), key=str)
    ]
    return [row for row in rows if row]


def _asked(runs: Sequence[FinishedRun], cell: Cell, seed: int) -> frozenset[str]:
    """What was computed for an outcome, whoever computed it: specifications, code and inputs but for the model, which is computed too."""
    dataset, objective, size = cell
    found = set()
    for record in (run.record for run in runs):
        spec = record.spec
        counts = spec.stage == "pretrain" or (spec.clean_size == size and spec.loss == CLEANCLIP)
        if counts and (spec.dataset, spec.pretrain_objective, spec.seed) == (
            dataset,
            objective,
            seed,
        ):
            unnamed = spec.model_copy(update={"variant": ""}).model_dump(mode="json")
            found.add(digest([unnamed, record.code, {**record.inputs, "model": ""}]))
    return frozenset(found)


def _row(cell: Cell, by_machine: dict[str, BySeed]) -> dict[str, Any] | None:
    """The row of a cell, over the seeds for which all its machines computed the same; None if that is not two machines and seeds."""
    shared = set[int].intersection(*map(set, by_machine.values()))
    seeds = sorted(
        seed for seed in shared if len({by_seed[seed][0] for by_seed in by_machine.values()}) == 1
    )
    if len(by_machine) < 2 or len(seeds) < 2:
        return None
    values: dict[str, dict[str, list[float | None]]] = {
        name: {
            measure: [getattr(by_seed[seed][1], measure) for seed in seeds] for measure in MEASURES
        }
        for name, by_seed in by_machine.items()
    }
    difference: dict[str, float | None] = {}
    spread: dict[str, float | None] = {}
    for measure in MEASURES:
        columns = [[value for value in of[measure] if value is not None] for of in values.values()]
        whole = all(len(column) == len(seeds) for column in columns)
        difference[measure] = (
            max(max(at_seed) - min(at_seed) for at_seed in zip(*columns, strict=True))
            if whole
            else None
        )
        spread[measure] = sqrt(fmean(variance(column) for column in columns)) if whole else None
    return {
        "dataset": cell[0],
        "pretrain_objective": cell[1],
        "clean_size": cell[2],
        "seeds": seeds,
        "machines": [{"machine": name, "values": of} for name, of in values.items()],
        "difference": difference,
        "spread": spread,
    }
