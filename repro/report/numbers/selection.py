"""How far the choice of the best evaluation carries: chosen on half of the images, over caps, over
budgets.

Shapes: R = evaluations, N = images, S = splits. Shares are fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from repro.report.numbers.cells import CLEANCLIP, DATASETS, SIZES, Cell, cells
from repro.report.numbers.cleaned import authors_or_printed_start, best_under_cap
from repro.report.numbers.evaluations import Point
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.paper import Paper
from repro.report.schema.base import Source
from repro.report.schema.results import BestOfN, CapSweep, HonestSelection, Selection

NOT_CLEANED = -1.0
"""Below every accuracy: where a try that cleans nothing stands among the others."""
SPLITS = 200
"""Random halvings of the evaluation images for the honest choice."""


def select_on_halves(
    correct: NDArray[np.bool_],
    attacked: NDArray[np.bool_],
    attackable: NDArray[np.bool_],
    cap: float,
    splits: int,
    seed: int,
) -> Selection:
    """Repeat the choice of Table 1 honestly.

    `correct`, `attacked`: (R, N); `attackable`: (N,), the images in the denominator of the ASR.
    Ties in accuracy go to the lower ASR, then to the earlier evaluation.
    """
    # A choice looks too good on its own images: so choose on one half, measure on the other.
    images = correct.shape[1]
    masks = _halves(images, splits, seed)

    def count(bits: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(..., N) to (..., S + 1): images of each half; exact below 2^24."""
        return (bits.astype(np.float32) @ masks).astype(np.float64)

    # (S + 1,) images of each half, and those that an ASR is a share of; (R, S + 1) attacked ones.
    sizes = count(np.ones(images, bool))
    bases = count(attackable)
    hits = count(attacked & attackable)

    # Only evaluations that meet the cap somewhere can be chosen, so only their accuracy is counted.
    # From here on R is the number of those.
    able = np.flatnonzero((hits / bases <= cap).any(1))
    hits, right = hits[able], count(correct[able])
    accuracy, asr = right / sizes, hits / bases

    # The last column is of all images.
    best = _best(accuracy[:, -1], asr[:, -1], cap)
    naive = None if best is None else float(accuracy[best, -1])

    accuracies, rates = [], []
    for split in range(splits):
        row = _best(accuracy[:, split], asr[:, split], cap)
        if row is None:
            continue
        # The other half is what the first one lacks of all images, the last column.
        other_right = right[row, -1] - right[row, split]
        other_hits = hits[row, -1] - hits[row, split]
        accuracies.append(float(other_right / (sizes[-1] - sizes[split])))
        rates.append(float(other_hits / (bases[-1] - bases[split])))

    if not accuracies:
        return {
            "splits": splits,
            "chosen": 0,
            "naive": naive,
            "accuracy": None,
            "accuracy_range": None,
            "asr": None,
            "held": None,
        }
    # The range is over splits, not an interval of the accuracy: halves of one set overlap.
    low, high = np.quantile(accuracies, [0.025, 0.975])
    return {
        "splits": splits,
        "chosen": len(accuracies),
        "naive": naive,
        "accuracy": fmean(accuracies),
        "accuracy_range": (float(low), float(high)),
        "asr": fmean(rates),
        "held": sum(rate <= cap for rate in rates) / len(rates),
    }


def threshold_sweep(accuracy: Sequence[float], asr: Sequence[float]) -> list[tuple[float, float]]:
    """Best accuracy as a function of the cap: its steps (cap, accuracy), both rising."""
    # Let the cap rise: at each ASR that occurs, the best model so far may be replaced.
    by_rate = sorted(zip(asr, accuracy, strict=True), key=lambda pair: (pair[0], -pair[1]))
    steps: list[tuple[float, float]] = []
    for rate, value in by_rate:
        if not steps or value > steps[-1][1]:
            steps.append((rate, value))
    return steps


def best_of_n(
    scores: Sequence[float | None], confidence: float
) -> list[tuple[int, float | None, float | None, float | None]]:
    """Median best score after trying n learning rates, with a simultaneous band (opda, DKW).

    `scores`: the best accuracy at ASR <= cap of each run, None where none met the cap. Rows are (n,
    low, median, high); None of these is a best of n that cleans nothing. Treats the learning rates
    as draws from one distribution, which a grid is only roughly.
    """
    from opda.nonparametric import EmpiricalDistribution  # half a second

    # Medians and bands need an order only: what cleans nothing comes before all that does.
    # Accuracies are at most 1, so the distribution lies within a and b.
    sizes = np.arange(1, len(scores) + 1)
    ranked = [NOT_CLEANED if score is None else score for score in scores]
    low, middle, high = EmpiricalDistribution.confidence_bands(
        ys=np.asarray(ranked, float), confidence=confidence, a=NOT_CLEANED, b=1.0, method="dkw"
    )

    # The lower band of the distribution is the upper one of the scores.
    curves = [distribution.quantile_tuning_curve(sizes) for distribution in (high, middle, low)]
    return [
        (int(n), _cleaned(lowest), _cleaned(median), _cleaned(highest))
        for n, lowest, median, highest in zip(sizes, *curves, strict=True)
    ]


def _cleaned(score: float) -> float | None:
    """A score as an accuracy; None where nothing was cleaned."""
    return None if score < 0 else float(score)


def honest_selection(evidence: Evidence) -> list[HonestSelection]:
    """Choice on half of the images, measured on the others: every cell, first seed. None of
    archived runs, which have no bits.
    """
    rows: list[HonestSelection] = []
    if evidence.archived:
        return rows

    for cell in cells():
        points = _cleancliped(evidence, cell)
        if not points:
            continue

        # Bits are read once for each run, not once for each of its evaluations.
        first_of_run = {point.run: point for point in reversed(points)}
        bits = {run: evidence.bits(point) for run, point in first_of_run.items()}

        # All runs were evaluated on the same images, so the target's may come from any run.
        target = bits[points[0].run]["is_target"]
        every_image = evidence.settings.denominator == "all"
        found = select_on_halves(
            np.stack([bits[point.run]["correct"][point.index] for point in points]),
            np.stack([bits[point.run]["attacked"][point.index] for point in points]),
            np.ones_like(target) if every_image else ~target,
            evidence.settings.cap,
            SPLITS,
            seed=0,
        )
        rows.append({**cell.keys, **found})
    return rows


def budget_curves(evidence: Evidence) -> list[BestOfN]:
    """Best-of-n curves: what the search over learning rates buys in every cell (first seed)."""
    rows: list[BestOfN] = []
    for cell in cells():
        # One run is one learning rate, as only the first seed is looked at.
        by_run: dict[str, list[Point]] = {}
        for point in _cleancliped(evidence, cell):
            by_run.setdefault(point.run, []).append(point)
        if not by_run:
            continue

        # A learning rate by which nothing was cleaned is a failed try, and no accuracy.
        best = [best_under_cap(points, evidence.settings.cap) for points in by_run.values()]
        scores = [point and point.accuracy for point in best]
        curve = best_of_n(scores, evidence.settings.confidence)
        rows.append({**cell.keys, "scores": scores, "curve": curve})
    return rows


def cap_sweeps(evidence: Evidence, paper: Paper) -> list[CapSweep]:
    """Best accuracy against the ASR cap, for every cell and source; ours of the first seed."""
    rows: list[CapSweep] = []
    for cell in cells([(dataset, size) for dataset in DATASETS for size in SIZES]):
        # Sweeps need counts only, so the authors' points have theirs as well.
        for source in ("ledger", "authors"):
            row = _sweep_row(evidence, paper, cell, source)
            if row is not None:
                rows.append(row)
    return rows


def _sweep_row(evidence: Evidence, paper: Paper, cell: Cell, source: Source) -> CapSweep | None:
    # The authors tell no seed.
    seed = evidence.settings.seeds[0] if source == "ledger" else None
    points = evidence.cleaning(
        cell.dataset, cell.objective, cell.clean_size, CLEANCLIP, seed, source
    )
    if not points:
        return None

    # What the kept accuracy is a share of; the authors' CC6M start is printed only.
    if seed is None:
        start = authors_or_printed_start(evidence, paper, cell)
    else:
        start = evidence.start(cell.dataset, cell.objective, seed)
    return {
        **cell.keys,
        "source": source,
        "start": start and start.accuracy,
        "steps": threshold_sweep(
            [point.accuracy for point in points], [point.asr for point in points]
        ),
    }


def _cleancliped(evidence: Evidence, cell: Cell) -> list[Point]:
    """Evaluations of CleanCLIP in a cell, of the first seed."""
    seed = evidence.settings.seeds[0]
    return evidence.cleaning(cell.dataset, cell.objective, cell.clean_size, CLEANCLIP, seed)


def _halves(images: int, splits: int, seed: int) -> NDArray[np.float32]:
    """(N, S + 1): members of one half of each random split; the last column holds all images."""
    # Seeded, so that `verify` finds the same halves as the report.
    generator = np.random.Generator(np.random.PCG64(seed))
    halves = [generator.permutation(images) < images // 2 for _ in range(splits)]
    return np.stack([*halves, np.ones(images, bool)]).astype(np.float32).T


def _best(accuracy: NDArray[np.float64], asr: NDArray[np.float64], cap: float) -> int | None:
    # Of the evaluations that meet the cap, by row.
    allowed = np.flatnonzero(asr <= cap)
    if not allowed.size:
        return None

    # Lexsort's last key is its first: accuracy downwards, then ASR, then row.
    order = np.lexsort((allowed, asr[allowed], -accuracy[allowed]))
    return int(allowed[order[0]])
