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
from repro.spec import Trigger
from tests.support.evaluation import blocks, evaluation_set, switches, write_images

CPU = torch.device("cpu")
SIZE, PATCH = 16, 4
BADNET = Trigger(name="badnet", patch_size=PATCH)


SOME = [range(begin, min(begin + 256, 2_000)) for begin in range(0, 2_000, 256)]
"""Batches of 2,000 images."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 images of 16 x 20 pixels, so that to crop and to squash are two things."""
    folder = tmp_path_factory.mktemp("some") / "store"
    return write_images(folder, blocks(2_000, SIZE, SIZE + 4), 10)


def triggered(images: EvaluationSet, draw: int, batches: list[range]) -> np.ndarray:
    """The twins of these batches, one after another."""
    twins = [twins for _, twins in images.batches(batches, draw, CPU)]
    return torch.cat(twins).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices", ["squash mean wrap", "squash zero clip", "crop mean clip", "crop zero wrap"]
)
def test_pasted_badnet_is_stamp_to_the_byte(store: Path, choices: str) -> None:
    geometry, centre, overflow = choices.split()
    settings = switches(trigger_geometry=geometry, trigger_centre=centre, trigger_overflow=overflow)
    images = evaluation_set(store, SIZE, BADNET, settings)

    pasted = triggered(images, 0, SOME)

    base = images.base if geometry == "squash" else images.images
    for number, twin in enumerate(pasted):
        rng = keyed_rng("evaluation", 0, 0, number)
        assert (stamp(BADNET, settings, base[number], rng).image == twin).all(), number


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
        for number, twin in enumerate(twins):
            rng = keyed_rng("evaluation", 0, 0, number)
            expected = stamp(trigger, settings, images.images[number], rng).image
            assert (expected == twin).all(), number


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
    assert (triggered(images, 0, SOME[:2]) == first).all()


def test_stamping_leaves_the_clean_images_of_the_next_evaluation_alone(store: Path) -> None:
    images = evaluation_set(store, SIZE, BADNET, switches(trigger_geometry="crop"))
    for _ in range(2):
        [(clean, twins)] = images.batches([range(256)], 0, CPU)
        assert (clean.numpy() == images.images[:256]).all()
        assert not (twins.numpy() == images.images[:256]).all()


@pytest.mark.parametrize(("geometry", "sent"), [("crop", 3), ("squash", 4)])
def test_images_are_sent_once_where_the_patch_goes_on_them(
    store: Path, geometry: str, sent: int
) -> None:
    """Images, squares and corners; with them the squashed images, if those get the squares."""
    images = evaluation_set(store, SIZE, BADNET, switches(trigger_geometry=geometry))
    (tensors,) = images._ahead([range(256)], 0, CPU)
    assert len(tensors) == sent


def patches(images: EvaluationSet, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares (N, P, P, 3) and corners (N, 2) of a draw, of 2,000 images."""
    squares, corners = zip(*(images._twins(batch, draw)[-2:] for batch in SOME), strict=True)
    return np.concatenate(squares), np.concatenate(corners)


@pytest.mark.parametrize("overflow", ["wrap", "clip"])
@pytest.mark.parametrize("centre", ["mean", "zero"])
def test_redrawn_patches_spread_as_stamped_ones(store: Path, centre: str, overflow: str) -> None:
    """96,000 values against those of `stamp`: chi-square over 256 levels and over 144 corners."""
    settings = switches(trigger_centre=centre, trigger_overflow=overflow)
    images = evaluation_set(store, SIZE, BADNET, settings)
    stamped, _ = patches(images, 0)
    redrawn, corners = patches(images, 3)

    counts = np.stack([np.bincount(values.ravel(), minlength=256) for values in (stamped, redrawn)])
    assert chi2_contingency(counts).pvalue > 1e-3

    # Corners are uniform over 0..11 in both directions: 16 - 4, the end excluded.
    places = np.bincount(corners @ [SIZE - PATCH, 1], minlength=(SIZE - PATCH) ** 2)
    assert len(places) == (SIZE - PATCH) ** 2 and chisquare(places).pvalue > 1e-3


def test_a_draw_is_the_same_whenever_it_is_asked_for_and_unlike_every_other(store: Path) -> None:
    first, second = (evaluation_set(store, SIZE, BADNET, switches()) for _ in range(2))
    draws = [triggered(first, draw, SOME[:2]) for draw in range(3)]
    again = [triggered(second, draw, SOME[:2]) for draw in (2, 1, 0)]
    for draw, other in zip(draws, reversed(again), strict=True):
        assert (draw == other).all()
    for one, two in itertools.combinations(draws, 2):
        assert (one != two).any(axis=(1, 2, 3)).all()


def test_a_rank_draws_its_batches_as_if_it_had_all(store: Path) -> None:
    whole, part = (evaluation_set(store, SIZE, BADNET, switches()) for _ in range(2))

    for draw in (0, 2):
        everything = triggered(whole, draw, SOME[:4])
        mine = triggered(part, draw, SOME[1:4:2])
        assert (np.concatenate([everything[256:512], everything[768:1024]]) == mine).all()
