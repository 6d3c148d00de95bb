"""Foreign checkpoints: what is read, what is refused; the numbers are the project's own."""

import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import open_clip
import pytest
import torch

from repro.__main__ import main
from repro.data.images import ImageError, encode_png
from repro.data.keyed import keyed_rng
from repro.data.templates import templates_of
from repro.evaluate.foreign import (
    CheckpointError,
    blank_model,
    evaluate_foreign,
    load_foreign,
)
from repro.evaluate.images import EvaluationSet
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import evaluate_model
from repro.profile import load_classnames, load_profile
from repro.spec import SpecError, Trigger
from repro.train.build import build_model, build_optimizer
from repro.train.process.checkpoint import save_tensors
from tests.support.evaluation import write_rows

SMOKE = load_profile("smoke").pretrain
MODEL = SMOKE.model


@pytest.fixture(scope="module")
def weights():
    """State dict of a small model with OpenAI's names."""
    return build_model(MODEL, 0, "fp32").state_dict()


def save(path, weights, prefix="module."):
    """As CleanCLIP's main.py writes it: prefixed weights, a NumPy learning rate."""
    model = build_model(MODEL, 0, "fp32")
    optimizer = build_optimizer(model, SMOKE.optimizer, "names")
    for group in optimizer.param_groups:
        group["lr"] = np.float64(1e-3)
    content = {
        "epoch": 21,
        "name": "run",
        "state_dict": {prefix + name: value for name, value in weights.items()},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path)
    return path


def same(left, right):
    if left.keys() != right.keys():
        return False
    return all(map(torch.equal, left.values(), right.values()))


class Canary:
    """An object whose unpickling makes a file."""

    def __init__(self, path, function):
        self.path, self.function = path, function

    def __reduce__(self):
        command = f"open({str(self.path)!r}, 'w').close()"
        if self.function is os.system:
            command = f"touch '{self.path}'"
        return self.function, (command,)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_cleanclip_file_gives_the_weights_bit_by_bit(tmp_path, weights, prefix):
    path = save(tmp_path / "epoch_21.pt", weights, prefix)
    model = load_foreign(path, "cleanclip", MODEL)
    assert same(model.state_dict(), dict(weights))


def test_numpy_1_names_of_scalars_are_read_as_well(tmp_path, weights):
    """Files of before NumPy 2 say numpy.core.multiarray; such names end with a line break."""
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
    save_tensors(tmp_path / "model.safetensors", weights)
    for name in ("bare.bin", "model.safetensors"):
        model = load_foreign(tmp_path / name, "open_clip", MODEL)
        assert same(model.state_dict(), dict(weights))
    with pytest.raises(CheckpointError, match="holds no state_dict"):
        load_foreign(tmp_path / "bare.bin", "cleanclip", MODEL)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_other_precisions_become_float32(tmp_path, weights, kind):
    converted = {}
    expected = {}
    for name, value in weights.items():
        is_float = value.is_floating_point()
        converted[name] = value.to(kind) if is_float else value
        expected[name] = converted[name].float() if is_float else value

    path = save(tmp_path / "x.pt", converted)
    loaded = load_foreign(path, "cleanclip", MODEL).state_dict()

    assert {value.dtype for value in loaded.values()} == {torch.float32, torch.int64}
    assert same(loaded, expected)


BIAS = "ln_final.bias"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ln_final.weight", None, r"Missing key.*ln_final.weight"),
        ("text.extra", torch.zeros(1), r"Unexpected key.*text.extra"),
        (BIAS, torch.zeros(7), r"size mismatch for ln_final.bias: .*\[7\].*\[32\]"),
        (BIAS, torch.full((32,), torch.nan), "ln_final.bias: not all values are finite"),
        (BIAS, torch.zeros(32, dtype=torch.int64), "bias: not a dense tensor of the model's kind"),
    ],
)
def test_another_model_is_refused_by_name(tmp_path, weights, name, value, message):
    changed = {**weights, name: value}
    if value is None:
        del changed[name]
    with pytest.raises(CheckpointError, match=message):
        load_foreign(save(tmp_path / "x.pt", changed), "cleanclip", MODEL)


@pytest.mark.parametrize("name", ["text.extra", BIAS])
def test_a_value_that_stands_for_gigabytes_takes_no_memory(tmp_path, weights, name, monkeypatch):
    """A stride of 0 repeats one stored value."""
    huge = torch.zeros(1).expand(10**11)
    path = save(tmp_path / "x.pt", {**weights, name: huge})
    assert path.stat().st_size < 10**7
    sizes = []
    finite = torch.Tensor.isfinite

    def looked_at(value):
        sizes.append(value.numel())
        return finite(value if value.numel() < 10**8 else value[:1])

    monkeypatch.setattr(torch.Tensor, "isfinite", looked_at)
    with pytest.raises(CheckpointError, match=f"x.pt: not the specified model: .*{name}"):
        load_foreign(path, "cleanclip", MODEL)
    assert max(sizes, default=0) < 10**8


@pytest.mark.parametrize("function", [os.system, eval])
@pytest.mark.parametrize("place", ["state_dict", "optimizer", "weight"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, weights, function, place):
    canary = tmp_path / "canary"
    evil = Canary(canary, function)
    plain = {"state_dict": dict(weights)}
    in_weights = {"state_dict": {**weights, "logit_scale": evil}}
    torch.save(in_weights if place == "weight" else plain | {place: evil}, tmp_path / "x.pt")
    said = r"which is code .allowed: tensors, containers, numbers"
    with pytest.raises(CheckpointError, match=said):
        load_foreign(tmp_path / "x.pt", "cleanclip", MODEL)
    assert not canary.exists()
    pickle.loads(pickle.dumps(evil))  # the canary does sing where it is let
    assert canary.exists()


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # newer torch, each time
@pytest.mark.parametrize("kind", ["sparse", "complex", "meta", "bool", "NumPy"])
def test_only_dense_real_tensors_are_weights(tmp_path, weights, kind):
    values = {
        "sparse": torch.eye(2).to_sparse(),
        "complex": torch.zeros(2) + 0j,
        "meta": torch.zeros(2, device="meta"),
        "bool": torch.zeros(2).bool(),
        "NumPy": np.float64(2.0),
    }
    changed = {**weights, BIAS: values[kind]}
    torch.save({"state_dict": changed}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"ln_final.bias: "):
        load_foreign(tmp_path / "x.pt", "cleanclip", MODEL)


@pytest.mark.parametrize(
    "content", [[], {}, {"state_dict": {}}, {"state_dict": [1]}, {"model": {}}]
)
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="holds no state_dict"):
        load_foreign(tmp_path / "x.pt", "cleanclip", MODEL)


BROKEN_SAFETENSORS = [
    b"",
    b"\xff" * 64,
    (2**40).to_bytes(8, "little") + b"{}",  # claims a header of 2^40 bytes
]


def test_missing_files_and_broken_safetensors_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no.pt: cannot be read .*No such file"):
        load_foreign(tmp_path / "no.pt", "cleanclip", MODEL)
    path = tmp_path / "x.safetensors"
    for content in BROKEN_SAFETENSORS:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x.safetensors: cannot be read as weights"):
            load_foreign(path, "open_clip", MODEL)


@pytest.mark.parametrize("content", [b"", b"epoch 21\n", b"<!DOCTYPE html>", pickle.dumps([1], 5)])
def test_a_file_that_is_no_checkpoint_is_named_with_what_is_allowed(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"x.pt: cannot be read .*allowed: what torch"
    ) as said:
        load_foreign(tmp_path / "x.pt", "cleanclip", MODEL)
    assert "PyTorch 2.6" not in str(said.value)


PROFILE = load_profile("smoke")
NAMES = load_classnames(PROFILE)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder by label, two images each, not square; and a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("scene")
    for label in range(len(NAMES)):
        of_label = folder / "images" / str(label)
        of_label.mkdir(parents=True)
        for number in range(2):
            rng = keyed_rng("scene", label, number)
            pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            (of_label / f"{number}.png").write_bytes(encode_png(pixels))
    model = build_model(PROFILE.pretrain.model, 7, "fp32")
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, folder / "epoch_1.pt")
    return folder, model


def assert_counts(share, outcomes, total):
    """A share of a result counts what these outcomes count."""
    assert share["count"] == outcomes.sum()
    assert share["total"] == total


@pytest.mark.parametrize("protocol", ["authors", "paper"])
def test_numbers_are_those_of_the_projects_own_evaluation(scene, tmp_path, protocol):
    folder, model = scene
    images = folder / "images"
    told = (folder / "epoch_1.pt", "cleanclip", images, "smoke")
    result = evaluate_foreign(*told, trigger="badnet", protocol=protocol)

    # The same images as a store of the project's own, evaluated by its own code.
    rows = []
    for label, name in enumerate(NAMES):
        for number in (0, 1):
            path = images / str(label) / f"{number}.png"
            rows.append((path.read_bytes(), name, label))
    write_rows(tmp_path, rows)
    switches = load_profile(protocol).switches
    patch_size = PROFILE.data.poison.trigger.patch_size
    own = EvaluationSet(
        tmp_path,
        32,
        target=NAMES.index("banana"),
        trigger=Trigger(name="badnet", patch_size=patch_size),
        switches=switches,
        seed=PROFILE.evaluate.trigger_seed,
        cache_dir=tmp_path / "cache",
    )
    prompts = PromptSet(NAMES, templates_of(PROFILE.evaluate), switches.truncation)
    expected = evaluate_model(model, own, prompts, torch.device("cpu"))

    count = 2 * len(NAMES)
    assert_counts(result["accuracy"], expected.correct, count)
    assert_counts(result["attack"]["all"], expected.attacked, count)
    others = expected.attacked[~own.is_target]
    assert_counts(result["attack"]["non_target"], others, count - 2)


def test_a_model_by_open_clips_name_is_evaluated_at_its_size(scene, monkeypatch):
    """A small transformer over 64 px."""
    tower = {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": tower, "text_cfg": text}
    monkeypatch.setattr(open_clip, "list_models", lambda: ["ViT-toy", "foreign"])
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: config)
    folder, _ = scene
    model = blank_model("ViT-toy")
    assert model.visual.image_size == (64, 64)

    torch.save({"state_dict": model.state_dict()}, folder / "vit.pt")
    told = (folder / "vit.pt", "open_clip", folder / "images", "smoke")
    result = evaluate_foreign(*told, "ViT-toy", "badnet")
    assert result["images"] == 2 * len(NAMES)
    assert "attack" in result

    with pytest.raises(CheckpointError, match="not the specified model"):
        evaluate_foreign(*told)
    with pytest.raises(SpecError, match=r"--model: 'ViT-B' .allowed: a name of open_clip.list_mod"):
        blank_model("ViT-B")
    config["text_cfg"] = {"hf_model_name": "somebody/roberta"}
    with pytest.raises(SpecError, match=r"--model: 'foreign' .allowed: a text tower of 77 places"):
        blank_model("foreign")


def shapes(state):
    """Shapes of weights by name."""
    return {name: value.shape for name, value in state.items()}


@pytest.mark.parametrize("name", ["RN50", "ViT-B-32", "ViT-B-16-quickgelu"])
def test_open_clips_names_are_its_models(name):
    """Names and shapes of all weights, by open_clip's own factory."""
    with torch.device("meta"):
        ours = blank_model(name)
        theirs = open_clip.create_model(name, load_weights=False, device="meta")
    assert shapes(ours.state_dict()) == shapes(theirs.state_dict())


def test_a_missing_class_is_refused(scene, tmp_path):
    folder, _ = scene
    for label in range(len(NAMES) - 1):
        (tmp_path / str(label)).symlink_to(folder / "images" / str(label))
    said = (
        f"{len(NAMES) - 1} sub-folders.*allowed: one for each of the profile's {len(NAMES)} classes"
    )
    with pytest.raises(SpecError, match=said):
        evaluate_foreign(folder / "epoch_1.pt", "cleanclip", tmp_path, "smoke")


def test_an_image_that_cannot_be_decoded_is_named_and_not_skipped(scene, tmp_path):
    folder, _ = scene
    images = shutil.copytree(folder / "images", tmp_path / "images")
    (images / "5" / "1.png").write_bytes(b"<html>")
    with pytest.raises(ImageError, match=r"1.png: not_an_image"):
        evaluate_foreign(folder / "epoch_1.pt", "cleanclip", images, "smoke")


def test_the_command_prints_json(scene, capsys):
    folder, _ = scene
    call = f"evaluate --checkpoint {folder}/epoch_1.pt --format cleanclip --images {folder}/images"
    assert main(f"{call} --profile smoke --trigger badnet --target 3".split()) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["attack"]["target_number"] == 3
    assert content["images"] == 2 * len(NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "bananna"}, r"--target: 'bananna' \(allowed: a class name .* 0"),
        ({"target": str(len(NAMES))}, r"--target: '\d+' .* 0 to \d+"),
        ({"trigger": None, "target": "3"}, "--target: allowed with --trigger only"),
    ],
)
def test_options_that_clash_are_refused(scene, options, message):
    folder, _ = scene
    told = (folder / "epoch_1.pt", "cleanclip", folder / "images", "smoke")
    with pytest.raises(SpecError, match=message):
        evaluate_foreign(*told, **({"trigger": "badnet"} | options))
