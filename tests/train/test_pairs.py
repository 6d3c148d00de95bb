"""Training batches: a pure function of seed and step, for any ranks and loader processes."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from repro.data.shards import PairStore
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.spec import RunSpec, Views
from repro.train.loading import load_batches, on_device
from repro.train.pairs import MadeBatches, TrainingPairs
from repro.train.views.image import shift_and_flip
from tests.support.evaluation import write_rows
from tests.support.short_run import run as train_run
from tests.support.short_run import scheduled

COUNT = 40
more_than_cores = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PairStore:
    """40 pairs of a flat colour (row number in red), the upper half another one, and its name."""
    pixels = np.zeros((COUNT, 32, 32, 3), np.uint8)
    pixels[..., 0] = np.arange(COUNT)[:, None, None]
    pixels[:, :16, :, 1] = 200
    rows = ((image, f"picture number {row}", -1) for row, image in enumerate(pixels))
    return PairStore.open(write_rows(tmp_path_factory.mktemp("store"), rows))


def spec(loss: str, **switches: str) -> RunSpec:
    overrides = {f"switches.{name}": value for name, value in switches.items()}
    runs = clean_runs(load_profile("smoke", overrides=overrides))
    run = next(run for run in runs if run.loss == loss)
    return scheduled(run, global_batch_size=8, norm_batch_size=4)


def two_views() -> RunSpec:
    """A pre-training with two views, shifted and flipped."""
    overrides = {"pretrain.views": {"shift_pixels": 2, "flip": True}}
    [run, *_] = pretrain_runs(load_profile("smoke", overrides=overrides), "cc3m", "mmcl_ssl")
    return scheduled(run, global_batch_size=8, norm_batch_size=4)


def pairs(
    store: PairStore,
    folder: Path,
    run: RunSpec,
    rank: int = 0,
    ranks: int = 1,
    made: MadeBatches | None = None,
) -> TrainingPairs:
    lemmas = {"noun": {"picture": ["image"], "number": ["figure"]}}
    synonyms = folder / "synonyms.json"
    synonyms.write_text(json.dumps({"lemmas": lemmas, "exceptions": {}}))
    files = synonyms, folder / "cache"
    return TrainingPairs(run, store, np.arange(COUNT), *files, rank, ranks, made)


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
def test_parts_of_ranks_make_up_the_batch(text_view: str, store: PairStore, tmp_path: Path) -> None:
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


@more_than_cores
def test_a_step_is_the_same_however_it_is_reached(store: PairStore, tmp_path: Path) -> None:
    data = pairs(store, tmp_path, spec("mmcl_ssl"))
    direct = data[6]
    for workers in (0, 2):
        via_loader = list(data.batches(4, 8, workers))[2]
        assert all(torch.equal(one, other) for one, other in zip(direct, via_loader, strict=True))


def rates(run: RunSpec) -> list[RunSpec]:
    """The run at two learning rates."""
    return [scheduled(run, learning_rate=rate) for rate in (1e-3, 1e-4)]


@pytest.mark.parametrize("text_view", ["redrawn", "fixed"])
def test_runs_that_differ_in_their_rate_share_their_batches(
    text_view: str, store: PairStore, tmp_path: Path
) -> None:
    made = MadeBatches()
    one, other = rates(spec("mmcl_ssl", text_view=text_view))
    first, second = (
        list(pairs(store, tmp_path, run, made=made).batches(2, 9, 0)) for run in (one, other)
    )
    alone = pairs(store, tmp_path, other).batches(2, 9, 0)
    for batch, shared, own in zip(first, second, alone, strict=True):
        for part, the_same, expected in zip(batch, shared, own, strict=True):
            assert part is the_same and torch.equal(part, expected)


@pytest.mark.parametrize("change", ["seed", "loss", "batch", "rank", "rows", "memory"])
def test_other_batches_are_made_anew(
    change: str, store: PairStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, run = MadeBatches(), spec("mmcl_ssl")
    (before,) = pairs(store, tmp_path, run, made=made).batches(2, 3, 0)
    rank, ranks = (1, 2) if change == "rank" else (0, 1)
    if change == "memory":
        monkeypatch.setenv("REPRO_MEMORY_BYTES", "1000")
    if change == "batch":
        run = scheduled(run, global_batch_size=4)
    other = {"seed": {"seed": 5}, "loss": {"loss": "mmcl"}}.get(change, {})
    data = pairs(store, tmp_path, run.model_copy(update=other), rank, ranks, made)
    if change == "rows":
        data = data.subset(np.arange(1, COUNT))
    (after,) = data.batches(2, 3, 0)
    assert after[0] is not before[0]
    assert all(torch.equal(one, own) for one, own in zip(after, data[2], strict=True))


def test_training_leaves_the_shared_batches_as_they_are(store: PairStore, tmp_path: Path) -> None:
    made, run = MadeBatches(), spec("mmcl_ssl")
    data = pairs(store, tmp_path, run, made=made)
    train_run(tmp_path / "run", run, pairs=data)
    steps = range(data.steps_per_epoch)
    assert {*steps} <= {*made.batches}
    for step in steps:
        assert all(torch.equal(*both) for both in zip(made.batches[step], data[step], strict=True))


def test_a_fixed_text_view_repeats_and_a_redrawn_not(store: PairStore, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("second_view", ["poisoned", "clean"])
def test_a_second_view_is_augmented_for_the_chosen_pairs_alone(
    second_view: str, store: PairStore, tmp_path: Path
) -> None:
    """Augmented views are those of `all`; the other pairs have their first view twice, by bytes."""
    np.savez(store.folder / "rows.npz", poisoned=np.arange(0, COUNT, 3))
    run = two_views()
    every = pairs(store, tmp_path, run)
    chosen = pairs(store, tmp_path, run.model_copy(update={"second_view": second_view}))
    differing = 0
    for step in range(10):
        (images, tokens), (all_images, all_tokens) = chosen[step], every[step]
        length = tokens.shape[-1]
        assert torch.equal(images[0], all_images[0])
        assert torch.equal(tokens[0], all_tokens[0, :, :length])

        rows = every.positions(step)
        augmented = (rows % 3 == 0) if second_view == "poisoned" else (rows % 3 != 0)
        for pair, by_view in enumerate(augmented):
            assert torch.equal(images[1, pair], all_images[int(by_view), pair])
            assert torch.equal(tokens[1, pair], all_tokens[int(by_view), pair, :length])
            differing += by_view and not torch.equal(images[1, pair], images[0, pair])
    assert differing > 10


def test_in_a_control_no_pair_is_poisoned(store: PairStore, tmp_path: Path) -> None:
    """Its store of clean pairs has no list of rows."""
    (store.folder / "rows.npz").unlink(missing_ok=True)
    control = two_views().model_copy(update={"poisoned": False})
    views = {
        name: pairs(store, tmp_path, control.model_copy(update={"second_view": name}))[2][0]
        for name in ("all", "poisoned", "clean")
    }
    assert torch.equal(views["clean"], views["all"])
    assert torch.equal(views["poisoned"][1], views["poisoned"][0])
    assert not torch.equal(views["all"][1], views["all"][0])


def test_too_few_pairs_for_a_batch_are_refused(store: PairStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3 pairs \(allowed: at least global_batch_size = 8\)"):
        TrainingPairs(spec("mmcl"), store, np.arange(3), tmp_path, tmp_path / "cache", 0, 1)


def moved(images: torch.Tensor, **views: Any) -> torch.Tensor:
    rng, count = np.random.default_rng(0), len(images)
    return shift_and_flip(images, Views(**views), rng, count, slice(0, count))


def test_shift_moves_whole_pixels_and_repeats_the_edge() -> None:
    """A white pixel in the middle stays one, at most `shift_pixels` away in each direction."""
    image = torch.zeros(64, 3, 9, 9, dtype=torch.uint8)
    image[:, :, 4, 4] = 255
    places = (moved(image, shift_pixels=2, flip=False)[:, 0] == 255).nonzero()
    assert len(places) == 64 and (places[:, 1:] - 4).abs().max() == 2
    edge = torch.zeros(64, 3, 9, 9, dtype=torch.uint8)
    edge[:, :, 0] = 255  # the upper edge: shifting down repeats it
    down = moved(edge, shift_pixels=2, flip=False)
    assert set((down[:, 0, :, 4] == 255).sum(dim=1).tolist()) == {0, 1, 2, 3}


def test_flip_mirrors_about_half_of_the_images() -> None:
    image = torch.arange(5, dtype=torch.uint8).expand(200, 3, 4, 5).clone()
    flipped = moved(image, shift_pixels=0, flip=True)
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


LOADERS = 4


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batch `step` is its own number, and the process that made it."""

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([step]), torch.tensor([os.getpid()])


@more_than_cores
def test_a_group_that_is_asked_to_stop_keeps_its_loader_processes() -> None:
    """Each stop signal to every loader process: all batches come, in order, from the same ones."""
    batches = load_batches(Numbers(), range(40), LOADERS)
    first = [next(batches) for _ in range(LOADERS)]
    makers = {int(process) for _, process in first}
    assert len(makers) == LOADERS and os.getpid() not in makers
    for process in makers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(process, number)

    rest = list(batches)
    assert [int(step) for step, _ in (*first, *rest)] == list(range(40))
    assert {int(process) for _, process in rest} == makers


@more_than_cores
def test_loader_processes_end_when_their_batches_are_not_wanted_any_more() -> None:
    batches = load_batches(Numbers(), range(1000), LOADERS)
    makers = {int(next(batches)[1]) for _ in range(LOADERS)}
    began = time.monotonic()
    batches.close()
    assert time.monotonic() - began < 5
    assert not any(Path(f"/proc/{process}").exists() for process in makers)


def test_on_the_processor_batches_are_given_on_as_they_are() -> None:
    batches = [(torch.zeros(1), torch.ones(1)) for _ in range(3)]
    for given, batch in zip(on_device(batches, torch.device("cpu")), batches, strict=True):
        assert given[0] is batch[0] and given[1] is batch[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_batches_arrive_whole_and_in_order() -> None:
    device = torch.device("cuda")
    squares = [torch.full((1000, 1000), float(i)).pin_memory() for i in range(20)]
    batches = [(square, torch.tensor([i])) for i, square in enumerate(squares)]
    for i, (images, tokens) in enumerate(on_device(batches, device)):
        assert images.device.type == "cuda"
        assert float((images @ torch.eye(1000, device=device)).mean()) == i == int(tokens)
