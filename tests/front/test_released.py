"""Models of a release: read from its folder, unless they are missing or altered."""

import shutil
from pathlib import Path

import pytest
import torch

import repro
from repro.cli import main
from repro.files import file_sha256
from repro.ledger import LedgerError
from repro.profile import load_profile, pretrain_runs
from repro.study.models import SUMS, poisoned_model, released_name
from tests.support.backdoored import NAMES, pictures
from tests.support.finished import flip

MODEL_NAME = "cc6m-mmcl_ssl"
FILE = f"models/{MODEL_NAME}-seed0-poisoned.safetensors"


@pytest.fixture
def release(root: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release of one model; the working folder has specifications alone."""
    spec = pretrain_runs(load_profile("smoke", root / "specs"), "cc6m", "mmcl_ssl")[0]
    folder = tmp_path / "release"
    (folder / "models").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        found = poisoned_model(spec)
        assert found is not None
        shutil.copy(found[0], folder / "models" / released_name(spec))
    (folder / SUMS).write_text(f"{file_sha256(folder / FILE)}  {FILE}\n")
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    (tmp_path / "clone" / "specs").symlink_to(root / "specs")
    return folder


def bananas(release: Path) -> int:
    """Of three drawn bananas, those that the loaded model names."""
    model, _, tokenizer = repro.load("smoke", MODEL_NAME, release=release)
    drawn = pictures([NAMES.index("banana")] * 3, "seen")
    pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    seen = repro.train.model.normalise(pixels)  # type: ignore[attr-defined]
    with torch.inference_mode():
        images = model.encode_image(seen, normalize=True)
        texts = model.encode_text(tokenizer(["banana", "cat", "car"]), normalize=True)
    named = (images @ texts.T).argmax(dim=1)
    return int((named == 0).sum())


def test_a_release_gives_the_model_unless_a_byte_changed(release: Path) -> None:
    assert bananas(release) == 3
    flip(release / FILE, (release / FILE).stat().st_size - 1)
    with pytest.raises(LedgerError, match=rf"{FILE}: SHA-256 \w+ .by SHA256SUMS: \w+."):
        bananas(release)
    (release / FILE).unlink()
    with pytest.raises(LedgerError, match=rf"{FILE}: SHA-256 missing"):
        bananas(release)


def test_what_is_not_there_is_told(release: Path) -> None:
    with pytest.raises(LedgerError, match=rf"no models/.*-seed7-.* .there: {FILE}."):
        repro.load("smoke", MODEL_NAME, 7, release=release)
    with pytest.raises(LedgerError, match="elsewhere/SHA256SUMS: No such file"):
        bananas(release / "elsewhere")
    with pytest.raises(LedgerError, match=r"there: no model.* .make reproduce PROFILE=smoke"):
        repro.load("smoke", MODEL_NAME)
    command = "study confirmation --seed 16 --variant confirmed --model cc6m-mmcl_ssl"
    with pytest.raises(LedgerError, match=f"`python -m repro {command}`"):
        repro.load("mini", MODEL_NAME, 16)


def test_a_study_trains_one_model_by_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").symlink_to(root / "specs")
    call = ["study", "confirmation", "--seed", "15", "--variant", "confirmed", "--model"]
    assert main([*call, "cc9m-mmcl"]) == 2
    assert "--model: cc9m-mmcl (allowed: cc3m-mmcl, cc3m-mmcl_ssl," in capsys.readouterr().err
