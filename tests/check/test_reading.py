"""`python -m repro.check data FOLDER`: rates of shards and cores against what GPUs take."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from repro.check import __main__ as gpu_check
from repro.check import reading
from repro.check.noise import FULL, TOY
from tests.support.synthetic import write_pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "shards", 60, 30, seed=1)
    return tmp_path / "shards"


def test_it_reads_and_decodes_a_folder_of_shards(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes for a moment; a folder without images is refused."""
    monkeypatch.setattr(reading, "SECONDS", 0.05)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ended = CliRunner().invoke(gpu_check.main, ["data", str(folder)])
    assert ended.exit_code == 0, ended.output
    lines = [line for line in ended.output.splitlines() if line.startswith("data: ")]
    assert "reads: " in lines[0]
    assert "decodes: " in lines[1]
    assert "to 224 px" in lines[1]
    assert "8 x a100 would train" in lines[2]
    assert "8 x h100 would train" in lines[3]

    (tmp_path / "empty").mkdir()
    ended = CliRunner().invoke(gpu_check.main, ["data", str(tmp_path / "empty")])
    assert ended.exit_code == 1
    assert "no images in .tar files" in ended.output


def test_a_reader_has_fewer_files_open_than_systems_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror has 1,300 shards, and a usual limit is 1,024 files."""
    monkeypatch.setattr(reading, "SECONDS", 0.01)
    write_pairs(tmp_path, 1, 1, seed=1)
    (shard,) = tmp_path.glob("*.tar")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        assert reading._reader([shard] * 1300, 100, 0) > 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_damaged_shard_is_no_sample(tmp_path: Path) -> None:
    write_pairs(tmp_path, 60, 30, seed=1)
    first, second = sorted(tmp_path.glob("*.tar"))
    first.write_bytes(b"<html>" * 1000)
    assert len(reading._sample([first, second])) == 30


@pytest.mark.parametrize(("rate", "enough"), [(60_000.0, True), (30_000.0, False)])
def test_too_slow_shards_fail_on_the_gpus_that_they_are_for(
    folder: Path, rate: float, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaders that read and decode `rate` images a second each way make half as many pairs: eight
    H100 would train 17,000 to 32,000, in the middle 24,000.
    """
    asked: list[int] = []

    def measured(processes: int, work: Any) -> float:
        asked.append(processes)
        return rate

    monkeypatch.setattr(reading, "_rate", measured)
    monkeypatch.setattr(reading, "cores", lambda: 64)
    monkeypatch.setattr(reading, "devices", lambda: [str(number) for number in range(8)])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    *_, verdict = reading.data(folder, "paper_lean", FULL)
    assert verdict.passed is enough
    assert asked == [56, 56], "seven loaders a GPU"
    assert ("enough" in verdict.text) == enough
    # Nobody is to fail for GPUs that are not there.
    checks = list(reading.data(folder, "paper_lean", TOY))
    assert [check.passed for check in checks] == [None] * 4
