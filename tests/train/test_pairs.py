"""Training batches: a pure function of run seed and step, for any number of ranks and loader
workers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repro.data.images import encode_png
from repro.data.shards import PairStore, ShardWriter, write_store
from repro.profile import clean_runs, load_profile
from repro.spec import RunSpec, Views
from repro.train.pairs import TrainingPairs, shift_and_flip

COUNT = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PairStore:
    """40 pairs of a flat colour (row number in red) and its name."""
    folder = tmp_path_factory.mktemp("store")
    writer = ShardWriter(folder)
    for row in range(COUNT):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[..., 0] = row
        pixels[:16, :, 1] = 200  # an upper half, so that views differ
        writer.add(encode_png(np.asarray(Image.fromarray(pixels))), "png", f"picture number {row}")
    write_store(folder, *writer.close())
    return PairStore.open(folder)


def spec(loss: str, **switches: str) -> RunSpec:
    overrides = {f"switches.{name}": value for name, value in switches.items()}
    run = next(
        run for run in clean_runs(load_profile("smoke", overrides=overrides)) if run.loss == loss
    )
    return run.model_copy(
        update={
            "schedule": run.schedule.model_copy(
                update={"global_batch_size": 8, "norm_batch_size": 4}
            )
        }
    )


def pairs(
    store: PairStore, tmp_path: Path, run: RunSpec, rank: int = 0, ranks: int = 1
) -> TrainingPairs:
    (tmp_path / "synonyms.json").write_text(
        json.dumps(
            {"lemmas": {"noun": {"picture": ["image"], "number": ["figure"]}}, "exceptions": {}}
        )
    )
    return TrainingPairs(
        run, store, np.arange(COUNT), tmp_path / "synonyms.json", tmp_path / "cache", rank, ranks
    )


def test_an_epoch_holds_every_pair_once_and_matching(store: PairStore, tmp_path: Path) -> None:
    data = pairs(store, tmp_path, spec("mmcl"))
    assert data.steps_per_epoch == 5 and data.views == 1
    rows = [int(value) for step in range(5) for value in data[step][0][0, :, 0, 0, 0]]
    assert sorted(rows) == list(range(COUNT)) and rows != sorted(rows)
    again = [int(value) for step in range(5, 10) for value in data[step][0][0, :, 0, 0, 0]]
    assert sorted(again) == sorted(rows) and again != rows
    images, tokens = data[3]
    expected = data.tokens(images[0, :, 0, 0, 0].numpy().astype(int))
    assert torch.equal(tokens[0], expected[:, : tokens.shape[-1]].long())


@pytest.mark.parametrize("text_view", ["redrawn", "fixed"])
def test_the_ranks_parts_make_up_the_single_process_batch(
    text_view: str, store: PairStore, tmp_path: Path
) -> None:
    run = spec("mmcl_ssl", text_view=text_view)
    whole = pairs(store, tmp_path, run)
    parts = [pairs(store, tmp_path, run, rank, 2) for rank in range(2)]
    for step in (0, 3, 7):
        images, tokens = whole[step]
        halves = [part[step] for part in parts]
        assert torch.equal(torch.cat([half[0] for half in halves], dim=1), images)
        for half, expected in zip(halves, tokens.chunk(2, dim=1), strict=True):
            length = half[1].shape[-1]
            assert torch.equal(half[1], expected[..., :length]) and not expected[..., length:].any()


def test_a_step_is_the_same_however_it_is_reached(store: PairStore, tmp_path: Path) -> None:
    data = pairs(store, tmp_path, spec("mmcl_ssl"))
    direct = data[6]
    for workers in (0, 2):
        via_loader = list(data.batches(4, 8, workers))[2]
        assert all(torch.equal(one, other) for one, other in zip(direct, via_loader, strict=True))


def test_a_fixed_text_view_repeats_and_a_redrawn_one_does_not(
    store: PairStore, tmp_path: Path
) -> None:
    def views(switch: str) -> set[tuple[int, ...]]:
        data = pairs(store, tmp_path, spec("mmcl_ssl", text_view=switch))
        found = set()
        for step in range(20):
            images, tokens = data[step]
            for row, text in zip(images[0, :, 0, 0, 0].tolist(), tokens[1], strict=True):
                if row == 7:
                    found.add(tuple(value for value in text.tolist() if value))
        return found

    assert len(views("fixed")) == 1
    assert len(views("redrawn")) > 1


def test_too_few_pairs_for_a_batch_are_refused(store: PairStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3 pairs \(allowed: at least global_batch_size = 8\)"):
        TrainingPairs(
            spec("mmcl"), store, np.arange(3), tmp_path / "none", tmp_path / "cache", 0, 1
        )


def test_shift_moves_whole_pixels_and_repeats_the_edge() -> None:
    """A single white pixel in the middle stays one white pixel, at most `shift_pixels` away in each
    direction.
    """
    image = torch.zeros(64, 3, 9, 9, dtype=torch.uint8)
    image[:, :, 4, 4] = 255
    moved = shift_and_flip(
        image, Views(shift_pixels=2, flip=False), np.random.default_rng(0), 64, slice(0, 64)
    )
    places = (moved[:, 0] == 255).nonzero()
    assert len(places) == 64 and (places[:, 1:] - 4).abs().max() == 2
    edge = torch.zeros(64, 3, 9, 9, dtype=torch.uint8)
    edge[:, :, 0] = 255  # the upper edge: shifting down repeats it
    down = shift_and_flip(
        edge, Views(shift_pixels=2, flip=False), np.random.default_rng(0), 64, slice(0, 64)
    )
    assert set((down[:, 0, :, 4] == 255).sum(dim=1).tolist()) == {0, 1, 2, 3}


def test_flip_mirrors_about_half_of_the_images() -> None:
    image = torch.arange(5, dtype=torch.uint8).expand(200, 3, 4, 5).clone()
    flipped = shift_and_flip(
        image, Views(shift_pixels=0, flip=True), np.random.default_rng(0), 200, slice(0, 200)
    )
    mirrored, kept = ((flipped == view).flatten(1).all(dim=1) for view in (image.flip(-1), image))
    assert 70 < int(mirrored.sum()) < 130
    assert bool((mirrored ^ kept).all())


def test_images_are_decoded_at_every_step_only_where_there_is_no_room(
    store: PairStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 KB of pixels, for which a memory of 1 KB has no room; the batches are the same."""
    folders = [tmp_path / "large", tmp_path / "small"]
    batches = []
    for folder in folders:
        folder.mkdir()
        data = pairs(store, folder, spec("mmcl_ssl"))
        batches.append([data[step] for step in (0, 6)])
        monkeypatch.setenv("REPRO_MEMORY_BYTES", "1000")

    kept = [
        [array.shape for path in folder.rglob("*.npy") if (array := np.load(path)).ndim == 4]
        for folder in folders
    ]
    assert kept == [[(COUNT, 32, 32, 3)], []]
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
