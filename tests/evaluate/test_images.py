"""Triggered evaluation images: the bytes of `stamp`, the authors' redrawing, and what it costs."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from repro.data.keyed import keyed_rng
from repro.data.triggers import stamp
from repro.evaluate import images as evaluated
from repro.evaluate.images import EvaluationSet
from repro.spec import Switches, Trigger
from tests.support.evaluation import blocks, evaluation_set, switches, write_images

CPU = torch.device("cpu")
SIZE, PATCH = 16, 4
BADNET = Trigger(name="badnet", patch_size=PATCH)


SOME = [range(begin, min(begin + 256, 2_000)) for begin in range(0, 2_000, 256)]
"""Batches of 2,000 images."""
"""Batches of 2,000 images."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 images of 16 x 20 pixels, so that to crop and to squash are two things."""
    folder = tmp_path_factory.mktemp("some") / "store"
    images = blocks(2_000, SIZE, SIZE + 4)
    return write_images(folder, images, classes=10)


def badnet_set(store: Path, **changed: str) -> EvaluationSet:
    """The images under the paper's trigger, with some switches changed."""
    settings = switches(**changed)
    return evaluation_set(store, SIZE, BADNET, settings)


def triggered(images: EvaluationSet, draw: int, batches: list[range]) -> np.ndarray:
    """The twins of these batches, one after another."""
    parts = [twins for _, twins in images.batches(batches, draw, CPU)]
    return torch.cat(parts).numpy()


def assert_stamped(
    twins: np.ndarray, trigger: Trigger, settings: Switches, base: np.ndarray
) -> None:
    """Twins of the first images and the first draw are the bytes of `stamp`."""
    for number, twin in enumerate(twins):
        rng = keyed_rng("evaluation", 0, 0, number)
        expected = stamp(trigger, settings, base[number], rng).image
        assert (expected == twin).all(), number


@pytest.mark.parametrize(
    "choices", ["squash mean wrap", "squash zero clip", "crop mean clip", "crop zero wrap"]
)
def test_pasted_badnet_is_stamp_to_the_byte(store: Path, choices: str) -> None:
    geometry, centre, overflow = choices.split()
    settings = switches(trigger_geometry=geometry, trigger_centre=centre, trigger_overflow=overflow)
    images = evaluation_set(store, SIZE, BADNET, settings)

    pasted = triggered(images, 0, SOME)

    base = images.base if geometry == "squash" else images.images
    assert len(pasted) == 2_000
    assert_stamped(pasted, BADNET, settings, base)


@pytest.mark.parametrize("name", ["yellow", "blended", "sig", "wanet"])
@pytest.mark.parametrize("limit", [2**30, 0], ids=["copy kept", "stamped batch by batch"])
def test_other_triggers_are_stamp_to_the_byte(
    store: Path, name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluated, "COPY_LIMIT", limit)
    trigger = Trigger.model_validate({"name": name, "patch_size": PATCH})
    settings = switches()
    images = evaluation_set(store, SIZE, trigger, settings)

    # Two batches of unequal size, twice: what is kept must not be changed by its use.
    batches = [range(256), range(256, 300)]
    for _ in range(2):
        twins = triggered(images, 0, batches)
        assert_stamped(twins, trigger, settings, images.images)


@pytest.mark.parametrize("name", ["badnet", "yellow"])
def test_a_fixed_patch_is_drawn_once_for_all_evaluations(
    store: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the images are: what is kept is the patch, and later evaluations paste it."""
    monkeypatch.setattr(evaluated, "COPY_LIMIT", 0)
    trigger = Trigger.model_validate({"name": name, "patch_size": PATCH})
    images = evaluation_set(store, SIZE, trigger, switches())
    first = triggered(images, 0, SOME[:2])

    for costly in ("draw_patches", "stamp"):
        monkeypatch.setattr(evaluated, costly, None)  # is not called again
    again = triggered(images, 0, SOME[:2])
    assert (again == first).all()


def test_stamping_leaves_the_clean_images_of_the_next_evaluation_alone(store: Path) -> None:
    images = badnet_set(store, trigger_geometry="crop")
    expected = images.images[:256].copy()
    for _ in range(2):
        [(clean, twins)] = images.batches([range(256)], 0, CPU)
        assert (clean.numpy() == expected).all()
        assert not (twins.numpy() == expected).all()


@pytest.mark.parametrize(("geometry", "sent"), [("crop", 3), ("squash", 4)])
def test_images_are_sent_once_where_the_patch_goes_on_them(
    store: Path, geometry: str, sent: int
) -> None:
    """Images, squares and corners; with them the squashed images, if those get the squares."""
    images = badnet_set(store, trigger_geometry=geometry)
    (tensors,) = images._ahead([range(256)], 0, CPU)
    assert len(tensors) == sent


def patches(images: EvaluationSet, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares (N, P, P, 3) and corners (N, 2) of a draw, of 2,000 images."""
    squares = []
    corners = []
    for batch in SOME:
        *_, square, corner = images._twins(batch, draw)
        squares.append(square)
        corners.append(corner)
    return np.concatenate(squares), np.concatenate(corners)


@pytest.mark.parametrize("overflow", ["wrap", "clip"])
@pytest.mark.parametrize("centre", ["mean", "zero"])
def test_redrawn_patches_spread_as_stamped_ones(store: Path, centre: str, overflow: str) -> None:
    """96,000 values against those of `stamp`: chi-square over 256 levels and over 144 corners."""
    images = badnet_set(store, trigger_centre=centre, trigger_overflow=overflow)
    stamped, _ = patches(images, 0)
    redrawn, corners = patches(images, 3)

    levels_stamped = np.bincount(stamped.ravel(), minlength=256)
    levels_redrawn = np.bincount(redrawn.ravel(), minlength=256)
    counts = np.stack([levels_stamped, levels_redrawn])
    assert chi2_contingency(counts).pvalue > 1e-3

    # Corners are uniform over 0..11 in both directions: 16 - 4, the end excluded.
    side = SIZE - PATCH
    places = corners @ [side, 1]
    counts = np.bincount(places, minlength=side**2)
    assert len(counts) == side**2
    assert chisquare(counts).pvalue > 1e-3


def test_a_draw_is_the_same_whenever_it_is_asked_for_and_unlike_every_other(store: Path) -> None:
    first = badnet_set(store)
    second = badnet_set(store)
    batches = SOME[:2]
    draws = [triggered(first, draw, batches) for draw in (0, 1, 2)]
    again = [triggered(second, draw, batches) for draw in (2, 1, 0)]

    for twins, same in zip(draws, reversed(again), strict=True):
        assert (twins == same).all()
    for one, other in itertools.combinations(draws, 2):
        differs = one != other
        assert differs.any(axis=(1, 2, 3)).all()


def test_a_rank_draws_its_batches_as_if_it_had_all(store: Path) -> None:
    whole = badnet_set(store)
    part = badnet_set(store)
    for draw in (0, 2):
        everything = triggered(whole, draw, SOME[:4])
        _, second, _, fourth = np.split(everything, 4)
        expected = np.concatenate([second, fourth])
        mine = triggered(part, draw, [SOME[1], SOME[3]])
        assert (mine == expected).all()
