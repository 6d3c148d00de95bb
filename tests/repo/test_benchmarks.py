"""The benchmarks compare like with like: the same loss, the same step, the same accuracy."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import measures, reference
from benchmarks.timing import compare
from benchmarks.workload import RATE, Trainer, Workload, save_model
from repro.data.keyed import keyed_rng
from repro.profile import clean_runs, load_profile
from repro.spec import RunSpec
from repro.train.model import normalise
from tests.support.evaluation import write_rows
from tests.support.short_run import scheduled

NAMES = ["apple", "banana", "cherry pie", "date", "elderberry jam"]
BATCH = 12


def small_spec() -> RunSpec:
    runs = clean_runs(load_profile("smoke"))
    run = next(run for run in runs if run.loss == "mmcl_ssl" and run.clean_size == "100k")
    return scheduled(run, global_batch_size=BATCH, norm_batch_size=BATCH, epochs=2)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """30 pairs and 20 evaluation images of noise, captions of different lengths."""
    folder = tmp_path_factory.mktemp("workload")
    spec = small_spec()
    size = spec.model.vision.image_size
    pairs, evaluation = folder / "pairs", folder / "evaluation"

    pixels = keyed_rng("pixels").integers(0, 256, (30, size, size, 3), dtype=np.uint8)
    rows = []
    for row, image in enumerate(pixels):
        label = row % len(NAMES)
        caption = f"{'very ' * (row % 7)}nice picture of {NAMES[label]}"
        rows.append((image, caption, label))
    write_rows(pairs, rows)
    write_rows(evaluation, rows[:20])
    parts = {"100k": np.arange(2, 30), "poisoned": np.arange(2)}
    np.savez(pairs / "rows.npz", **parts)
    (evaluation / "classnames.txt").write_text("".join(f"{name}\n" for name in NAMES))
    synonyms = {"lemmas": {"noun": {"picture": ["image"]}}, "exceptions": {}}
    (folder / "synonyms").write_text(json.dumps(synonyms))

    inputs = {
        "pairs": pairs,
        "evaluation": evaluation,
        "model": folder / "model",
        "synonyms": folder / "synonyms",
    }
    found = Workload([spec], inputs)
    save_model(found)
    return found


def reference_model(workload: Workload) -> reference.CLIP:
    weights = workload.inputs["model"] / "model.safetensors"
    return reference.build_model(workload.spec.model, weights)


def as_reference_takes_it(
    images: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of ours, (V, b, ...), with normalised pixels and 77 tokens, as (b, V, ...)."""
    padded = torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[-1]))
    pixels = torch.stack([normalise(view) for view in images])
    return pixels.transpose(0, 1).contiguous(), padded.transpose(0, 1)


def test_both_sides_compute_the_same_loss_and_step(workload: Workload, tmp_path: Path) -> None:
    """The losses after a step agree only if the steps did; they fall, so there were steps."""
    ours = Trainer(workload.spec, workload.model())
    theirs = reference_model(workload)
    theirs.train()
    optimizer = reference.build_optimizer(theirs, workload.spec)
    images, tokens = workload.pairs(tmp_path)[0]
    assert images.shape[:2] == (2, BATCH)
    assert tokens.shape[-1] < 77
    losses = [ours.step(images, tokens) for _ in range(4)]
    told = (*as_reference_takes_it(images, tokens), workload.spec, RATE)
    expected = [reference.training_step(theirs, optimizer, *told) for _ in range(4)]
    assert losses == pytest.approx(expected, rel=2e-5)
    assert np.diff(losses).max() < -1e-3


def test_both_sides_count_the_same_images(workload: Workload, tmp_path: Path) -> None:
    outcome = workload.evaluate(workload.model(), tmp_path)
    store = reference.PairStore.open(workload.inputs["evaluation"])
    model = reference_model(workload)
    correct, attacked = reference.evaluate(model, workload.spec, store, workload.names)
    assert correct == outcome.correct.sum()
    assert attacked == outcome.attacked.sum()
    assert 0 < correct < len(store)


def test_both_sides_load_the_same_pixels_and_tokens(workload: Workload, tmp_path: Path) -> None:
    """Without augmentation of the base view the order is all that differs."""
    still = workload.spec.views.model_copy(update={"shift_pixels": 0, "flip": False})
    plain = workload.spec.model_copy(update={"views": still})
    synonyms = workload.inputs["synonyms"]
    theirs = reference.Pairs(plain, workload.store, workload.rows, synonyms)
    ours = Workload([plain], workload.inputs).pairs(tmp_path)

    images, tokens = as_reference_takes_it(*ours[0])

    assert len(tokens) == BATCH
    for position, pixels, ids in zip(ours.positions(0), images, tokens, strict=True):
        expected_pixels, expected_ids = theirs[int(position)]
        torch.testing.assert_close(pixels[0], expected_pixels[0])
        assert torch.equal(ids[0], expected_ids[0])
        if plain.switches.text_view == "fixed":
            assert torch.equal(ids[1], expected_ids[1])


def test_both_sides_clean_from_start_to_last_row(
    workload: Workload, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher takes the start model, and every run leaves its rows, or there is no ratio."""
    for name, value in bench.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(root))
    absolute = {name: path.absolute() for name, path in workload.inputs.items()}
    found = measures.cleaning_run(Workload(workload.specs, absolute), tmp_path, 1)
    assert len(found.runs) == 1
    assert min(found.runs) > 0


def test_a_ratio_is_the_median_of_pairs_taken_in_turn() -> None:
    now = 0.0
    calls = []

    def spend(name: str, seconds: float) -> None:
        nonlocal now
        calls.append(name)
        now += seconds

    slow = iter([9.0, 6.0, 4.0, 8.0])
    found = compare(lambda: spend("slow", next(slow)), lambda: spend("fast", 2.0), 3, lambda: now)
    assert found.runs == [3.0, 2.0, 4.0]
    assert found.ratio == 3.0
    assert found.reference_seconds == 6.0
    assert found.seconds == 2.0
    assert "".join(name[0] for name in calls) == "sf" + "fs" + "sf" + "fs"
