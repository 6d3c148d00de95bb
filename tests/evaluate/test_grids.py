"""`evaluate --trigger wanet --grid`: the field of the model's own trigger, from a safe file, or a
warning.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from repro.data.triggers import wanet
from repro.evaluate.attacks import Attack, twins_of
from repro.evaluate.grids import load_grid
from repro.profile import SPECS, load_profile, read_yaml
from repro.spec import SpecError, Switches

SMOKE = load_profile("smoke")
SIZE = SMOKE.data.image_size
AUTHORS = Switches.model_validate(read_yaml(SPECS / "protocols" / "authors.yaml"))


def noise_grid() -> np.ndarray:
    """A field as WaNet's code keeps it: (1, H, W, 2), right and down, mean absolute value 1."""
    field = np.random.default_rng(0).uniform(-1, 1, (1, SIZE, SIZE, 2)).astype(np.float32)
    return field / np.abs(field).mean()


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_grid_warps_as_grid_sample_does_with_it(
    tmp_path: Path, suffix: str, strength: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Identity grid plus strength * noise / H, corners aligned; one level where truncation meets
    rounding.
    """
    grid, path = noise_grid(), tmp_path / f"grid.{suffix}"
    if suffix == "npy":
        np.save(path, grid)
    else:
        save_file({"noise_grid": grid}, path)
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)

    twins = twins_of(Attack("wanet", "authors", path, strength), SMOKE, AUTHORS)
    assert twins is not None
    stamped = twins.stamp(image, 0)

    axis = torch.linspace(-1, 1, SIZE)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    places = torch.stack((columns, rows), 2)[None] + strength * torch.from_numpy(grid) / SIZE
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    warped = F.grid_sample(pixels, places.clamp(-1, 1), align_corners=True)[0]
    expected = (warped.permute(1, 2, 0) * 255).numpy().astype(int)
    assert np.abs(stamped.astype(int) - expected).max() <= 1
    assert (stamped != wanet(image, strength)).mean() > 0.5, "not this project's own field"
    assert capsys.readouterr().err == ""


def test_without_a_grid_it_warns_and_takes_its_own_field(
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    twins = twins_of(Attack("wanet"), SMOKE, AUTHORS)
    assert twins is not None
    assert (twins.stamp(image, 5) == wanet(image)).all()
    assert "warning: --trigger wanet without --grid warps by this project's own field" in (
        capsys.readouterr().err
    )


def content(kind: str) -> bytes | np.ndarray:
    """A file that is no grid."""
    made = {
        "pickle": pickle.dumps(noise_grid()),
        "empty": b"",
        "small": np.ones((1, 4, 4, 2), np.float32),
        "rows first": np.ones((2, SIZE, SIZE), np.float32),
        "integers": np.ones((SIZE, SIZE, 2), np.int64),
        "nan": np.full((SIZE, SIZE, 2), np.nan, np.float32),
        "zeros": np.zeros((SIZE, SIZE, 2), np.float32),
        "pixels": np.full((SIZE, SIZE, 2), 100.0, np.float32),
    }
    return made[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickle", "cannot be read"),
        ("empty", "cannot be read"),
        ("small", r"shape \(1, 4, 4, 2\) \(allowed: \(32, 32, 2\)"),
        ("rows first", r"shape \(2, 32, 32\)"),
        ("integers", "int64 .allowed: finite floating-point numbers"),
        ("nan", "float32 .allowed: finite floating-point numbers"),
        ("zeros", "mean absolute value 0 "),
        ("pixels", "mean absolute value 100 "),
    ],
)
def test_a_file_that_is_no_grid_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    path, made = tmp_path / "grid.npy", content(kind)
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        np.save(path, made)
    with pytest.raises(SpecError, match=rf"--grid: .*grid.npy: {message}"):
        load_grid(path, SIZE)


def test_a_pickle_is_not_even_opened(tmp_path: Path) -> None:
    path = tmp_path / "noise_grid.pt"
    torch.save(torch.from_numpy(noise_grid()), path)
    with pytest.raises(SpecError, match=r"allowed: a .npy or .safetensors file"):
        load_grid(path, SIZE)
    with pytest.raises(SpecError, match="no such file"):
        load_grid(tmp_path / "none.npy", SIZE)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Attack("badnet", "authors", Path("grid.npy")), "allowed with --trigger wanet only"),
        (Attack(None, "authors", None, 1.0), "allowed with --trigger wanet only"),
        (Attack("wanet", "authors", None, 0.0), "--strength: 0.0 .allowed: above 0"),
        (Attack("wanet", "authors", None, float("nan")), "--strength: nan"),
    ],
)
def test_options_that_make_no_sense_are_refused(attack: Attack, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        twins_of(attack, SMOKE, AUTHORS)
