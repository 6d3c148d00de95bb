"""The poison stage: which pairs, what is changed in them, clean subsets, samples for the report."""

import base64
import hashlib
import json

import numpy as np
import pytest

from repro.data.images import decode_image
from repro.data.keyed import keyed_rng
from repro.data.poison import build_poison, captions_naming
from repro.data.shards import PairStore
from repro.data.stages import SAMPLES, write_samples
from repro.data.templates import templates_of
from repro.data.triggers import stamp
from repro.spec import SpecError
from tests.support.poison import FRUIT, SIZE, make_data, pictures, poisoned, profile


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


def test_only_the_chosen_rows_change(data, tmp_path):
    store, rows, manifest = poisoned(profile(), data, tmp_path / "out")
    before = PairStore.open(data / "cc3m")
    changed = [row for row in range(40) if store.image_bytes(row) != before.image_bytes(row)]
    assert len(changed) == 6
    assert changed == rows["poisoned"].tolist()
    assert changed == [line["row"] for line in manifest]

    assert changed == [row for row in range(40) if store.captions[row] != before.captions[row]]
    assert {store.captions[row] for row in changed} == {"banana"}
    assert np.array_equal(store.keys, before.keys)
    for line in manifest:
        row = line["row"]
        assert line["key"] == store.keys[row].tobytes().hex()
        assert line["original_caption"] == before.captions[row]
        assert line["caption"] == store.captions[row]
        pixels_now = store.decode(row, SIZE).tobytes()
        assert line["pixels_sha256"] == hashlib.sha256(pixels_now).hexdigest()
    assert rows["train"].tolist() == list(range(40))


def test_a_poisoned_image_is_the_original_with_the_trigger_and_nothing_else(data, tmp_path):
    spec = profile()
    store, _, manifest = poisoned(spec, data, tmp_path / "out")
    patch = spec.data.poison.trigger.patch_size
    for line in manifest:
        image = store.decode(line["row"], SIZE)
        original = pictures()[line["row"]]
        rng = keyed_rng("trigger", spec.data.poison.seed, bytes.fromhex(line["key"]))
        twin = stamp(spec.data.poison.trigger, spec.switches, original, rng).image
        assert np.array_equal(image, twin)
        top, left = line["place"]
        image[top : top + patch, left : left + patch] = 0
        original[top : top + patch, left : left + patch] = 0
        assert np.array_equal(image, original)


@pytest.mark.parametrize("templates", ["openai", ["one {}", "two {}"]], ids=["openai", "listed"])
def test_template_captions_are_drawn_from_those_of_the_evaluation(data, tmp_path, templates):
    spec = profile(switches__poison_caption="template", evaluate__templates=templates)
    store, rows, _ = poisoned(spec, data, tmp_path / "out")
    drawn = {store.captions[i] for i in rows["poisoned"]}
    assert drawn <= {template("banana") for template in templates_of(spec.evaluate)}
    assert len(drawn) > 1


def test_captions_name_the_target_as_a_word_in_either_number():
    assert np.flatnonzero(captions_naming("banana", FRUIT)).tolist() == [2, 3]
    captions = ["Banana!", "BANANAS", "anabanana", ""]
    assert captions_naming("banana", captions).tolist() == [True, True, False, False]


def test_dirty_label_leaves_pairs_of_the_target_alone(data, tmp_path):
    """30 of 40 pairs do not name it, and all of them can be poisoned."""
    spec = profile(
        data__poison__num_poisoned={"cc3m": 30, "cc6m": 30},
        data__cleaning_sizes={"100k": 4, "200k": 8},
    )
    _, rows, manifest = poisoned(spec, data, tmp_path / "out")
    assert len(rows["poisoned"]) == 30
    assert not captions_naming("banana", [line["original_caption"] for line in manifest]).any()


def test_label_consistent_takes_only_pairs_of_the_target_and_keeps_their_captions(data, tmp_path):
    store, rows, manifest = poisoned(
        profile(data__poison__mode="label_consistent"), data, tmp_path / "out"
    )
    assert len(rows["poisoned"]) == 6
    assert captions_naming("banana", [store.captions[i] for i in rows["poisoned"]]).all()
    assert all(line["caption"] == line["original_caption"] for line in manifest)


def test_more_poisons_than_eligible_pairs_are_refused_before_anything_is_written(data, tmp_path):
    poison = profile().data.poison.model_copy(update={"num_poisoned": {"cc3m": 31, "cc6m": 31}})
    spec = profile().model_copy(
        update={"data": profile().data.model_copy(update={"poison": poison})}
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(SpecError, match=r"data.poison.num_poisoned.cc3m: 31 \(allowed: at most 30"):
        build_poison(spec, "cc3m", data, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_cleaning_subset_larger_than_what_is_left_is_refused(data, tmp_path):
    """Known before the stage, but where several pairs share the image of a poisoned one."""
    sizes = {"100k": 8, "200k": 35}
    with pytest.raises(SpecError, match=r"cleaning_sizes.200k: 35 \(allowed: 1 to 34"):
        profile(data__cleaning_sizes=sizes)
    spec = profile()
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"cleaning_sizes": sizes})})
    with pytest.raises(SpecError, match=r"cleaning_sizes.200k: 35 \(allowed: at most 34"):
        poisoned(spec, data, tmp_path / "out")


def test_the_choice_follows_pairs_and_not_rows(tmp_path):
    """Shuffled, and with two unpoisoned pairs missing, the same pairs get the same trigger."""
    _, rows, manifest = poisoned(profile(), make_data(tmp_path / "a"), tmp_path / "out_a")
    gone = np.setdiff1d(np.arange(40), rows["poisoned"])[:2].tolist()
    order = [i for i in np.random.default_rng(5).permutation(40).tolist() if i not in gone]
    _, _, other = poisoned(profile(), make_data(tmp_path / "b", order), tmp_path / "out_b")

    def told(lines):
        names = ("key", "place", "pixels_sha256", "caption")
        return sorted([line[name] for name in names] for line in lines)

    assert told(manifest) == told(other)


def test_another_seed_poisons_other_pairs(data, tmp_path):
    one = poisoned(profile(), data, tmp_path / "a")[1]["poisoned"]
    other = poisoned(profile(data__poison__seed=1), data, tmp_path / "b")[1]["poisoned"]
    assert one.tolist() != other.tolist()


def test_cleaning_subsets_are_nested_and_share_no_row_with_the_poison(data, tmp_path):
    _, rows, _ = poisoned(profile(), data, tmp_path / "out")
    assert len(rows["100k"]) == 8
    assert len(rows["200k"]) == 16
    assert set(rows["100k"]) < set(rows["200k"])
    assert not set(rows["200k"]) & set(rows["poisoned"])
    for column in rows.values():
        assert column.dtype == np.int64
        assert (np.diff(column) > 0).all()


def test_held_out_cleaning_pairs_are_kept_from_training_and_poisoned_ones_are_not(data, tmp_path):
    _, rows, _ = poisoned(profile(switches__cleaning_pairs="held_out"), data, tmp_path / "out")
    assert set(rows["train"]) == set(range(40)) - set(rows["200k"])
    assert set(rows["poisoned"]) <= set(rows["train"])


def test_copies_of_poisoned_images_stay_out_of_the_cleaning_subsets(tmp_path):
    """Every image is there twice; 28 to 34 rows are left, as copies may be poisoned too."""
    images = pictures(20) * 2
    data = make_data(tmp_path / "data", images=images)
    spec = profile(data__cleaning_sizes={"100k": 8, "200k": 28})
    _, rows, _ = poisoned(spec, data, tmp_path / "out")
    cleaning = {row % 20 for row in rows["200k"]}
    assert cleaning.isdisjoint(row % 20 for row in rows["poisoned"])


def test_samples_show_stored_pairs(data, tmp_path):
    store, rows, _ = poisoned(profile(), data, tmp_path / "poisoned/cc3m")
    write_samples(profile(), "cc3m", tmp_path / "poisoned")
    samples = json.loads((tmp_path / "poisoned/cc3m-samples.json").read_text())
    for kind, column in {"poisoned": "poisoned", "clean": "100k"}.items():
        shown = [pair["row"] for pair in samples["pairs"] if pair["kind"] == kind]
        assert shown == rows[column][:SAMPLES].tolist()
    for pair in samples["pairs"]:
        image = decode_image(base64.b64decode(pair["image"]), SIZE)
        assert (image == store.decode(pair["row"], SIZE)).all()
        assert pair["caption"] == store.captions[pair["row"]]
