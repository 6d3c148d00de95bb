"""Slots: which runs share a process, on how many ranks and devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.launch import packs, places
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs import run
from repro.spec import Profile, RunSpec


@pytest.fixture
def profile(root: Path) -> Profile:
    return load_profile("smoke", root / "specs")


def make_runs(specs: list[RunSpec]) -> list[run.Run]:
    return [
        run.Run(spec, f"{index:04}", {"pairs": {"path": "pairs", "hash": "p"}}, "code")
        for index, spec in enumerate(specs)
    ]


def test_slots_get_equal_shares_longest_first(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two SSL runs cost 2, two MMCL runs 1: each of two slots gets one of both."""
    monkeypatch.setenv("REPRO_SLOTS", "2")
    spec = clean_runs(profile)[0]
    runs = make_runs(
        [spec.model_copy(update={"loss": loss}) for loss in ("mmcl", "ssl", "mmcl", "ssl")]
    )
    shares = [
        [run.spec.loss for pack in queue for run in pack.runs] for queue in packs.queues(runs)
    ]
    assert shares == [["ssl", "mmcl"], ["ssl", "mmcl"]]
    assert [len(queue) for queue in packs.queues(runs)] == [1, 1], (
        "one pack where the data are the same"
    )


def test_runs_on_the_same_data_share_a_process_one_model_after_another(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_SLOTS", "1")
    spec = clean_runs(profile)[0]
    asked = [
        ("p", "m1", "100k"),
        ("q", "m3", "100k"),
        ("p", "m2", "100k"),
        ("p", "m1", "200k"),
        ("p", "m1", "100k"),
    ]
    runs = [
        run.Run(
            spec.model_copy(update={"clean_size": size}),
            f"{index}",
            {"pairs": {"path": pairs, "hash": size}, "model": {"hash": model}},
            "code",
        )
        for index, (pairs, model, size) in enumerate(asked)
    ]
    (queue,) = packs.queues(runs)
    found = sorted(
        [
            (r.inputs["pairs"]["path"], r.inputs["model"]["hash"], r.spec.clean_size)
            for r in pack.runs
        ]
        for pack in queue
    )
    assert found == [
        [("p", "m1", "100k"), ("p", "m1", "100k"), ("p", "m1", "200k"), ("p", "m2", "100k")],
        [("q", "m3", "100k")],
    ]


def test_ranks_divide_the_batch_groups_and_fit_the_devices(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six groups of BatchNorm on four devices: three ranks."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    spec = pretrain_runs(profile)[0]
    schedule = spec.schedule.model_copy(update={"global_batch_size": 48, "norm_batch_size": 8})
    place = places.whole_place(make_runs([spec.model_copy(update={"schedule": schedule})])[0])
    assert (place.ranks, place.devices) == (3, ("0", "1", "2", "3"))
