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
    chosen = rows["poisoned"].tolist()
    assert len(chosen) == 6
    assert [line["row"] for line in manifest] == chosen
    for row in range(40):
        same_image = store.image_bytes(row) == before.image_bytes(row)
        same_caption = store.captions[row] == before.captions[row]
        assert same_image == (row not in chosen)
        assert same_caption == (row not in chosen)
    assert {store.captions[row] for row in chosen} == {"banana"}
    assert np.array_equal(store.keys, before.keys)
    assert rows["train"].tolist() == list(range(40))

    for line in manifest:
        row = line["row"]
        assert line["key"] == store.keys[row].tobytes().hex()
        assert line["original_caption"] == before.captions[row]
        assert line["caption"] == store.captions[row]
        pixels_now = store.decode(row, SIZE).tobytes()
        assert line["pixels_sha256"] == hashlib.sha256(pixels_now).hexdigest()


def test_a_poisoned_image_is_the_original_with_the_trigger_and_nothing_else(data, tmp_path):
    spec = profile()
    poison = spec.data.poison
    store, _, manifest = poisoned(spec, data, tmp_path / "out")
    for line in manifest:
        image = store.decode(line["row"], SIZE)
        original = pictures()[line["row"]]
        rng = keyed_rng("trigger", poison.seed, bytes.fromhex(line["key"]))
        twin = stamp(poison.trigger, spec.switches, original, rng).image
        assert np.array_equal(image, twin)

        top, left = line["place"]
        bottom = top + poison.trigger.patch_size
        right = left + poison.trigger.patch_size
        image[top:bottom, left:right] = 0
        original[top:bottom, left:right] = 0
        assert np.array_equal(image, original)


@pytest.mark.parametrize("templates", ["openai", ["one {}", "two {}"]], ids=["openai", "listed"])
def test_template_captions_are_drawn_from_those_of_the_evaluation(data, tmp_path, templates):
    spec = profile(switches__poison_caption="template", evaluate__templates=templates)
    store, rows, _ = poisoned(spec, data, tmp_path / "out")
    drawn = {store.captions[row] for row in rows["poisoned"]}
    possible = {template("banana") for template in templates_of(spec.evaluate)}
    assert drawn <= possible
    assert len(drawn) > 1


def test_captions_name_the_target_as_a_word_in_either_number():
    in_fruit = captions_naming("banana", FRUIT)
    assert np.flatnonzero(in_fruit).tolist() == [2, 3]
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
    originals = [line["original_caption"] for line in manifest]
    assert not captions_naming("banana", originals).any()


def test_label_consistent_takes_only_pairs_of_the_target_and_keeps_their_captions(data, tmp_path):
    spec = profile(data__poison__mode="label_consistent")
    store, rows, manifest = poisoned(spec, data, tmp_path / "out")
    assert len(rows["poisoned"]) == 6
    captions = [store.captions[row] for row in rows["poisoned"]]
    assert captions_naming("banana", captions).all()
    for line in manifest:
        assert line["caption"] == line["original_caption"]


def with_data(spec, **changed):
    """The profile with other settings of its data, which nothing validates."""
    return spec.model_copy(update={"data": spec.data.model_copy(update=changed)})


def test_more_poisons_than_eligible_pairs_are_refused_before_anything_is_written(data, tmp_path):
    too_many = {"num_poisoned": {"cc3m": 31, "cc6m": 31}}
    poison = profile().data.poison.model_copy(update=too_many)
    spec = with_data(profile(), poison=poison)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(SpecError, match=r"data.poison.num_poisoned.cc3m: 31 \(allowed: at most 30"):
        build_poison(spec, "cc3m", data, out)
    assert not list(out.iterdir())


def test_a_cleaning_subset_larger_than_what_is_left_is_refused(data, tmp_path):
    """Known before the stage, but where several pairs share the image of a poisoned one."""
    sizes = {"100k": 8, "200k": 35}
    with pytest.raises(SpecError, match=r"cleaning_sizes.200k: 35 \(allowed: 1 to 34"):
        profile(data__cleaning_sizes=sizes)
    spec = with_data(profile(), cleaning_sizes=sizes)
    with pytest.raises(SpecError, match=r"cleaning_sizes.200k: 35 \(allowed: at most 34"):
        poisoned(spec, data, tmp_path / "out")


def test_the_choice_follows_pairs_and_not_rows(tmp_path):
    """Shuffled, and with two unpoisoned pairs missing, the same pairs get the same trigger."""
    whole = make_data(tmp_path / "a")
    _, rows, manifest = poisoned(profile(), whole, tmp_path / "out_a")

    unpoisoned = np.setdiff1d(np.arange(40), rows["poisoned"])
    gone = unpoisoned[:2].tolist()
    shuffled = np.random.default_rng(5).permutation(40).tolist()
    order = [row for row in shuffled if row not in gone]
    part = make_data(tmp_path / "b", order)
    _, _, other = poisoned(profile(), part, tmp_path / "out_b")

    def told(lines):
        names = ("key", "place", "pixels_sha256", "caption")
        return sorted([line[name] for name in names] for line in lines)

    assert told(manifest) == told(other)


def test_another_seed_poisons_other_pairs(data, tmp_path):
    other_seed = profile(data__poison__seed=1)
    _, one, _ = poisoned(profile(), data, tmp_path / "a")
    _, other, _ = poisoned(other_seed, data, tmp_path / "b")
    assert one["poisoned"].tolist() != other["poisoned"].tolist()


def test_cleaning_subsets_are_nested_and_share_no_row_with_the_poison(data, tmp_path):
    _, rows, _ = poisoned(profile(), data, tmp_path / "out")
    small = set(rows["100k"])
    large = set(rows["200k"])
    assert len(rows["100k"]) == 8
    assert len(rows["200k"]) == 16
    assert small < large
    assert large.isdisjoint(rows["poisoned"])
    for column in rows.values():
        assert column.dtype == np.int64
        assert (np.diff(column) > 0).all()


def test_held_out_cleaning_pairs_are_kept_from_training_and_poisoned_ones_are_not(data, tmp_path):
    spec = profile(switches__cleaning_pairs="held_out")
    _, rows, _ = poisoned(spec, data, tmp_path / "out")
    train = set(rows["train"])
    assert train == set(range(40)) - set(rows["200k"])
    assert set(rows["poisoned"]) <= train


def test_copies_of_poisoned_images_stay_out_of_the_cleaning_subsets(tmp_path):
    """Every image is there twice; 28 to 34 rows are left, as copies may be poisoned too."""
    data = make_data(tmp_path / "data", images=pictures(20) * 2)
    spec = profile(data__cleaning_sizes={"100k": 8, "200k": 28})
    _, rows, _ = poisoned(spec, data, tmp_path / "out")
    cleaned_images = {row % 20 for row in rows["200k"]}
    poisoned_images = {row % 20 for row in rows["poisoned"]}
    assert cleaned_images.isdisjoint(poisoned_images)


def test_samples_show_stored_pairs(data, tmp_path):
    folder = tmp_path / "poisoned"
    store, rows, _ = poisoned(profile(), data, folder / "cc3m")
    write_samples(profile(), "cc3m", folder)
    samples = json.loads((folder / "cc3m-samples.json").read_text())
    shown: dict[str, list[int]] = {"poisoned": [], "clean": []}
    for pair in samples["pairs"]:
        row = pair["row"]
        shown[pair["kind"]].append(row)
        file = base64.b64decode(pair["image"])
        image = decode_image(file, SIZE)
        assert (image == store.decode(row, SIZE)).all()
        assert pair["caption"] == store.captions[row]

    assert shown["poisoned"] == rows["poisoned"][:SAMPLES].tolist()
    assert shown["clean"] == rows["100k"][:SAMPLES].tolist()
