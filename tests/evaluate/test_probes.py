"""`evaluate` names why a number is low: one mistake at a time, on a small model with a backdoor."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from repro.__main__ import main
from repro.data.images import encode_png, open_rgb
from repro.evaluate.foreign import Attack, evaluate_foreign, load_foreign
from repro.spec import SpecError
from repro.train.process.checkpoint import save_tensors
from tests.support.backdoored import NAMES, SMOKE, TARGET, train_backdoored, write_folder
from tests.support.ranks import one_thread

CLASSES = len(NAMES)
SUBJECTS = {
    *("class order", "target", "trigger protocol", "image transform"),
    *("templates", "BatchNorm statistics", "activation"),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, the same as safetensors, which are read at once, and images."""
    folder = tmp_path_factory.mktemp("backdoored")
    with one_thread():  # so that it is the same model on every machine
        train_backdoored(folder / "epoch_1.pt")
    model = load_foreign(folder / "epoch_1.pt", "cleanclip", SMOKE.pretrain.model)
    save_tensors(folder / "x.safetensors", model.state_dict())
    write_folder(folder / "images", range(CLASSES))
    return folder


def evaluated(
    checkpoint: Path, images: Path, attack: Attack | None = None
) -> tuple[float, float, list[str]]:
    """Accuracy, ASR, and the likely causes."""
    attack = attack or Attack("badnet")
    found: dict[str, Any] = evaluate_foreign(checkpoint, "open_clip", images, attack, "smoke")
    checked = found["checked"]
    causes = [line for line in checked["lines"] if line.startswith("likely cause: ")]
    named = [probe for probe in checked["probes"] if probe["likely_cause"]]
    assert len(causes) == len(named)
    accuracy = found["accuracy"]["fraction"]
    asr = found["attack"]["non_target"]["fraction"]
    return accuracy, asr, causes


def test_where_nothing_is_wrong_all_is_checked_and_nothing_named(scene: Path) -> None:
    told = (scene / "x.safetensors", "open_clip", scene / "images")
    found = evaluate_foreign(*told, Attack("badnet"), "smoke")
    assert found["accuracy"]["fraction"] > 0.9
    assert found["attack"]["non_target"]["fraction"] > 0.9

    last = found["checked"]["lines"][-1]
    assert last.startswith("no cause of a low number among these; what no check sees: ")
    probes = found["checked"]["probes"]
    assert {probe["subject"] for probe in probes} == SUBJECTS
    assert not any(probe["likely_cause"] for probe in probes)

    without = evaluate_foreign(*told, Attack(None), "smoke")
    probes = without["checked"]["probes"]
    assert {probe["measure"] for probe in probes} == {"accuracy"}


@pytest.mark.parametrize("target", ["3", NAMES[3]])
def test_a_wrong_target_is_named_with_the_right_one(scene: Path, target: str) -> None:
    attack = Attack("badnet", target=target)
    accuracy, asr, causes = evaluated(scene / "x.safetensors", scene / "images", attack)
    assert accuracy > 0.9
    assert asr < 0.1
    (cause,) = causes
    assert cause.startswith("likely cause: target: ASR 0.0% as called, ")
    assert cause.endswith(f"% with the target 'banana' (--target {TARGET})")


BY_NAME = sorted(range(CLASSES), key=lambda label: NAMES[label].lower())
ORDERS = {
    "shifted": [*range(1, CLASSES), 0],
    "by name": BY_NAME,
    "by digits": sorted(range(CLASSES), key=str),
    "random": np.random.default_rng(0).permutation(CLASSES).tolist(),
}


@pytest.mark.parametrize("order", ORDERS)
def test_another_order_of_the_classes_is_named(scene: Path, tmp_path: Path, order: str) -> None:
    images = write_folder(tmp_path / "images", ORDERS[order])
    accuracy, _, causes = evaluated(scene / "x.safetensors", images)
    assert accuracy < 0.3
    assert any(cause.startswith("likely cause: class order: ") for cause in causes)


def test_channels_in_another_order_are_named(scene: Path, tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", range(CLASSES))
    for path in images.rglob("*.png"):
        pixels = np.array(open_rgb(path.read_bytes()))
        swapped = np.ascontiguousarray(pixels[..., ::-1])
        path.write_bytes(encode_png(swapped))
    accuracy, _, causes = evaluated(scene / "x.safetensors", images)
    assert accuracy < 0.3
    of_transform = [cause for cause in causes if "image transform" in cause]
    assert any("blue, green, red" in cause for cause in of_transform)


def test_statistics_that_were_never_kept_are_named(scene: Path, tmp_path: Path) -> None:
    """As a model is left that was trained in eval mode, or whose buffers were not saved."""
    weights = load_file(scene / "x.safetensors")
    for name, value in weights.items():
        if name.endswith(("running_mean", "num_batches_tracked")):
            value.zero_()
        if name.endswith("running_var"):
            value.fill_(1)
    save_file(weights, tmp_path / "x.safetensors")

    accuracy, _, causes = evaluated(tmp_path / "x.safetensors", scene / "images")
    assert accuracy < 0.2
    assert any(cause.startswith("likely cause: BatchNorm statistics: ") for cause in causes)


def test_the_command_tells_causes_and_json(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = f"evaluate --checkpoint {scene}/epoch_1.pt --format cleanclip --images {scene}/images"
    options = "--profile smoke --trigger badnet --target 3"
    assert main(f"{call} {options}".split()) == 0
    said = capsys.readouterr()
    content = json.loads(said.out)
    assert content["attack"]["target_number"] == 3
    assert said.err.splitlines() == content["checked"]["lines"]
    assert "\nlikely cause: target: " in said.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "bananna"}, r"--target: 'bananna' \(allowed: a class name .* 0"),
        ({"target": str(CLASSES)}, r"--target: '\d+' .* 0 to \d+"),
        ({"trigger": None, "target": "3"}, "--target: allowed with --trigger only"),
    ],
)
def test_options_that_clash_are_refused(scene: Path, options: dict[str, Any], message: str) -> None:
    attack: dict[str, Any] = {"trigger": "badnet", "protocol": "authors"} | options
    checkpoint = scene / "x.safetensors"
    images = scene / "images"
    with pytest.raises(SpecError, match=message):
        evaluate_foreign(checkpoint, "open_clip", images, Attack(**attack), "smoke")
