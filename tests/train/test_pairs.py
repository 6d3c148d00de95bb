"""Training batches: a pure function of seed and step, for any ranks and loader processes."""

import itertools
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from repro.data.keyed import keyed_rng
from repro.data.shards import PairStore
from repro.names import ImageViewName
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.spec import RunSpec, Views
from repro.train.loading import load_batches, on_device
from repro.train.pairs import MadeBatches, TrainingPairs
from repro.train.views.image import IMAGE_VIEWS, shift_and_flip
from tests.support.evaluation import write_rows
from tests.support.short_run import scheduled

COUNT = 40
more_than_cores = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PairStore:
    """40 pairs of a flat colour (row number in red), the upper half another one, and its name."""
    rows = []
    for number in range(COUNT):
        image = np.zeros((32, 32, 3), np.uint8)
        image[..., 0] = number
        image[:16, :, 1] = 200
        rows.append((image, f"picture number {number}", -1))
    folder = write_rows(tmp_path_factory.mktemp("store"), rows)
    return PairStore.open(folder)


def spec(loss: str, **switches: str) -> RunSpec:
    overrides = {f"switches.{name}": value for name, value in switches.items()}
    runs = clean_runs(load_profile("smoke", overrides=overrides))
    run = next(run for run in runs if run.loss == loss)
    return scheduled(run, global_batch_size=8, norm_batch_size=4)


def two_views() -> RunSpec:
    """A pre-training with two views, shifted and flipped."""
    overrides = {"pretrain.views": {"shift_pixels": 2, "flip": True}}
    profile = load_profile("smoke", overrides=overrides)
    run, *_ = pretrain_runs(profile, "cc3m", "mmcl_ssl")
    return scheduled(run, global_batch_size=8, norm_batch_size=4)


def pairs(
    store: PairStore,
    folder: Path,
    run: RunSpec,
    rank: int = 0,
    ranks: int = 1,
    made: MadeBatches | None = None,
    first: int = 0,
) -> TrainingPairs:
    lemmas = {"noun": {"picture": ["image"], "number": ["figure"]}}
    synonyms = folder / "synonyms.json"
    synonyms.write_text(json.dumps({"lemmas": lemmas, "exceptions": {}}))
    rows = np.arange(first, COUNT)
    return TrainingPairs(run, store, rows, synonyms, folder / "cache", rank, ranks, made)


def assert_equal_batches(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> None:
    """Pixels and tokens of two batches are the same."""
    for part, expected in zip(one, other, strict=True):
        assert torch.equal(part, expected)


def rows_of(images: torch.Tensor) -> list[int]:
    """Rows of the store that a batch shows, by their colour."""
    red = images[0, :, 0, 0, 0]
    return [int(value) for value in red]


def test_an_epoch_holds_every_pair_once_and_matching(store: PairStore, tmp_path: Path) -> None:
    data = pairs(store, tmp_path, spec("mmcl"))
    assert data.steps_per_epoch == 5
    assert data.views == 1
    rows = []
    again = []
    for step in range(5):
        rows += rows_of(data[step][0])
        again += rows_of(data[step + 5][0])
    every = list(range(COUNT))
    assert sorted(rows) == every
    assert sorted(again) == every
    assert rows != every
    assert again != rows

    images, tokens = data[3]
    expected = data.tokens(np.array(rows_of(images)))
    length = tokens.shape[-1]
    assert torch.equal(tokens[0], expected[:, :length].long())


def test_order_and_views_are_keyed_by_the_seed_and_views_by_the_step_too(
    store: PairStore, tmp_path: Path
) -> None:
    """Else all seeds of a study would see the same batches, or all epochs the same augmentations."""
    run = two_views()
    one = pairs(store, tmp_path, run)
    other = pairs(store, tmp_path, run.model_copy(update={"seed": run.seed + 1}))
    assert one.positions(0).tolist() != other.positions(0).tolist()

    same_pairs = np.arange(COUNT)
    drawn = []
    for data in (one, other):
        data._order = lambda epoch: same_pairs  # type: ignore[assignment]
        drawn += [data[0][0], data[data.steps_per_epoch][0]]
    for first, second in itertools.combinations(drawn, 2):
        assert not torch.equal(first, second)


def assert_trimmed(tokens: torch.Tensor, padded: torch.Tensor) -> None:
    """The same captions, of which one batch may have more padding."""
    length = tokens.shape[-1]
    assert torch.equal(tokens, padded[..., :length])
    assert not padded[..., length:].any()


@pytest.mark.parametrize("text_view", ["redrawn", "fixed"])
def test_parts_of_ranks_make_up_the_batch(text_view: str, store: PairStore, tmp_path: Path) -> None:
    run = spec("mmcl_ssl", text_view=text_view)
    whole = pairs(store, tmp_path, run)
    first = pairs(store, tmp_path, run, rank=0, ranks=2)
    second = pairs(store, tmp_path, run, rank=1, ranks=2)
    for step in (0, 3, 7):
        images, tokens = whole[step]
        first_images, first_tokens = first[step]
        second_images, second_tokens = second[step]
        joined = torch.cat([first_images, second_images], dim=1)
        assert torch.equal(joined, images)
        expected, second_expected = tokens.chunk(2, dim=1)
        assert_trimmed(first_tokens, expected)
        assert_trimmed(second_tokens, second_expected)


@more_than_cores
def test_a_step_is_the_same_however_it_is_reached(store: PairStore, tmp_path: Path) -> None:
    data = pairs(store, tmp_path, spec("mmcl_ssl"))
    direct = data[6]
    for workers in (0, 2):
        _, _, via_loader, _ = data.batches(4, 8, workers)
        assert_equal_batches(direct, via_loader)


def rates(run: RunSpec) -> list[RunSpec]:
    """The run at two learning rates."""
    return [scheduled(run, learning_rate=rate) for rate in (1e-3, 1e-4)]


@pytest.mark.parametrize("text_view", ["redrawn", "fixed"])
def test_runs_that_differ_in_their_rate_share_their_batches(
    text_view: str, store: PairStore, tmp_path: Path
) -> None:
    made = MadeBatches()
    one, other = rates(spec("mmcl_ssl", text_view=text_view))
    data = pairs(store, tmp_path, one, made=made)
    data_of_other = pairs(store, tmp_path, other, made=made)
    alone = pairs(store, tmp_path, other)
    first = list(data.batches(2, 9, 0))
    second = list(data_of_other.batches(2, 9, 0))
    expected = list(alone.batches(2, 9, 0))
    for batch, shared, own in zip(first, second, expected, strict=True):
        assert_equal_batches(batch, own)
        for part, the_same in zip(batch, shared, strict=True):
            assert part is the_same


@pytest.mark.parametrize("change", ["seed", "loss", "batch", "rank", "rows", "memory"])
def test_other_batches_are_made_anew(
    change: str, store: PairStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MadeBatches()
    run = spec("mmcl_ssl")
    data = pairs(store, tmp_path, run, made=made)
    (before,) = data.batches(2, 3, 0)

    rank, ranks = 0, 1
    if change == "rank":
        rank, ranks = 1, 2
    if change == "memory":
        monkeypatch.setenv("REPRO_MEMORY_BYTES", "1000")
    if change == "batch":
        run = scheduled(run, global_batch_size=4)
    if change == "seed":
        run = run.model_copy(update={"seed": 5})
    if change == "loss":
        run = run.model_copy(update={"loss": "mmcl"})
    data = pairs(store, tmp_path, run, rank, ranks, made=made, first=int(change == "rows"))
    (after,) = data.batches(2, 3, 0)

    assert after[0] is not before[0]
    assert_equal_batches(after, data[2])


def test_a_fixed_text_view_repeats_and_a_redrawn_not(store: PairStore, tmp_path: Path) -> None:
    def views(switch: str) -> set[tuple[int, ...]]:
        """The second views of the caption of row 7."""
        data = pairs(store, tmp_path, spec("mmcl_ssl", text_view=switch))
        found = set()
        for step in range(20):
            images, tokens = data[step]
            for row, text in zip(rows_of(images), tokens[1].tolist(), strict=True):
                if row == 7:
                    found.add(tuple(value for value in text if value))
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
        images, tokens = chosen[step]
        all_images, all_tokens = every[step]
        all_tokens = all_tokens[..., : tokens.shape[-1]]
        assert torch.equal(images[0], all_images[0])
        assert torch.equal(tokens[0], all_tokens[0])

        is_poisoned = every.positions(step) % 3 == 0
        augmented = is_poisoned if second_view == "poisoned" else ~is_poisoned
        for pair, by_view in enumerate(augmented):
            first, second = images[:, pair]
            expected = int(by_view)
            assert torch.equal(second, all_images[expected, pair])
            assert torch.equal(tokens[1, pair], all_tokens[expected, pair])
            if by_view and not torch.equal(second, first):
                differing += 1
    assert differing > 10


@pytest.mark.parametrize("image_view", ["crop_and_colour", "noise_and_erasing", "unaugmented"])
def test_pretraining_augments_by_the_view_that_it_names(
    image_view: ImageViewName, store: PairStore, tmp_path: Path
) -> None:
    """All else is as with AutoAugment, and cleaning has the view of its defence."""
    plain = two_views()
    named = plain.model_copy(update={"image_view": image_view})
    made = pairs(store, tmp_path, named)
    images, tokens = made[3]
    by_autoaugment, same_tokens = pairs(store, tmp_path, plain)[3]
    assert torch.equal(images[0], by_autoaugment[0])
    assert torch.equal(tokens, same_tokens)
    assert not torch.equal(images[1], by_autoaugment[1])

    rng = keyed_rng("views", plain.seed, 3)
    pixels, batch = made.pixels(made.positions(3)), plain.schedule.global_batch_size
    for _ in range(2):
        shifted = shift_and_flip(pixels, plain.views, rng, batch, slice(batch))
    view = IMAGE_VIEWS[image_view]
    assert torch.equal(images[1], view.apply(shifted, view.draw(batch, rng)))

    cleaned, _ = pairs(store, tmp_path, named.model_copy(update={"stage": "clean"}))[3]
    assert torch.equal(cleaned, by_autoaugment)


def test_in_a_control_no_pair_is_poisoned(store: PairStore, tmp_path: Path) -> None:
    """Its store of clean pairs has no list of rows."""
    (store.folder / "rows.npz").unlink(missing_ok=True)

    def views(second_view: str) -> torch.Tensor:
        choice = {"poisoned": False, "second_view": second_view}
        control = two_views().model_copy(update=choice)
        images, _ = pairs(store, tmp_path, control)[2]
        return images

    first, second = views("all")
    assert not torch.equal(second, first)
    assert torch.equal(views("clean"), views("all"))
    first, second = views("poisoned")
    assert torch.equal(second, first)


def moved(images: torch.Tensor, **views: Any) -> torch.Tensor:
    rng = np.random.default_rng(0)
    count = len(images)
    return shift_and_flip(images, Views(**views), rng, count, slice(0, count))


def test_shift_moves_whole_pixels_and_repeats_the_edge() -> None:
    """A white pixel in the middle stays one, at most `shift_pixels` away in each direction."""
    black = torch.zeros(64, 3, 9, 9, dtype=torch.uint8)
    dot = black.clone()
    dot[:, :, 4, 4] = 255
    shifted = moved(dot, shift_pixels=2, flip=False)
    is_white = shifted[:, 0] == 255
    places = is_white.nonzero()[:, 1:]
    assert len(places) == 64
    assert (places - 4).abs().max() == 2

    edge = black.clone()
    edge[:, :, 0] = 255  # the upper edge: shifting down repeats it
    shifted = moved(edge, shift_pixels=2, flip=False)
    column = shifted[:, 0, :, 4]
    white = (column == 255).sum(dim=1)
    assert set(white.tolist()) == {0, 1, 2, 3}


def test_flip_mirrors_about_half_of_the_images() -> None:
    row = torch.arange(5, dtype=torch.uint8)
    images = row.expand(200, 3, 4, 5).clone()
    mirrors = images.flip(-1)
    mirrored = 0
    for found, image, mirror in zip(
        moved(images, shift_pixels=0, flip=True), images, mirrors, strict=True
    ):
        is_mirror = torch.equal(found, mirror)
        assert is_mirror or torch.equal(found, image)
        mirrored += is_mirror
    assert 70 < mirrored < 130


def kept_pixels(folder: Path) -> list[tuple[int, ...]]:
    """Shapes of the arrays of images that are kept in a folder."""
    arrays = [np.load(path) for path in folder.rglob("*.npy")]
    return [array.shape for array in arrays if array.ndim == 4]


def test_images_are_decoded_at_every_step_only_where_there_is_no_room(
    store: PairStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 KB of pixels, for which a memory of 1 KB has no room; the batches are the same."""

    def batches(folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
        folder.mkdir()
        data = pairs(store, folder, spec("mmcl_ssl"))
        return [data[0], data[6]]

    with_room = batches(tmp_path / "large")
    monkeypatch.setenv("REPRO_MEMORY_BYTES", "1000")
    without = batches(tmp_path / "small")

    assert kept_pixels(tmp_path / "large") == [(COUNT, 32, 32, 3)]
    assert kept_pixels(tmp_path / "small") == []
    for one, other in zip(with_room, without, strict=True):
        assert_equal_batches(one, other)


LOADERS = 4


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batch `step` is its own number, and the process that made it."""

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        process = os.getpid()
        return torch.tensor([step]), torch.tensor([process])


@more_than_cores
def test_a_group_that_is_asked_to_stop_keeps_its_loader_processes() -> None:
    """Each stop signal to every loader process: all batches come, in order, from the same ones."""
    batches = load_batches(Numbers(), range(40), LOADERS)
    first = [next(batches) for _ in range(LOADERS)]
    makers = {int(process) for _, process in first}
    assert len(makers) == LOADERS
    assert os.getpid() not in makers
    for process in makers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(process, number)

    rest = list(batches)
    steps = [int(step) for step, _ in first + rest]
    assert steps == list(range(40))
    assert {int(process) for _, process in rest} == makers


@more_than_cores
def test_loader_processes_end_when_their_batches_are_not_wanted_any_more() -> None:
    batches = load_batches(Numbers(), range(1000), LOADERS)
    makers = {int(next(batches)[1]) for _ in range(LOADERS)}
    began = time.monotonic()
    batches.close()
    assert time.monotonic() - began < 5
    assert not any(Path(f"/proc/{process}").exists() for process in makers)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_batches_arrive_whole_and_in_order() -> None:
    device = torch.device("cuda")
    batches = []
    for number in range(20):
        square = torch.full((1000, 1000), float(number))
        batches.append((square.pin_memory(), torch.tensor([number])))

    one = torch.eye(1000, device=device)
    for number, (images, tokens) in enumerate(on_device(batches, device)):
        assert images.device.type == "cuda"
        assert float((images @ one).mean()) == number
        assert int(tokens) == number
