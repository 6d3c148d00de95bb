"""The same trainings on several kinds of machine: how much of a result is rounding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, variance
from typing import NamedTuple

from repro.report.numbers.cells import CLEANCLIP
from repro.report.numbers.evaluations import FinishedRun
from repro.report.numbers.evidence import Settings
from repro.report.schema.studies import BySeedValues, MachineRow
from repro.report.studies.outcomes import MEASURES, VariantCell, VariantOutcome, outcomes
from repro.report.studies.results import StudyResults
from repro.spec import RunSpec, digest


class Made(NamedTuple):
    """An outcome, and what was computed for it, whoever computed it."""

    computed: frozenset[str]
    outcome: VariantOutcome


BySeed = dict[int, Made]


def repeated(studies: Sequence[StudyResults], settings: Settings) -> list[MachineRow]:
    """Outcomes of the unchanged profile where several kinds of machine made equal runs.

    Equal are data, code and seeds. One row a dataset, objective and cleaning size.
    """
    # Variants that change nothing are one experiment, whatever each study calls them.
    found: dict[VariantCell, dict[str, BySeed]] = defaultdict(dict)
    for machine, runs in _unchanged(studies).items():
        for cell, by_seed in outcomes(runs, settings).items():
            unnamed = cell._replace(variant="")
            found[unnamed][machine] = {
                seed: Made(_computed(runs, cell, seed), outcome)
                for seed, outcome in by_seed.items()
            }

    # As text, since a cleaning size may be None, which has no order.
    rows = []
    for cell, by_machine in sorted(found.items(), key=str):
        row = _row(cell, dict(sorted(by_machine.items())))
        if row is not None:
            rows.append(row)
    return rows


def _unchanged(studies: Sequence[StudyResults]) -> dict[str, list[FinishedRun]]:
    """By machine: runs of variants that change nothing, each once whatever studies have it."""
    runs: dict[str, dict[str, FinishedRun]] = defaultdict(dict)
    for study in studies:
        # The control without poison is another experiment, even with the same settings.
        unchanged = {
            name
            for name, variant in study.spec.variants.items()
            if not variant.overrides and variant.poisoned
        }

        # Studies share runs: a fingerprint leaves out the variant's name.
        for run in study.runs:
            if run.record.spec.variant in unchanged:
                runs[run.machine].setdefault(run.record.fingerprint, run)
    return {machine: list(by_fingerprint.values()) for machine, by_fingerprint in runs.items()}


def _computed(runs: Sequence[FinishedRun], cell: VariantCell, seed: int) -> frozenset[str]:
    """What was computed for an outcome: specifications, code and inputs.

    The model that is cleaned is not among them, for it is computed too.
    """
    # Equal sets mean that two machines were given exactly the same to compute.
    found = set()
    for record in (run.record for run in runs):
        if _counts(record.spec, cell, seed):
            # Without the variant's name, and without the hash of the start model, whose bits differ
            # by machine: that is the effect looked for.
            unnamed = record.spec.model_copy(update={"variant": ""}).model_dump(mode="json")
            found.add(digest([unnamed, record.code, {**record.inputs, "model": ""}]))
    return frozenset(found)


def _counts(spec: RunSpec, cell: VariantCell, seed: int) -> bool:
    """Whether a run is part of an outcome: the pre-training, or CleanCLIP with the cell's pairs."""
    if (spec.dataset, spec.pretrain_objective, spec.seed) != (cell.dataset, cell.objective, seed):
        return False

    # A cell's outcome rests on one pre-training and on all CleanCLIP runs of its grid.
    return spec.stage == "pretrain" or (
        spec.clean_size == cell.clean_size and spec.loss == CLEANCLIP
    )


def _row(cell: VariantCell, by_machine: Mapping[str, BySeed]) -> MachineRow | None:
    """The row of a cell, over the seeds for which all its machines computed the same.

    None unless that is two machines and two seeds.
    """
    seeds = _comparable_seeds(by_machine)
    if len(by_machine) < 2 or len(seeds) < 2:
        return None

    # By machine and measure: values seed by seed, all in the same order.
    values: dict[str, BySeedValues] = {}
    for machine, by_seed in by_machine.items():
        of_machine = [by_seed[seed].outcome for seed in seeds]
        values[machine] = {
            name: [outcome.measure(name) for outcome in of_machine] for name in MEASURES
        }

    # Kinds of machine against seeds: the largest range between machines on any seed, beside the
    # standard deviation over seeds within a machine (variances pooled).
    difference: dict[str, float | None] = dict.fromkeys(MEASURES)
    spread: dict[str, float | None] = dict.fromkeys(MEASURES)
    for name in MEASURES:
        columns = [_known(of_machine[name]) for of_machine in values.values()]

        # A missing value would put another seed's beside it, so such a measure stays empty.
        if all(len(column) == len(seeds) for column in columns):
            ranges = [max(at_seed) - min(at_seed) for at_seed in zip(*columns, strict=True)]
            difference[name] = max(ranges)
            spread[name] = sqrt(fmean(variance(column) for column in columns))
    return {
        "dataset": cell.dataset,
        "pretrain_objective": cell.objective,
        "clean_size": cell.clean_size,
        "seeds": seeds,
        "machines": [{"machine": name, "values": of} for name, of in values.items()],
        "difference": difference,
        "spread": spread,
    }


def _comparable_seeds(by_machine: Mapping[str, BySeed]) -> list[int]:
    """Seeds for which all machines computed the same."""
    # First the seeds that every machine has, then those for which the same was computed.
    shared = set[int].intersection(*map(set, by_machine.values()))
    return sorted(
        seed
        for seed in shared
        if len({by_seed[seed].computed for by_seed in by_machine.values()}) == 1
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
