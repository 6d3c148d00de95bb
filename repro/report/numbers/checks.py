"""What is checked before runs are counted together: one chain of models, one set of inputs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from repro.report.format import label
from repro.report.numbers.evaluations import FinishedRun
from repro.runs.version import unaccepted_runs
from repro.spec import RunSpec


def foreign_models(runs: Iterable[FinishedRun]) -> dict[str, str]:
    """Cleaning runs of another model than their pre-training run handed on: folder to reason.

    Nothing can be said where the pre-training run is not there or its record has no model hash.
    """
    runs = list(runs)
    made = {_model(run): run for run in runs if run.record.spec.stage == "pretrain"}
    reasons = {}
    for run in runs:
        source = made.get(_model(run))
        if run.record.spec.stage == "pretrain" or not source or not source.record.model_hash:
            continue
        handed_on, cleaned = source.record.model_hash, run.record.inputs.get("model", "none")
        if cleaned != handed_on:
            reasons[run.folder] = (
                f"cleaned model {cleaned}, but {source.folder} handed on {handed_on}; "
                "run the study again"
            )
    return reasons


def run_notices(runs: Sequence[FinishedRun]) -> list[str]:
    """A line for each way in which runs of one table differ that should not, or are not whole."""
    lines = []
    # Runs of code whose digits nobody has compared.
    if codes := unaccepted_runs(run.record for run in runs):
        lines.append(f"Runs of code that is not accepted: {_counted(Counter(codes))}.")

    # Each input is compared among the runs that should have the same.
    hashes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for run in runs:
        for name, content in run.record.inputs.items():
            hashes[_sharing(run.record.spec, name), name][content] += 1
    for (whose, name), contents in sorted(hashes.items()):
        if len(contents) > 1:
            lines.append(f"{whose} differ in their input `{name}`: {_counted(contents)}.")

    if unhashed := sum(not run.record.files for run in runs):
        lines.append(f"{unhashed} of {len(runs)} runs were recorded without hashes of their files.")
    if diverged := sum(run.diverged for run in runs):
        lines.append(
            f"{diverged} of {len(runs)} runs diverged: their loss was no finite number at some "
            "step. They count with the evaluations that they have."
        )
    return lines


def _model(run: FinishedRun) -> tuple[str, str, int]:
    spec = run.record.spec
    return spec.dataset, spec.pretrain_objective, spec.seed


def _sharing(spec: RunSpec, name: str) -> str:
    """The runs that should have the same input of this name."""
    dataset, objective = label(spec.dataset), label(spec.pretrain_objective)
    if name == "model":
        return f"Cleaning runs of {dataset}, {objective}, seed {spec.seed}"
    return f"Runs of {dataset}" if name == "pairs" else "The runs"


def _counted(values: Counter[str]) -> str:
    """Values with their numbers of runs, the most frequent first."""
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{value} ({number} runs)" for value, number in ordered)
