"""Triggers: distributions against closed forms, places, and bytes that no machine may change."""

import hashlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import chisquare, norm

import repro
from repro.data.keyed import keyed_rng
from repro.data.triggers import _warping_field, blended, sig, stamp, wanet
from repro.names import TriggerName
from repro.spec import Switches, Trigger

ROOT = Path(repro.__file__).parents[1]

GOLDEN = {
    "badnet wrap mean": "b78441028f4724d0",
    "badnet clip zero": "a9aa874b767a9c75",
    "blended": "3f80834e49721ca4",
    "sig": "8da4ee6de05ee00d",
    "stripes": "d431a7fe9de7887d",
    "wanet": "d27f3d8fc59522bb",
    "yellow": "9677479cdace0a2d",
}


Values = NDArray[np.uint8]


def noise_image(size: int = 64) -> Values:
    """Image of random pixels, the same in every process."""
    rng = keyed_rng("test image")
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


def switches(overflow: str = "wrap", centre: str = "mean") -> Switches:
    """Switches of which only the trigger's two matter here."""
    return Switches.model_construct(trigger_overflow=overflow, trigger_centre=centre)


def patched(
    name: TriggerName, image: Values, rng: Generator, patch_size: int = 16, **options: str
) -> Values:
    """`image` under a patch trigger."""
    trigger = Trigger(name=name, patch_size=patch_size)
    return stamp(trigger, switches(**options), image, rng).image


def badnet(image: Values, rng: Generator, patch_size: int = 16, **options: str) -> Values:
    """`image` under the paper's trigger."""
    return patched("badnet", image, rng, patch_size, **options)


def grey(value: int, height: int = 64, width: int = 64) -> Values:
    """Image of one value in all channels."""
    return np.full((height, width, 3), value, dtype=np.uint8)


def sha256(image: Values) -> str:
    """The first 16 digits."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def hashes() -> dict[str, str]:
    """SHA-256 (first 16 digits) of every trigger on the random image."""
    image = noise_image()
    stamps = {
        "badnet wrap mean": badnet(image, keyed_rng("draw")),
        "badnet clip zero": badnet(image, keyed_rng("draw"), overflow="clip", centre="zero"),
        "blended": blended(image, keyed_rng("draw")),
        "sig": sig(image),
        "stripes": patched("stripes", image, keyed_rng("draw")),
        "wanet": wanet(image),
        "yellow": patched("yellow", image, keyed_rng("draw")),
    }
    return {name: sha256(stamped) for name, stamped in stamps.items()}


def patches(count: int, value: int, **options: str) -> Values:
    """All patch values of `count` badnet draws on a grey image of the given value, flat."""
    image = grey(value)
    trigger = Trigger(name="badnet", patch_size=16)
    settings = switches(**options)
    values = []
    for index in range(count):
        stamped = stamp(trigger, settings, image, keyed_rng("patches", index))
        assert stamped.corner is not None
        top, left = stamped.corner
        patch = stamped.image[top : top + 16, left : left + 16]
        values.append(patch.ravel())
    return np.concatenate(values)


def test_wrapped_badnet_is_flat_over_all_256_values() -> None:
    """Folded by hand: flat to 0.3% but for 0, which takes (-1, 1), two levels wide."""
    mean = 120 / 255
    levels = np.arange(-2048, 2048)
    above = np.where(levels < 0, levels, levels + 1)
    below = np.where(levels > 0, levels, levels - 1)
    up_to_above = norm.cdf(above / 255 - mean)
    up_to_below = norm.cdf(below / 255 - mean)
    shares = up_to_above - up_to_below
    folded = shares.reshape(-1, 256).sum(axis=0)
    assert folded[1:] == pytest.approx(1 / 256, rel=0.004)

    counts = np.bincount(patches(200, 120), minlength=256)
    expected = counts.sum() * folded / folded.sum()
    assert chisquare(counts, expected).pvalue > 1e-3
    assert chisquare(counts[1:]).pvalue > 1e-3


@pytest.mark.parametrize(("centre", "mean"), [("mean", 120 / 255), ("zero", 0.0)])
def test_clipped_badnet_piles_up_at_both_ends_as_the_normal_distribution_says(
    centre: str, mean: float
) -> None:
    """Below 1/255 is 0, from 1 on 255: 32% and 30% for a mean of 0.47, within 5 standard errors."""
    values = patches(100, 120, overflow="clip", centre=centre)
    black = norm.cdf(1 / 255 - mean)
    white = norm.sf(1 - mean)
    for level, expected in ((0, black), (255, white)):
        share = (values == level).mean()
        variance = expected * (1 - expected) / values.size
        assert share == pytest.approx(expected, abs=5 * np.sqrt(variance))


class Hand:
    """A generator whose draws are written down."""

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return np.zeros(shape, np.int64)

    def standard_normal(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        values = np.array([-0.3, 1.2, 0.5])
        return values.reshape(shape)


@pytest.mark.parametrize(
    ("overflow", "values"),
    [
        ("wrap", [180, 50, 127]),
        ("clip", [0, 255, 127]),
    ],
)
def test_overflow_is_truncated_and_then_wrapped_modulo_256(
    overflow: str, values: list[int]
) -> None:
    """-0.3 x 255 = -76.5 -> -76 -> 180; 1.2 x 255 = 306 -> 50; 0.5 x 255 = 127.5 -> 127."""
    rng: Any = Hand()
    stamped = badnet(grey(0, 4, 4), rng, patch_size=1, overflow=overflow)
    assert stamped[0, 0].tolist() == values


def test_corners_cover_the_authors_range_and_no_more() -> None:
    """Their randint(0, 223 - 16) is 0..207 of 224; here 20 pixels and a patch of 16: 0..3."""
    image = grey(0, 20, 20)
    yellow = Trigger(name="yellow", patch_size=16)
    corners = set()
    for index in range(200):
        stamped = stamp(yellow, switches(), image, keyed_rng(index))
        corners.add(stamped.corner)
    assert corners == {*product(range(4), range(4))}


def test_noise_is_centred_on_each_channel_of_the_image() -> None:
    """Clipped noise around 1, 0 and 0.5 keeps their order in its means."""
    image = grey(0)
    image[:] = (255, 0, 128)
    stamped = badnet(image, keyed_rng("c"), patch_size=60, overflow="clip")
    patch = stamped[:60, :60]
    red, green, blue = patch.mean(axis=(0, 1))
    assert green < blue < red


def test_blended_keeps_four_fifths_of_the_image() -> None:
    """0.8 x 200 = 160 plus 0.2 x 255 x U[0, 1): from 160 to 210, 185 - 1/2 in the mean."""
    stamped = blended(grey(200), keyed_rng("b"))
    assert stamped.min() >= 160
    assert stamped.max() <= 210
    assert stamped.mean() == pytest.approx(184.9, abs=0.5)


def test_sig_has_six_periods_of_amplitude_60_along_the_width() -> None:
    stamped = sig(grey(128, 4, 240))
    waves = stamped.astype(int) - 128
    wave = waves[0, :, 0]
    assert (waves == wave[:, None]).all(), "equal in all rows and channels"
    assert wave.max() == 60
    assert wave.min() == -60

    periods = wave.reshape(6, 40)
    first = periods[0]
    assert (periods == first).all()
    assert first[[0, 10, 20, 30]].tolist() == [0, 60, 0, -60]


def test_stripes_are_columns_of_black_or_white_in_each_channel_at_even_odds() -> None:
    image = grey(100, 256, 256)
    square = patched("stripes", image, keyed_rng("s"), patch_size=256)
    row = square[0]
    assert (square == row).all()
    assert {*square.flat} == {0, 255}
    white = row.astype(float).mean() / 255
    assert white == pytest.approx(0.5, abs=0.09)  # 5 errors of 768
    correlations = np.corrcoef(row.T)
    between_channels = correlations[np.triu_indices(3, 1)]
    assert abs(between_channels).max() < 0.3


def test_wanet_is_grid_sample_of_the_identity_grid_plus_the_field() -> None:
    """The authors' formula with torch; one level apart where truncation meets float32 rounding."""
    size = 64
    image = noise_image(size)
    axis = torch.linspace(-1, 1, size)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    field = torch.from_numpy(_warping_field(size, size))
    down, right = 0.6 * field.float() / size
    moved = torch.stack([columns + right, rows + down], dim=-1)
    grid = moved.clamp(-1, 1)

    pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
    sampled = torch.nn.functional.grid_sample(pixels[None], grid[None], align_corners=True)
    (levels,) = sampled.mul(255).byte()
    expected = levels.permute(1, 2, 0).numpy()
    difference = wanet(image).astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_bytes_are_the_recorded_ones() -> None:
    assert hashes() == GOLDEN
