"""What is checked before runs are counted together: are they of one chain, one code, one set of
inputs?
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from repro.report.format import label
from repro.report.numbers.evaluations import FinishedRun
from repro.spec import Dataset, Objective, RunSpec


class SeedModel(NamedTuple):
    """A pre-trained model of one seed."""

    dataset: Dataset
    objective: Objective
    seed: int

    @classmethod
    def of(cls, spec: RunSpec) -> SeedModel:
        """The model that a run makes or cleans."""
        return cls(spec.dataset, spec.pretrain_objective, spec.seed)


def foreign_models(runs: Iterable[FinishedRun]) -> dict[str, str]:
    """Cleaning runs of another model than their pre-training run handed on: folder to reason.

    Where the pre-training run is not there, or tells no hash because it was made before there were
    any, nothing can be said.
    """
    # A cleaning run and its pre-training run have dataset, objective and seed in common.
    made: dict[SeedModel, FinishedRun] = {}
    cleaning: list[FinishedRun] = []
    for run in runs:
        if run.record.spec.stage == "pretrain":
            made[SeedModel.of(run.record.spec)] = run
        else:
            cleaning.append(run)

    # What a pre-training run says it handed on, against the input that the cleaning run hashed.
    reasons = {}
    for run in cleaning:
        source = made.get(SeedModel.of(run.record.spec))
        if source is None or not source.record.model_hash:
            continue
        handed_on, cleaned = source.record.model_hash, run.record.inputs.get("model", "none")
        if cleaned != handed_on:
            reasons[run.folder] = (
                f"cleaned model {cleaned}, but {source.folder} handed on {handed_on}; "
                "run the study again"
            )
    return reasons


def mixed_runs(runs: Sequence[FinishedRun]) -> list[str]:
    """A line wherever runs of one table differ in code, or in an input that they should share."""
    lines = []

    # One table from two states of the code may compare the code instead of the models.
    codes = Counter(run.record.code for run in runs)
    if len(codes) > 1:
        lines.append(f"The runs differ in code: {_counted(codes)}.")

    # A user may let a run that began under older code go on; the table still tells it.
    accepted = Counter(run.record.accepted_code for run in runs if run.record.accepted_code)
    if accepted:
        lines.append(f"Runs that began under older code, which was accepted: {_counted(accepted)}.")

    # Runs that should have read the same pairs or images and did not.
    for whose, name, hashes in _inputs(runs):
        if len(hashes) > 1:
            lines.append(f"{whose} differ in their input `{name}`: {_counted(hashes)}.")
    return lines


def unhashed_runs(runs: Sequence[FinishedRun]) -> list[str]:
    """A line that says how many runs tell no hashes of their files."""
    number = sum(not run.record.files for run in runs)
    if not number:
        return []
    return [
        f"{number} of {len(runs)} runs were recorded without hashes of their files: that rows, "
        "bits and models are whole cannot be shown of them."
    ]


def diverged_runs(runs: Sequence[FinishedRun]) -> list[str]:
    """A line that says how many runs diverged, for their numbers stand in the tables."""
    number = sum(run.diverged for run in runs)
    if not number:
        return []
    return [
        f"{number} of {len(runs)} runs diverged: their loss was no finite number at some step. "
        "They count with the evaluations that they have."
    ]


def _inputs(runs: Sequence[FinishedRun]) -> Iterator[tuple[str, str, Counter[str]]]:
    """Who shares an input, its name, and how many runs had which content."""
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for run in runs:
        # Counted within the group of runs that ought to agree, not over the whole table.
        for name, content in run.record.inputs.items():
            found[_sharing(run.record.spec, name), name][content] += 1
    for (whose, name), hashes in sorted(found.items()):
        yield whose, name, hashes


def _sharing(spec: RunSpec, name: str) -> str:
    """The runs that should have the same input of this name."""
    dataset, objective = label(spec.dataset), label(spec.pretrain_objective)

    # A start model is shared by one seed's runs, pairs by a dataset's, all else by everyone.
    if name == "model":
        return f"Cleaning runs of {dataset}, {objective}, seed {spec.seed}"
    if name == "pairs":
        return f"Runs of {dataset}"
    return "The runs"


def _counted(values: Counter[str]) -> str:
    """Values with their numbers of runs, the most frequent first."""
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{value} ({number} runs)" for value, number in ordered)
