"""Samples for the report: pairs as they are in the store, evaluation images with the twin that
evaluations show.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import torch

from repro.data.images import decode_image, encode_png
from repro.data.samples import PAIRS, write_samples
from repro.data.shards import PairStore, ShardWriter, write_store
from repro.evaluate.images import EvaluationSet
from tests.support.poison import FRUIT, SIZE, make_data, pictures, poisoned, profile


def pixels(text: str) -> np.ndarray:
    return decode_image(base64.b64decode(text), SIZE)


def test_samples_show_stored_pairs_and_the_twins_of_the_evaluation(tmp_path: Path):
    """Twenty evaluation images, of which eight are shown: every second or third."""
    spec = profile()
    data = make_data(tmp_path / "data")
    store, rows, manifest = poisoned(spec, data, tmp_path / "poisoned/cc3m")
    evaluation = data / "evaluation"
    evaluation.mkdir()
    writer = ShardWriter(evaluation)
    for i, image in enumerate(pictures(20)):
        writer.add(encode_png(image), "png", "", label=i % len(FRUIT))
    write_store(evaluation, *writer.close())
    (evaluation / "classnames.txt").write_text("\n".join(FRUIT) + "\n")
    (evaluation / "near-copies.json").write_text('[{"class": "pear"}]')
    write_samples(spec, "cc3m", data, tmp_path / "poisoned")

    samples = json.loads((tmp_path / "poisoned/cc3m-samples.json").read_text())
    assert samples["accounting"]["poisoned"] == 6
    assert samples["near_copies"] == [{"class": "pear"}]
    shown = {"poisoned": rows["poisoned"][:PAIRS].tolist(), "clean": rows["100k"][:PAIRS].tolist()}
    for kind, chosen in shown.items():
        assert [p["row"] for p in samples["pairs"] if p["kind"] == kind] == chosen
    originals = {line["row"]: line["original_caption"] for line in manifest}
    for pair in samples["pairs"]:
        assert (pixels(pair["image"]) == store.decode(pair["row"], SIZE)).all()
        assert pair["caption"] == store.captions[pair["row"]]
        assert pair["original_caption"] == originals.get(pair["row"])

    poison, seed = spec.data.poison, spec.evaluate.trigger_seed
    images = EvaluationSet(
        evaluation, SIZE, 0, poison.trigger, spec.switches, seed, tmp_path / "cache"
    )
    [(_, twins)] = images.batches([range(20)], 0, torch.device("cpu"))
    twins = twins.numpy()
    originals_of = PairStore.open(evaluation)
    assert [image["row"] for image in samples["evaluation"]] == [0, 2, 5, 7, 10, 12, 15, 17]
    for image in samples["evaluation"]:
        assert (pixels(image["image"]) == originals_of.decode(image["row"], SIZE)).all()
        assert (pixels(image["triggered"]) == twins[image["row"]]).all()
        assert image["class"] == FRUIT[image["row"] % len(FRUIT)]
