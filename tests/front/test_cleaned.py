"""The best cleaned model of a setting is kept, whatever the order of the runs, kills and changes."""

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file

import repro
from repro.ledger import CLEANED, LedgerError, Row, append_row, cleaned_row, pending_rows
from repro.profile import clean_runs, load_profile
from repro.runs.again import reopen_lost
from repro.runs.deliver import deliver
from repro.runs.layout import RESULTS, cleaned_file
from repro.runs.run import Run
from repro.spec import RunSpec
from repro.train import loop
from repro.train.predictions import Predictions
from repro.train.process.stopping import Interrupted
from tests.support.finished import end, finished_run, flip
from tests.support.short_run import run as train_run
from tests.support.short_run import run_spec, signal_at

IMAGES = 100


@pytest.fixture
def specs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """The cleanings of a setting, at three learning rates, in an empty working folder."""
    (tmp_path / "specs").symlink_to(root / "specs")
    monkeypatch.chdir(tmp_path)
    rates = {"clean.cells.0.learning_rates": [1e-4, 3e-4, 1e-3]}
    runs = clean_runs(load_profile("smoke", overrides=rates), "cc3m", "mmcl")
    return [run for run in runs if run.keeps_cleaned]


def ended(spec: RunSpec, *outcomes: tuple[int, int]) -> Run:
    """A run with images classified right and attacked after its last evaluations, not delivered."""
    run = finished_run(spec)
    rows = pending_rows(run.work_dir)
    (run.work_dir / "rows.jsonl").unlink()
    counts = [(90, 90)] * (len(rows) - len(outcomes)) + [*outcomes]
    for row, (right, attacked) in zip(rows, counts, strict=True):
        changes = {
            "num_images": IMAGES,
            "num_correct": right,
            "num_attacked": attacked,
            "num_target": 0,
            "num_target_attacked": 0,
        }
        row = row.model_copy(update=changes)
        append_row(run.work_dir, row)
        keep_if_best(run.work_dir / CLEANED, row, spec)
    end(run)
    return run


def keep_if_best(path: Path, row: Row, spec: RunSpec) -> None:
    """Write weights that tell the learning rate of a row, if no earlier row is as good."""
    rank = row.rank(spec)
    best = cleaned_row(path)
    best_rank = best.rank(spec) if best else None
    if rank and (best_rank is None or rank < best_rank):
        weights = {"weights": torch.tensor(row.learning_rate)}
        save_file(weights, path, {"row": row.model_dump_json()})


OUTCOMES = [
    [(70, 5), (60, 0)],
    [(80, 6), (70, 4)],
    [(65, 0), (69, 0)],
]
"""Of three runs: the second is best, by the lower ASR; its more accurate model is not cleaned."""


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_best_is_kept_in_any_order(specs: list[RunSpec], order: tuple[int, ...]) -> None:
    for number in order:
        run = ended(specs[number], *OUTCOMES[number])
        for _ in range(2):  # a driver that was killed delivers again
            assert deliver(run, RESULTS)
        assert not (run.work_dir / CLEANED).exists()
    kept = cleaned_row(cleaned_file(specs[0]))
    assert kept is not None
    assert kept.run == specs[1].run_id
    assert kept.num_attacked == 4
    assert load_file(cleaned_file(specs[0]))["weights"] == pytest.approx(3e-4)


def test_what_no_run_makes_any_longer_gives_way(specs: list[RunSpec]) -> None:
    """To the best of the others, which runs again: its weights were thrown away as second."""
    first, best, last = (
        ended(spec, *outcomes) for spec, outcomes in zip(specs, OUTCOMES, strict=True)
    )
    for run in (best, first, last):
        assert deliver(run, RESULTS)
    assert reopen_lost([first, best, last], [], RESULTS) == []
    left = [first, last]
    assert reopen_lost(left, [last], RESULTS) == [first]
    assert not cleaned_file(specs[0]).exists()

    # What a call that ended early has begun goes on.
    begun = first.work_dir / "rows.jsonl"
    begun.write_text("begun")
    assert reopen_lost(left, [], RESULTS) == [first]
    assert begun.exists()
    begun.unlink()
    assert deliver(ended(specs[0], *OUTCOMES[0]), RESULTS)
    assert reopen_lost(left, [], RESULTS) == []
    assert load_file(cleaned_file(specs[0]))["weights"] == pytest.approx(1e-4)


def test_a_model_that_is_not_the_best_of_the_results_is_not_loaded(specs: list[RunSpec]) -> None:
    path = cleaned_file(specs[1])
    with pytest.raises(
        LedgerError, match=r"cleaned on 100k: no such model in models/ .there: no model"
    ):
        repro.load("smoke", "cc3m-mmcl", clean="100k")
    assert deliver(ended(specs[1], *OUTCOMES[1]), RESULTS)
    right = path.read_bytes()
    flip(path, len(right) - 1)
    with pytest.raises(LedgerError, match="not the weights that the best run"):
        repro.load("smoke", "cc3m-mmcl", clean="100k")

    # Another run is better by the results, but its weights were lost.
    better = ended(specs[2], (90, 0))
    (better.work_dir / CLEANED).unlink()
    assert deliver(better, RESULTS)
    assert path.write_bytes(right)
    with pytest.raises(LedgerError, match="not the weights that the best run"):
        repro.load("smoke", "cc3m-mmcl", clean="100k")


@pytest.mark.parametrize("step", [2, 5])
def test_a_run_keeps_the_weights_of_its_best_evaluation_bitwise_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(loop, "METRIC_EVERY", 1)
    right = {0: 5, 3: 2, 4: 3, 7: 1, 8: 3}
    seen: dict[int, torch.Tensor] = {}

    def evaluate(model: CLIP, step: int, *_: Any) -> Predictions:
        seen[step] = model.visual.conv1.weight.detach().clone()
        classes = np.arange(5)
        attacked = np.zeros(5, bool)
        return Predictions(classes < right[step], attacked, classes, classes)

    spec = run_spec()
    train_run(tmp_path / "whole", spec, evaluate)
    with pytest.raises(Interrupted):
        train_run(tmp_path / "parts", spec, evaluate, emit=signal_at(step))
    train_run(tmp_path / "parts", spec, evaluate)

    whole = tmp_path / "whole" / CLEANED
    parts = tmp_path / "parts" / CLEANED
    assert whole.read_bytes() == parts.read_bytes()
    row = cleaned_row(whole)
    assert row is not None
    assert row.step == 4
    assert torch.equal(load_file(whole)["visual.conv1.weight"], seen[4])
