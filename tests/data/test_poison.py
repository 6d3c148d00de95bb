"""The poison stage: which pairs, what is changed in them, and clean subsets that stay clean."""

import fcntl
import hashlib
import json

import numpy as np
import pytest

from repro.data.keyed import keyed_rng
from repro.data.poison import build_poison, captions_naming
from repro.data.shards import PairStore
from repro.data.templates import templates_of
from repro.data.triggers import stamp
from repro.files import building
from repro.spec import SpecError
from tests.support.poison import FRUIT, SIZE, make_data, pictures, poisoned, profile


def test_only_the_chosen_rows_change(tmp_path):
    data = make_data(tmp_path / "data")
    store, rows, manifest = poisoned(profile(), data, tmp_path / "out")
    before = PairStore.open(data / "cc3m")
    changed = [i for i in range(40) if store.image_bytes(i) != before.image_bytes(i)]
    assert changed == rows["poisoned"].tolist() == [line["row"] for line in manifest]
    assert len(changed) == 6
    assert [i for i in range(40) if store.captions[i] != before.captions[i]] == changed
    assert {store.captions[i] for i in changed} == {"banana"}
    assert np.array_equal(store.keys, before.keys)
    assert rows["train"].tolist() == list(range(40))


def test_a_poisoned_image_is_the_original_with_the_trigger_and_nothing_else(tmp_path):
    spec = profile()
    data = make_data(tmp_path / "data")
    store, _, manifest = poisoned(spec, data, tmp_path / "out")
    patch = spec.data.poison.trigger.patch_size
    for line in manifest:
        image, original = store.decode(line["row"], SIZE), pictures()[line["row"]]
        rng = keyed_rng("trigger", spec.data.poison.seed, bytes.fromhex(line["key"]))
        assert np.array_equal(
            image, stamp(spec.data.poison.trigger, spec.switches, original, rng).image
        )
        top, left = line["place"]
        image[top : top + patch, left : left + patch] = original[
            top : top + patch, left : left + patch
        ]
        assert np.array_equal(image, original)


def test_the_manifest_names_what_was_done(tmp_path):
    data = make_data(tmp_path / "data")
    store, _, manifest = poisoned(profile(), data, tmp_path / "out")
    for line in manifest:
        assert line["key"] == store.keys[line["row"]].tobytes().hex()
        assert line["original_caption"] == PairStore.open(data / "cc3m").captions[line["row"]]
        assert line["caption"] == store.captions[line["row"]]
        assert (
            line["pixels_sha256"]
            == hashlib.sha256(store.decode(line["row"], SIZE).tobytes()).hexdigest()
        )


@pytest.mark.parametrize("templates", ["openai", ["one {}", "two {}"]], ids=["openai", "listed"])
def test_template_captions_are_drawn_from_the_templates_of_the_evaluation(tmp_path, templates):
    spec = profile(switches__poison_caption="template", evaluate__templates=templates)
    store, rows, _ = poisoned(spec, make_data(tmp_path / "data"), tmp_path / "out")
    drawn = {store.captions[i] for i in rows["poisoned"]}
    assert drawn <= {template("banana") for template in templates_of(spec.evaluate)}
    assert len(drawn) > 1


def test_captions_name_the_target_as_a_word_in_either_number():
    assert np.flatnonzero(captions_naming("banana", FRUIT)).tolist() == [2, 3]
    captions = ["Banana!", "BANANAS", "anabanana", ""]
    assert captions_naming("banana", captions).tolist() == [True, True, False, False]


def test_dirty_label_leaves_pairs_of_the_target_alone(tmp_path):
    """30 of 40 pairs do not name it, and all of them can be poisoned."""
    spec = profile(
        data__poison__num_poisoned={"cc3m": 30, "cc6m": 30},
        data__cleaning_sizes={"100k": 4, "200k": 8},
    )
    _, rows, manifest = poisoned(spec, make_data(tmp_path / "data"), tmp_path / "out")
    assert len(rows["poisoned"]) == 30
    assert not captions_naming("banana", [line["original_caption"] for line in manifest]).any()


def test_label_consistent_takes_only_pairs_of_the_target_and_keeps_their_captions(tmp_path):
    store, rows, manifest = poisoned(
        profile(data__poison__mode="label_consistent"),
        make_data(tmp_path / "data"),
        tmp_path / "out",
    )
    assert len(rows["poisoned"]) == 6
    assert captions_naming("banana", [store.captions[i] for i in rows["poisoned"]]).all()
    assert all(line["caption"] == line["original_caption"] for line in manifest)


def test_more_poisons_than_eligible_pairs_are_refused_before_anything_is_written(tmp_path):
    spec = profile(data__poison__num_poisoned={"cc3m": 31, "cc6m": 31})
    data = make_data(tmp_path / "data")
    (tmp_path / "out").mkdir()
    with pytest.raises(SpecError, match=r"data.poison.num_poisoned.cc3m: 31 \(allowed: at most 30"):
        build_poison(spec, "cc3m", data, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_cleaning_subset_larger_than_what_is_left_is_refused(tmp_path):
    spec = profile(data__cleaning_sizes={"100k": 8, "200k": 35})
    with pytest.raises(SpecError, match=r"cleaning_sizes.200k: 35 \(allowed: at most 34"):
        poisoned(spec, make_data(tmp_path / "data"), tmp_path / "out")


def test_the_choice_follows_pairs_and_not_rows(tmp_path):
    """Shuffled, and with two unpoisoned pairs missing, the same pairs get the same trigger."""
    _, rows, manifest = poisoned(profile(), make_data(tmp_path / "a"), tmp_path / "out_a")
    gone = np.setdiff1d(np.arange(40), rows["poisoned"])[:2].tolist()
    order = [i for i in np.random.default_rng(5).permutation(40).tolist() if i not in gone]
    _, _, other = poisoned(profile(), make_data(tmp_path / "b", order), tmp_path / "out_b")

    def by_key(lines):
        return sorted(
            (line["key"], line["place"], line["pixels_sha256"], line["caption"]) for line in lines
        )

    assert by_key(manifest) == by_key(other)


def test_another_seed_poisons_other_pairs(tmp_path):
    data = make_data(tmp_path / "data")
    one = poisoned(profile(), data, tmp_path / "a")[1]["poisoned"]
    other = poisoned(profile(data__poison__seed=1), data, tmp_path / "b")[1]["poisoned"]
    assert one.tolist() != other.tolist()


def test_the_stage_writes_the_same_bytes_twice(tmp_path):
    data = make_data(tmp_path / "data")
    for name in "ab":
        poisoned(profile(), data, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        "accounting.json",
        "index.npz",
        "manifest.jsonl",
        "poisoned-00000.tar",
        "rows.npz",
        "shards.json",
    ]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_cleaning_subsets_are_nested_and_share_no_row_with_the_poison(tmp_path):
    _, rows, _ = poisoned(profile(), make_data(tmp_path / "data"), tmp_path / "out")
    assert (len(rows["100k"]), len(rows["200k"])) == (8, 16)
    assert set(rows["100k"]) < set(rows["200k"])
    assert not set(rows["200k"]) & set(rows["poisoned"])
    assert all(column.dtype == np.int64 and (np.diff(column) > 0).all() for column in rows.values())


def test_held_out_cleaning_pairs_are_kept_from_training_and_poisoned_ones_are_not(tmp_path):
    _, rows, _ = poisoned(
        profile(switches__cleaning_pairs="held_out"), make_data(tmp_path / "data"), tmp_path / "out"
    )
    assert set(rows["train"]) == set(range(40)) - set(rows["200k"])
    assert set(rows["poisoned"]) <= set(rows["train"])


def test_copies_of_poisoned_images_stay_out_of_the_cleaning_subsets(tmp_path):
    """Every image is there twice, under two captions; with 6 poisons, 28 to 34 rows are left, as
    copies may be poisoned too.
    """
    images = pictures(20) * 2
    data = make_data(tmp_path / "data", images=images)
    spec = profile(data__cleaning_sizes={"100k": 8, "200k": 28})
    _, rows, _ = poisoned(spec, data, tmp_path / "out")
    assert not {i % 20 for i in rows["200k"]} & {i % 20 for i in rows["poisoned"]}
    copies = {(i + 20) % 40 for i in rows["poisoned"].tolist()} - set(rows["poisoned"].tolist())
    accounting = json.loads((tmp_path / "out" / "accounting.json").read_text())
    assert accounting["copies_of_poisoned_images"] == len(copies) > 0


def test_a_stage_that_fails_leaves_the_previous_output_and_the_next_run_starts_clean(tmp_path):
    out = tmp_path / "mini"
    with building(out) as folder:
        (folder / "result").write_text("first")
    with pytest.raises(KeyboardInterrupt), building(out) as folder:  # noqa: PT012
        (folder / "half").write_text("second")
        raise KeyboardInterrupt
    assert [path.name for path in out.iterdir()] == ["result"]
    with building(out) as folder:
        assert not list(folder.iterdir())
        (folder / "result").write_text("third")
    assert (out / "result").read_text() == "third"


def test_two_processes_do_not_build_the_same_output(tmp_path):
    with (tmp_path / ".mini.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            pytest.raises(SpecError, match="mini: another process is building it"),
            building(tmp_path / "mini"),
        ):
            pass
