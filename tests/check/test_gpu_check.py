"""`make gpu-check` at toy size on the CPU: what it can run there, and that its bounds can fail."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner

from repro.check import __main__ as gpu_check
from repro.check import processes, training
from repro.check.noise import FULL, TOY, WIDE, Check, Scale, Trainee, batch
from repro.plan import assumptions
from tests.support.ranks import one_thread

CPU = torch.device("cpu")
OF_PROCESSES = ("worker", "ranks")


@pytest.mark.parametrize("section", sorted(set(gpu_check.SECTIONS) - set(OF_PROCESSES)))
def test_a_section_passes_at_toy_size(section: str) -> None:
    with one_thread():
        checks = list(gpu_check.SECTIONS[section](TOY))
    assert checks and not [check for check in checks if check.passed is False]


@pytest.mark.nightly
@pytest.mark.parametrize("section", OF_PROCESSES)
def test_processes_pass_at_toy_size(section: str, root: Path) -> None:
    """Two ranks of the worker under torchrun, stopped and resumed; two gloo ranks against one."""
    command = [sys.executable, "-m", "repro.check", section]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{section}: PASS" in done.stdout and "FAIL" not in done.stdout
    if section == "worker":
        assert done.stdout.count("PASS rows and weights of both: equal") == 1
        assert "PASS 2 rank(s) end a run of smoke in 2 attempt(s)" in done.stdout


@pytest.mark.nightly
def test_steps_of_paper_lean_at_true_widths_compile_into_one_graph_on_two_ranks() -> None:
    """At sizes at which torch would by default cut a graph under DDP."""
    checks = list(processes.compiled_ranks(WIDE, 2))
    assert [check.passed for check in checks] == [True, True], checks


def test_one_model_lies_on_a_gpu_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two and a full batch would not fit 40 GB. The scaling is that of `paper_lean`."""
    alive: WeakSet[Trainee] = WeakSet()

    class Alone(Trainee):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            assert not alive
            super().__init__(*arguments, **more)
            alive.add(self)

        def pairs_per_second(self, *arguments: Any) -> float:
            timed.append((self.spec.precision, self.spec.text_parts))
            return super().pairs_per_second(*arguments)

    timed: list[tuple[str, int]] = []
    monkeypatch.setattr(processes, "Trainee", Alone)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with one_thread():
            assert len(processes._plain(TOY, CPU)["losses"]) == 6
    finally:
        dist.destroy_process_group()
    assert timed == [("bf16", 4)]


def test_what_no_cpu_can_show_is_said_to_be_unchecked() -> None:
    with one_thread():
        checks = list(training.waiting(TOY))
    assert "not checked: no GPU" in str(checks[0])
    assert "waits for data" in str(checks[1])
    assert [check.passed for check in checks] == [None, None]


def test_another_model_is_not_taken_for_equal() -> None:
    """The bound of `equality` can fail: weights of another seed give other gradients."""
    data = batch(TOY.spec(), 8, 20, 0, CPU)
    trainees = [Trainee(TOY.spec(), CPU, seed) for seed in (0, 0, 1)]
    losses = [float(trainee.step(*data)) for trainee in trainees]
    first, same, other = map(training.gradients, trainees)
    assert losses[0] == losses[1]
    assert training.distance(same, first) == 0
    assert training.distance(other, first) > 2 * max(training.TOLERANCES.values())


def test_a_worker_that_leaves_nothing_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_MEMORY_BYTES", "0")  # which the section sets
    monkeypatch.setattr(processes, "Torchrun", lambda job, path: path)
    monkeypatch.setattr(processes, "_run_worker", lambda torchrun, stop_step: None)
    (check,) = gpu_check.run(processes.worker, TOY)
    assert check.passed is False
    assert "outcome.json" in check.text


def test_a_section_that_raises_failed_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(scale: Scale) -> Iterator[Check]:
        yield Check("first", "fine", True)
        raise RuntimeError("no kernel image is available")

    monkeypatch.setitem(gpu_check.SECTIONS, "equality", broken)
    monkeypatch.setitem(gpu_check.SECTIONS, "cache", lambda *_: iter([Check("x", "not checked")]))
    ended = CliRunner().invoke(gpu_check.main, ["equality", "cache"])
    assert ended.exit_code == 1
    assert "equality: FAIL raised: RuntimeError: no kernel image is available" in ended.output
    assert "cache: INFO x: not checked" in ended.output
    assert "3 checks, 1 failed, 1 not possible here" in ended.output
    assert CliRunner().invoke(gpu_check.main, ["sped"]).exit_code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a usable GPU")
def test_gpus_that_torch_cannot_use_end_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a driver that is too old; the processor is not checked in their place."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    ended = CliRunner().invoke(gpu_check.main, ["copies"])
    assert ended.exit_code == 1
    assert "PASS" not in ended.output
    assert "GPUs 0 are there, but torch" in ended.output
    assert "fits the driver" in ended.output


@pytest.mark.parametrize("absent", ["header", "compiler"])
def test_what_compiles_kernels_must_be_there(
    absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node without Python's headers or a C compiler, compiled runs end in their first step."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(training.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(training.shutil, "which", lambda name: f"/usr/bin/{name}")
    (tmp_path / "Python.h").touch()
    whole = next(training.tools(FULL))
    assert whole.passed is True

    if absent == "header":
        (tmp_path / "Python.h").unlink()
    else:
        monkeypatch.setattr(training.shutil, "which", lambda name: None)
    (check,) = training.tools(FULL)
    assert check.passed is False
    assert absent in str(check)
    # Nothing is compiled where there is no GPU.
    assert next(training.tools(TOY)).passed is None


def test_rates_lie_where_plan_reads_them_though_a_check_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose rates are those of the arithmetic that profiles name."""
    path = tmp_path / "work" / "rates.json"
    monkeypatch.setattr(gpu_check, "MEASURED", path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA X")
    rates = {"tf32": {"image": 3e13, "text": 5e13, "evaluation": 2e13}}
    monkeypatch.setattr(gpu_check, "FLOPS", rates)
    failed = Check("x", "y", False)
    monkeypatch.setitem(gpu_check.SECTIONS, "cache", lambda *_: iter([failed]))

    ended = CliRunner().invoke(gpu_check.main, ["cache"])

    assert ended.exit_code == 1
    assert json.loads(path.read_bytes()) == {
        "device": "NVIDIA X",
        "memory_bytes": 80 * 10**9,
        "flops": rates,
    }
    assert Path("work/gpu-check.json") == assumptions.MEASURED


def test_it_needs_neither_dvc_nor_sacred(root: Path) -> None:
    """A GPU machine may have the libraries of training alone."""
    code = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"dvc", "sacred", "pymongo", "git", "seaborn"}:
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import repro.check.__main__
"""
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=200)
