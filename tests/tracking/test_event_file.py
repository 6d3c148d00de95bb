"""Event files for TensorBoard: the points of a run, if they are asked for, and never its result."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from repro.profile import clean_runs, load_profile
from repro.spec import Profile
from repro.tracking.event_file import FOLDER, EventFile
from tests.support.launch import Launch, published


def events(path: Path) -> Iterator[Event]:
    """By the format of TFRecord: length, its checksum, content, its checksum."""
    content = path.read_bytes()
    place = 0
    while place < len(content):
        (size,) = struct.unpack_from("<Q", content, place)
        yield Event.FromString(content[place + 12 : place + 12 + size])
        place += size + 16


def test_a_run_leaves_its_points(
    profile: Profile, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, "boards")
    spec = clean_runs(profile)[0]
    launch([spec])
    [path] = Path("boards/smoke/clean", spec.model_name, spec.run_id).iterdir()
    points = {
        (value.tag, event.step): round(value.simple_value, 3)
        for event in events(path)
        for value in event.summary.value
    }
    assert points["loss", 1] == 1.0
    assert points["loss", 2] == 0.5
    assert points["zero_shot_top1", 2] == points["attack_success_rate", 2] == 0.25


def test_a_folder_that_cannot_be_written_costs_no_result(
    profile: Profile, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("boards").touch()
    monkeypatch.setenv(FOLDER, "boards")
    spec = clean_runs(profile)[0]
    launch([spec])
    assert set(published([spec]).values()) == {"completed"}
    logs = "".join(path.read_text() for path in Path("work/jobs").glob("*.log"))
    assert f"{FOLDER}: [Errno 20] Not a directory" in logs


def test_nobody_who_did_not_ask_gets_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    file = EventFile(clean_runs(load_profile("smoke"))[0])
    file.add({"loss": 1.0}, 1)
    file.close()
    assert [path.name for path in here.iterdir()] == ["specs"]
