"""What models make of a few evaluation images, clean and triggered, before and after CleanCLIP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from repro.ledger import LedgerError, Row, sample_images
from repro.report.numbers.cells import CLEANCLIP, SIZES, models
from repro.report.numbers.cleaned import best_under_cap
from repro.report.numbers.evaluations import Point
from repro.report.numbers.evidence import Evidence
from repro.report.schema.results import PredictedModel, ShownPredictions

State = Literal["poisoned", "cleaned"]


def predictions(evidence: Evidence) -> ShownPredictions:
    """Outcomes for the models of the first seed; each is cleaned with the smaller set. None of
    archived runs, which have no bits.

    `images` are those of the gallery (repro/data/samples.py), spread evenly over the evaluation
    set.
    """
    # All models are judged on one evaluation set, so the first tells its size.
    shown = [] if evidence.archived else list(_shown(evidence))
    images = sample_images(shown[0][1].images) if shown else []
    rows = {run.folder: run.rows for run in evidence.runs}
    return {
        "images": images,
        "models": [
            _predicted(evidence, state, point, rows[point.run][point.index], images)
            for state, point in shown
        ],
    }


def _shown(evidence: Evidence) -> Iterator[tuple[State, Point]]:
    """The models, each with the evaluation that is shown of it."""
    # Only the smaller set was used to clean models of both datasets (Table 1 as corrected).
    seed = evidence.settings.seeds[0]
    for dataset, objective in models():
        # Without a start model, or with no evaluation at the cap, that state is not shown.
        start = evidence.start(dataset, objective, seed)
        if start is not None:
            yield "poisoned", start

        points = evidence.cleaning(dataset, objective, SIZES[0], CLEANCLIP, seed)
        best = best_under_cap(points, evidence.settings.cap)
        if best is not None:
            yield "cleaned", best


def _predicted(
    evidence: Evidence, state: State, point: Point, row: Row, images: list[int]
) -> PredictedModel:
    # The whole set's bits (N,); of classes the rows keep those of the shown images only.
    bits = evidence.bits(point)
    correct, attacked = bits["correct"][point.index], bits["attacked"][point.index]
    return {
        "dataset": point.dataset,
        "pretrain_objective": point.objective,
        "state": state,
        "run": point.run,
        "row": point.index,
        "correct": [bool(correct[image]) for image in images],
        "attacked": [bool(attacked[image]) for image in images],
        "classes": _named(evidence, row.sample_classes),
        "classes_triggered": _named(evidence, row.sample_classes_triggered),
    }


def _named(evidence: Evidence, classes: list[int]) -> list[str]:
    """Names of predicted classes; LedgerError for a number that the profile has no class of."""
    # A negative number would silently name a class from the end of the list.
    names = evidence.settings.classnames
    for number in classes:
        if not 0 <= number < len(names):
            raise LedgerError(
                f"sample_classes: {number} (allowed: 0 to {len(names) - 1}, the profile's classes)"
            )
    return [names[number] for number in classes]
