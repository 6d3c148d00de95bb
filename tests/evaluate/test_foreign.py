"""`evaluate`: a stranger's checkpoint on a folder of images gives the numbers of the project's own
evaluation.
"""

import numpy as np
import pytest
import torch

from repro.data.images import ImageError, encode_png
from repro.data.keyed import keyed_rng
from repro.data.shards import ShardWriter, write_store
from repro.data.templates import templates_of
from repro.evaluate.foreign import Attack, evaluate_foreign
from repro.evaluate.images import EvaluationSet
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import evaluate_model
from repro.profile import load_classnames, load_profile
from repro.spec import SpecError, Trigger
from repro.train.model import build_model

SMOKE = load_profile("smoke")
NAMES = load_classnames(SMOKE)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder with a class folder by label, two images each, not square; and a checkpoint of
    random weights.
    """
    folder = tmp_path_factory.mktemp("scene")
    for label in range(len(NAMES)):
        (folder / "images" / str(label)).mkdir(parents=True)
        for number in range(2):
            pixels = keyed_rng("scene", label, number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
            (folder / "images" / str(label) / f"{number}.png").write_bytes(encode_png(pixels))
    model = build_model(SMOKE.pretrain.model, 7, "fp32")
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, folder / "epoch_1.pt")
    return folder, model


@pytest.mark.parametrize("protocol", ["authors", "paper"])
def test_numbers_are_those_of_the_projects_own_evaluation(scene, tmp_path, protocol):
    folder, model = scene
    result = evaluate_foreign(
        folder / "epoch_1.pt",
        "cleanclip",
        folder / "images",
        Attack("badnet", protocol),
        "smoke",
    )
    writer = ShardWriter(tmp_path)
    for label in range(len(NAMES)):
        for number in range(2):
            writer.add(
                (folder / "images" / str(label) / f"{number}.png").read_bytes(),
                "png",
                NAMES[label],
                label,
            )
    write_store(tmp_path, *writer.close())
    switches = load_profile(protocol).switches
    target = NAMES.index("banana")
    trigger = Trigger(name="badnet", patch_size=SMOKE.data.poison.trigger.patch_size)
    own = EvaluationSet(
        tmp_path, 32, target, trigger, switches, SMOKE.evaluate.trigger_seed, tmp_path / "cache"
    )
    prompts = PromptSet(NAMES, templates_of(SMOKE.evaluate), switches.truncation)
    correct, attacked, *_ = evaluate_model(model, own, prompts, torch.device("cpu"))
    assert result["accuracy"]["count"] == correct.sum() and result["accuracy"]["total"] == 2 * len(
        NAMES
    )
    assert result["attack"]["all"]["count"] == attacked.sum() and result["attack"]["all"][
        "total"
    ] == 2 * len(NAMES)
    assert result["attack"]["non_target"]["count"] == attacked[~own.is_target].sum()
    assert result["attack"]["non_target"]["total"] == 2 * len(NAMES) - 2


def test_a_missing_class_is_refused(scene, tmp_path):
    folder, _ = scene
    for label in range(len(NAMES) - 1):
        (tmp_path / str(label)).symlink_to(folder / "images" / str(label))
    with pytest.raises(
        SpecError,
        match=f"{len(NAMES) - 1} sub-folders.*allowed: one for each of {len(NAMES)} classes",
    ):
        evaluate_foreign(folder / "epoch_1.pt", "cleanclip", tmp_path, Attack(None), "smoke")


def test_an_image_that_cannot_be_decoded_is_named_and_not_skipped(scene, tmp_path):
    folder, _ = scene
    for label in range(len(NAMES)):
        (tmp_path / str(label)).mkdir()
        (tmp_path / str(label) / "0.png").write_bytes(
            (folder / "images" / str(label) / "0.png").read_bytes()
        )
    (tmp_path / "5" / "1.png").write_bytes(b"<html>")
    with pytest.raises(ImageError, match=r"1.png: not_an_image"):
        evaluate_foreign(folder / "epoch_1.pt", "cleanclip", tmp_path, Attack("badnet"), "smoke")
