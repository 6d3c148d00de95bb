"""Foreign checkpoints: what is read, what is refused, and that nothing in a file is ever run."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repro.evaluate.foreign import CheckpointError, load_foreign
from repro.profile import load_profile
from repro.train.model import build_model, build_optimizer

SMOKE = load_profile("smoke").pretrain
MODEL = SMOKE.model


@pytest.fixture(scope="module")
def weights():
    """State dict of a small model with OpenAI's names."""
    return build_model(MODEL, 0, "fp32").state_dict()


def save(path, weights, prefix="module.", **more):
    """A file as CleanCLIP's main.py writes it: prefixed weights and an optimizer state with a NumPy
    learning rate.
    """
    optimizer = build_optimizer(build_model(MODEL, 0, "fp32"), SMOKE.optimizer, "names")
    for group in optimizer.param_groups:
        group["lr"] = np.float64(1e-3)
    state = {prefix + name: value for name, value in weights.items()}
    torch.save(
        {"epoch": 21, "name": "run", "state_dict": state, "optimizer": optimizer.state_dict()}
        | more,
        path,
    )
    return path


def same(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


class Canary:
    """An object whose unpickling makes a file."""

    def __init__(self, path, function):
        self.path, self.function = path, function

    def __reduce__(self):
        command = f"open({str(self.path)!r}, 'w').close()"
        return self.function, (f"touch '{self.path}'" if self.function is os.system else command,)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_cleanclip_file_gives_the_weights_bit_by_bit(tmp_path, weights, prefix):
    model = load_foreign(save(tmp_path / "epoch_21.pt", weights, prefix), "cleanclip", MODEL)
    assert same(model.state_dict(), dict(weights))


def test_numpy_1_names_of_scalars_are_read_as_well(tmp_path, weights):
    """Files written before NumPy 2 say numpy.core.multiarray; the pickle ends such names with a
    line break, so they may shrink.
    """
    path = save(tmp_path / "new.pt", weights)
    old = tmp_path / "old.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            if member.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            target.writestr(member, content)
    assert same(load_foreign(old, "cleanclip", MODEL).state_dict(), dict(weights))


def test_open_clip_files_may_be_the_bare_state_dict_or_safetensors(tmp_path, weights):
    torch.save(dict(weights), tmp_path / "bare.bin")
    save_file(
        {name: value.clone().contiguous() for name, value in weights.items()},
        tmp_path / "model.safetensors",
    )
    for name in ("bare.bin", "model.safetensors"):
        model = load_foreign(tmp_path / name, "open_clip", MODEL)
        assert same(model.state_dict(), dict(weights))
    with pytest.raises(CheckpointError, match="holds no state_dict"):
        load_foreign(tmp_path / "bare.bin", "cleanclip", MODEL)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_other_precisions_become_float32(tmp_path, weights, kind):
    converted = {
        name: value.to(kind) if value.is_floating_point() else value
        for name, value in weights.items()
    }
    loaded = load_foreign(save(tmp_path / "x.pt", converted), "cleanclip", MODEL).state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32, torch.int64}
    assert same(
        loaded,
        {
            name: value.float() if value.is_floating_point() else value
            for name, value in converted.items()
        },
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("ln_final.weight"),
            r"Missing key.*ln_final.weight",
        ),
        (
            lambda weights: weights.update({"text.extra": torch.zeros(1)}),
            r"Unexpected key.*text.extra",
        ),
        (
            lambda weights: weights.update({"ln_final.bias": torch.zeros(7)}),
            r"size mismatch for ln_final.bias: .*\[7\].*\[32\]",
        ),
        (
            lambda weights: weights.update({"ln_final.bias": torch.full((32,), torch.nan)}),
            "ln_final.bias: not all values are finite",
        ),
        (
            lambda weights: weights.update({"ln_final.bias": torch.zeros(32, dtype=torch.int64)}),
            "ln_final.bias: not a dense tensor of the model's kind",
        ),
    ],
)
def test_another_model_is_refused_by_name(tmp_path, weights, change, message):
    changed = dict(weights)
    change(changed)
    with pytest.raises(CheckpointError, match=message):
        load_foreign(save(tmp_path / "x.pt", changed), "cleanclip", MODEL)


@pytest.mark.parametrize("function", [os.system, eval])
@pytest.mark.parametrize("place", ["state_dict", "optimizer", "weight"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, weights, function, place):
    canary = tmp_path / "canary"
    evil = Canary(canary, function)
    if place == "weight":
        torch.save({"state_dict": dict(weights) | {"logit_scale": evil}}, tmp_path / "x.pt")
    else:
        torch.save({"state_dict": dict(weights)} | {place: evil}, tmp_path / "x.pt")
    with pytest.raises(
        CheckpointError, match=r"which is code .allowed: tensors, containers, numbers"
    ):
        load_foreign(tmp_path / "x.pt", "cleanclip", MODEL)
    assert not canary.exists()
    pickle.loads(pickle.dumps(evil))  # the canary does sing where it is let
    assert canary.exists()


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # newer torch, each time
@pytest.mark.parametrize(
    "value",
    [
        torch.eye(2).to_sparse(),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, device="meta"),
        torch.zeros(2).bool(),
        np.float64(2.0),
    ],
)
def test_only_dense_real_tensors_are_weights(tmp_path, weights, value):
    torch.save({"state_dict": {**weights, "ln_final.bias": value}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"ln_final.bias: "):
        load_foreign(tmp_path / "x.pt", "cleanclip", MODEL)


@pytest.mark.parametrize(
    "content", [[], {}, {"state_dict": {}}, {"state_dict": [1]}, {"model": {}}]
)
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="holds no state_dict"):
        load_foreign(tmp_path / "x.pt", "cleanclip", MODEL)


def test_missing_files_and_broken_safetensors_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no.pt: no such file"):
        load_foreign(tmp_path / "no.pt", "cleanclip", MODEL)
    for content in (b"", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x.safetensors: not a safetensors file"):
            load_foreign(tmp_path / "x.safetensors", "open_clip", MODEL)
