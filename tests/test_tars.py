"""Shards and evaluation folders that others wrote: every row used or counted, nothing written outside."""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from repro.data.external import build_external, select
from repro.data.imagenet import labelled_images
from repro.data.images import encode_png
from repro.data.index import Index, Shard, StoreError
from repro.data.shards import PairStore
from repro.data.tars import Accounting, index_shards
from repro.profile import load_profile
from repro.spec import ShardSource, SpecError

SPECS = Path(__file__).parents[1] / "specs"


def png(i: int) -> bytes:
    return encode_png(np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def write_tar(path: Path, members: list[tuple[str, bytes]], kinds: dict[str, bytes] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind in (kinds or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            tar.addfile(info)
    return path


def pair(i: int, caption: str | bytes | None = None) -> list[tuple[str, bytes]]:
    """Members of row `i` as img2dataset writes them."""
    text = caption if isinstance(caption, bytes) else (caption or f"caption {i}").encode()
    return [(f"{i:05d}.jpg", png(i)), (f"{i:05d}.txt", text), (f"{i:05d}.json", b"{}")]


def read_shards(folder: Path) -> tuple[Index, list[Shard], Accounting]:
    """All distinct rows, as the stage reads them, the cache beside `folder`."""
    index = index_shards(folder, folder.with_name(f"{folder.name} cache"))
    return index.take(index.distinct()), index.shards, index.accounting


def test_rows_of_all_shards_are_indexed_in_place(tmp_path):
    write_tar(tmp_path / "00000.tar", pair(0) + pair(1))
    write_tar(tmp_path / "00001.tar", pair(2))
    index, shards, accounting = read_shards(tmp_path)
    store = PairStore(tmp_path, index, shards)
    assert list(store.captions) == ["caption 0", "caption 1", "caption 2"]
    assert [store.image_bytes(i) for i in range(3)] == [png(i) for i in range(3)]
    assert [shard.count for shard in shards] == [2, 1]
    assert (accounting.listed, accounting.obtained, accounting.decoded, accounting.duplicate) == (3, 3, 3, 0)
    assert not accounting.dropped
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.tar", "00001.tar"]


BAD_ROWS = {
    "no_image": [("1.txt", b"words")],
    "no_caption": [("1.jpg", png(1))],
    "empty": [("1.jpg", b""), ("1.txt", b"words")],
    "not_an_image": [("1.jpg", b"<html>404</html>"), ("1.txt", b"words")],
    "damaged": [("1.jpg", png(1)[:150]), ("1.txt", b"words")],
    "caption_empty": pair(1, b" \n"),
    "caption_not_utf8": pair(1, b"\xff\xfe"),
    "caption_with_nul": pair(1, b"a\0b"),
    "caption_too_long": pair(1, b"x" * 70_000),
}


@pytest.mark.faults(9, 10, 11)
def test_rows_that_cannot_be_used_are_counted_by_reason_and_the_count_adds_up(tmp_path):
    rows = [(f"{reason}/{name}", data) for reason, members in BAD_ROWS.items() for name, data in members]
    write_tar(tmp_path / "00000.tar", [*pair(0), *rows])
    index, _, accounting = read_shards(tmp_path)
    assert len(index) == 1
    assert accounting.dropped == dict.fromkeys(BAD_ROWS, 1)
    assert accounting.listed == accounting.decoded + accounting.dropped.total() == 1 + len(BAD_ROWS)
    assert accounting.obtained == accounting.listed - 1


@pytest.mark.faults(9)
def test_hostile_members_are_skipped_and_nothing_is_written(tmp_path):
    folder = tmp_path / "a" / "b"
    members = [*pair(0), ("../../evil.jpg", png(1)), ("/tmp/evil.txt", b"words"), ("00000.txt", b"second caption")]
    kinds = {"2.jpg": tarfile.SYMTYPE, "3.jpg": tarfile.LNKTYPE, "4.jpg": tarfile.CHRTYPE, "5.jpg": tarfile.FIFOTYPE}
    write_tar(folder / "00000.tar", members, kinds)
    index, _, accounting = read_shards(folder)
    assert list(index.captions) == ["caption 0"]
    assert accounting.shards == {"read": 1, "unsafe_name": 2, "duplicate_name": 1, "not_a_file": 4}
    assert sorted(path.name for path in tmp_path.rglob("*") if "cache" not in path.parent.name) == ["00000.tar", "a", "b", "b cache"]


@pytest.mark.faults(9)
@pytest.mark.parametrize("cut", [1, 700, 1300, 4096], ids=["in a header", "in an image", "in a caption", "between rows"])
def test_a_truncated_shard_keeps_its_whole_rows(tmp_path, cut):
    """A row takes six blocks of 512: three headers, image, caption, listing. The cut falls into the last of three rows."""
    path = write_tar(tmp_path / "00000.tar", pair(0) + pair(1) + pair(2))
    start = 2 * 6 * 512
    path.write_bytes(path.read_bytes()[: min(start + cut, 3 * 6 * 512)])
    index, _, accounting = read_shards(tmp_path)
    assert list(index.captions)[:2] == ["caption 0", "caption 1"]
    assert accounting.shards["truncated"] == 1
    assert accounting.listed == len(index) + accounting.dropped.total()


@pytest.mark.faults(9)
def test_a_damaged_header_inside_a_shard_is_not_taken_for_its_end(tmp_path):
    path = write_tar(tmp_path / "00000.tar", pair(0) + pair(1))
    data = bytearray(path.read_bytes())
    data[6 * 512 : 7 * 512] = b"\xaa" * 512
    path.write_bytes(data)
    index, _, accounting = read_shards(tmp_path)
    assert list(index.captions) == ["caption 0"]
    assert accounting.shards["truncated"] == 1


@pytest.mark.faults(9)
def test_shards_that_are_no_tar_are_counted_and_the_others_used(tmp_path):
    write_tar(tmp_path / "00000.tar", pair(0))
    (tmp_path / "00001.tar").write_bytes(b"")
    (tmp_path / "00002.tar").write_bytes(b"x")
    (tmp_path / "00003.tar").write_bytes(gzip.compress((tmp_path / "00000.tar").read_bytes()))
    (tmp_path / "00004.tar").write_bytes(bytes(10240))
    index, shards, accounting = read_shards(tmp_path)
    assert len(index) == 1
    assert len(shards) == accounting.shards["read"] == 5
    assert accounting.shards["not_a_tar"] == 3


@pytest.mark.faults(9)
def test_gaps_in_the_numbering_are_counted(tmp_path):
    for number in (3, 5, 9):
        write_tar(tmp_path / f"{number:05d}.tar", pair(number))
    assert read_shards(tmp_path)[2].shards["missing"] == 4


@pytest.mark.faults(9)
def test_a_pair_that_is_there_twice_is_used_once(tmp_path):
    write_tar(tmp_path / "00000.tar", pair(0) + pair(1))
    write_tar(tmp_path / "00001.tar", [("x.png", png(0)), ("x.txt", b"caption 0"), ("y.png", png(0)), ("y.txt", b"another")])
    index, _, accounting = read_shards(tmp_path)
    assert list(index.captions) == ["caption 0", "caption 1", "another"]
    assert (accounting.decoded, accounting.duplicate) == (4, 1)


@pytest.mark.faults(9)
def test_folders_without_a_usable_row_are_refused(tmp_path):
    with pytest.raises(StoreError, match=r"no .tar files"):
        read_shards(tmp_path)
    write_tar(tmp_path / "00000.tar", [("1.txt", b"words")])
    with pytest.raises(StoreError, match=r"no usable row in 1 shards .*'no_image': 1"):
        read_shards(tmp_path)


CLASSES = ["tench", "goldfish", "banana"]


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Smoke over 12 pairs in shards and three ImageNet-like classes of two images each."""
    for slot in ("cc3m", "cc6m"):
        write_tar(tmp_path / slot / "00000.tar", [member for i in range(12) for member in pair(i)])
    for label, synset in enumerate(("n01440764", "n01443537", "n07753592")):
        (tmp_path / "imagenet" / synset).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "imagenet" / synset / f"{i}.JPEG").write_bytes(png(100 + 2 * label + i))
    (tmp_path / "specs" / "classnames").mkdir(parents=True)
    (tmp_path / "specs" / "classnames" / "imagenet.txt").write_text("\n".join(CLASSES) + "\n")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    smoke = load_profile("smoke", SPECS)
    source = ShardSource(
        kind="webdataset", pairs={"cc3m": "cc3m", "cc6m": "cc6m"}, selection={"cc3m": "keyed", "cc6m": "keyed"},
        evaluation="imagenet", images_per_class=2, max_drop_fraction=0.1,
    )  # fmt: skip
    data = smoke.data.model_copy(update={"source": source, "num_pairs": {"cc3m": 4, "cc6m": 8}})
    return smoke.model_copy(update={"data": data, "evaluate": smoke.evaluate.model_copy(update={"classnames": "imagenet"})})


def test_the_data_stage_lays_stores_over_the_users_shards(profile, tmp_path):
    build_external(profile, tmp_path / "out")
    cc3m, cc6m, evaluation = (PairStore.open(tmp_path / "out" / name) for name in ("cc3m", "cc6m", "evaluation"))
    assert (len(cc3m), len(cc6m)) == (4, 8)
    assert set(cc3m.captions) < set(cc6m.captions)
    assert not list((tmp_path / "out" / "cc6m").glob("*.tar"))
    assert cc6m.image_bytes(0) == png(int(cc6m.captions[0].removeprefix("caption ")))
    assert evaluation.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [evaluation.image_bytes(i) for i in range(6)] == [png(100 + i) for i in range(6)]
    accounting = json.loads((tmp_path / "out" / "accounting.json").read_text())
    assert accounting["used"] == {"cc3m": 4, "cc6m": 8, "evaluation": 6}
    assert accounting["sources"]["evaluation"]["images_per_class"] == 2
    for account in accounting["sources"].values():
        assert account["listed"] == added_up(account)


def official_tar(folder: Path, images: dict[str, tuple[bytes, int]]) -> None:
    write_tar(folder / "ILSVRC2012_img_val.tar", [(name, data) for name, (data, _) in images.items()])
    (folder / "labels.csv").write_text("image,label\n" + "".join(f"{name},{label}\n" for name, (_, label) in images.items()))


def webdataset(folder: Path, images: dict[str, tuple[bytes, int]]) -> None:
    labels = [(name.replace("JPEG", "cls"), b"%d" % label) for name, (_, label) in images.items()]
    write_tar(folder / "val-0.tar", [*((name, data) for name, (data, _) in images.items()), *labels])


def parquet(folder: Path, images: dict[str, tuple[bytes, int]]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data, labels = zip(*images.values(), strict=True)
    pq.write_table(pa.table({"image": [{"bytes": content} for content in data], "label": labels}), folder / "val.parquet")


@pytest.mark.parametrize("form", [official_tar, webdataset, parquet])
def test_the_data_stage_takes_every_form_of_the_evaluation_images(profile, tmp_path, form):
    shutil.rmtree(tmp_path / "imagenet")
    (tmp_path / "imagenet").mkdir()
    form(tmp_path / "imagenet", {f"{i}.JPEG": (png(i), i % 3) for i in range(6)})
    build_external(profile, tmp_path / "out")
    evaluation = PairStore.open(tmp_path / "out" / "evaluation")
    assert {evaluation.image_bytes(i): int(evaluation.labels[i]) for i in range(6)} == {png(i): i % 3 for i in range(6)}


def added_up(account: dict) -> int:
    lost = sum(account["not_obtained"].values()) + sum(account["dropped"].values())
    return lost + account["duplicate"] + account["surplus"] + account["used"]


@pytest.mark.faults(9, 10)
def test_accounting_reaches_from_the_url_list_to_the_rows_used(profile, tmp_path):
    """20 listed: 1 no URL, 5 dead, 14 obtained; of these 1 damaged, 1 there twice, 12 distinct, 8 wanted."""
    write_tar(tmp_path / "cc6m" / "pass-1" / "00000.tar", [*pair(3), ("99.jpg", b"<html>"), ("99.txt", b"words")])
    fetched = {"listed": 20, "refused": {"scheme_not_http": 1}, "failed": {"http_404": 5}, "obtained": 14, "passes": 2}
    (tmp_path / "cc6m" / "accounting.json").write_text(json.dumps(fetched))
    build_external(profile, tmp_path / "out")
    account = json.loads((tmp_path / "out" / "accounting.json").read_text())["sources"]["cc6m"]
    assert account == {
        "listed": 20, "not_obtained": {"scheme_not_http": 1, "http_404": 5}, "obtained": 14, "decoded": 13,
        "dropped": {"not_an_image": 1}, "duplicate": 1, "surplus": 4, "used": 8, "wanted": 8, "shards": {"read": 2},
    }  # fmt: skip
    assert account["listed"] == added_up(account)


def test_the_first_rows_of_a_list_are_those_of_its_lines_whatever_shard_holds_them(tmp_path):
    """Lines 5, 0 and 4 lie in the first shard, 1 and 3 in the second; three are wanted."""
    for shard, lines in enumerate(((5, 0, 4), (1, 3))):
        rows = [[*pair(line)[:2], (f"{line:05d}.json", json.dumps({"list_row": line}).encode())] for line in lines]
        write_tar(tmp_path / "in" / f"{shard:05d}.tar", [member for row in rows for member in row])
    index = index_shards(tmp_path / "in", tmp_path / "cache")
    assert list(index.take(select(index, 3, "first")).captions) == ["caption 0", "caption 1", "caption 3"]
    assert len(select(index, 9, "first")) == 5


def test_without_line_numbers_the_first_rows_are_those_of_the_first_shards(tmp_path):
    for shard, rows in enumerate(((5, 0), (1, 3))):
        write_tar(tmp_path / "in" / f"{shard:05d}.tar", [member for row in rows for member in pair(row)])
    index = index_shards(tmp_path / "in", tmp_path / "cache")
    assert list(index.take(select(index, 3, "first")).captions) == ["caption 5", "caption 0", "caption 1"]


@pytest.mark.faults(1)
def test_an_index_that_was_killed_goes_on_with_the_shards_it_has_not_read(tmp_path):
    """Three of four shards are indexed; the fourth comes, one changes, and only these two are read."""
    for number in range(3):
        write_tar(tmp_path / "in" / f"{number:05d}.tar", pair(number))
    index_shards(tmp_path / "in", tmp_path / "cache")
    write_tar(tmp_path / "in" / "00001.tar", pair(7) + pair(8))
    write_tar(tmp_path / "in" / "00003.tar", pair(3))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    index = index_shards(tmp_path / "in", tmp_path / "cache")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(before) == 3 and len(after) == 5
    assert before.items() < after.items()
    assert list(index.take(index.distinct()).captions) == ["caption 0", "caption 7", "caption 8", "caption 2", "caption 3"]


@pytest.mark.faults(9)
def test_too_many_unusable_rows_stop_the_stage(profile, tmp_path):
    """2 of 14 rows are more than a tenth."""
    bad = [("98.jpg", b"<html>"), ("98.txt", b"a"), ("99.jpg", b""), ("99.txt", b"b")]
    write_tar(tmp_path / "cc3m" / "00001.tar", bad)
    with pytest.raises(StoreError, match=r"cc3m: 2 of 14 rows cannot be used .*allowed: 10.00%"):
        build_external(profile, tmp_path / "out")


@pytest.mark.faults(15)
def test_a_class_without_images_stops_the_stage(profile, tmp_path):
    for path in (tmp_path / "imagenet" / "n01443537").iterdir():
        path.unlink()
    with pytest.raises(SpecError, match=r"no image of 1 classes, the first 1 "):
        build_external(profile, tmp_path / "out")


@pytest.mark.faults(15)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "0.JPEG").unlink(), r"5 usable .* of 5 \(allowed: 6\); 1 classes .* 'goldfish' with 1; not used: none"),
        (lambda folder: (folder / "2.JPEG").write_bytes(png(5)), r"7 usable images of 7 \(allowed: 6\)"),
        (lambda folder: (folder / "0.JPEG").write_bytes(b"<html>"), r"5 usable images of 6 .* not used: {'not_an_image': 1}"),
    ],
    ids=["one too few", "one too many", "one damaged"],
)
def test_every_class_must_have_its_number_of_evaluation_images(profile, tmp_path, change, message):
    change(tmp_path / "imagenet" / "n01443537")
    with pytest.raises(StoreError, match=message):
        build_external(profile, tmp_path / "out")


def test_class_folders_are_read_by_synset_or_by_label(tmp_path):
    for kind, names in {"synset": ["n02", "n10", "n01"], "label": ["0", "1", "2"]}.items():
        for name in names:
            full = name.replace("n", "n000000") if kind == "synset" else name
            (tmp_path / kind / full).mkdir(parents=True)
            (tmp_path / kind / full / "x.JPEG").touch()
    assert [(path.parent.name, label) for path, label in labelled_images(tmp_path / "synset", 3)] == [
        ("n00000001", 0), ("n00000002", 1), ("n00000010", 2),
    ]  # fmt: skip
    assert [(path.parent.name, label) for path, label in labelled_images(tmp_path / "label", 3)] == [("0", 0), ("1", 1), ("2", 2)]


@pytest.mark.faults(15)
def test_ten_labels_sort_by_number(tmp_path):
    for label in range(11):
        (tmp_path / str(label)).mkdir()
        (tmp_path / str(label) / "x.JPEG").touch()
    assert [label for _, label in labelled_images(tmp_path, 11)] == list(range(11))


def test_a_flat_folder_is_read_by_its_labels_file(tmp_path):
    (tmp_path / "labels.csv").write_text("image,label\nb.JPEG,1\na.JPEG,0\n")
    assert list(labelled_images(tmp_path, 2)) == [(tmp_path / "b.JPEG", 1), (tmp_path / "a.JPEG", 0)]


@pytest.mark.faults(15)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.JPEG,2", r"labels.csv: line 2: label: '2' \(allowed: 0 to 1\)"),
        ("a.JPEG,banana", "label: 'banana'"),
        ("../a.JPEG,0", r"image: '../a.JPEG' \(allowed: a path inside"),
        (",0", "image: ''"),
    ],
)
def test_bad_lines_of_a_labels_file_are_named(tmp_path, line, message):
    (tmp_path / "labels.csv").write_text(f"image,label\n{line}\n")
    with pytest.raises(SpecError, match=message):
        list(labelled_images(tmp_path, 2))


@pytest.mark.faults(15)
@pytest.mark.parametrize(
    ("names", "message"),
    [(["n01440764"], "has 1 sub-folders and no labels.csv"), (["cats", "dogs"], r"sub-folder 'cats' ... \(allowed: synsets")],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(SpecError, match=message):
        list(labelled_images(tmp_path, 2))
