"""`make gpu-check` at toy size on the CPU, and what it writes on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from repro.check import __main__ as gpu_check
from repro.check.results import EXPECTED, Check, failed, measured_block, unconfirmed_block
from repro.check.work import TOY, Trainee, batch

CPU = torch.device("cpu")


@pytest.mark.slow
def test_every_section_passes_on_a_cpu_and_leaves_the_page_alone(root: Path) -> None:
    page = (root / "docs" / "gpu.md").read_bytes()
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        [sys.executable, "-m", "repro.check"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "no GPU: toy size on the CPU; docs/gpu.md is left as it is"
    for section in gpu_check.SECTIONS:
        assert any(f" {section}: " in line for line in lines), section
    assert not any(line.startswith("FAIL") for line in lines)
    assert (root / "docs" / "gpu.md").read_bytes() == page


def test_it_needs_neither_dvc_nor_sacred(root: Path) -> None:
    """A GPU machine may have the libraries of training alone."""
    code = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"dvc", "sacred", "pymongo", "git", "seaborn", "statsmodels"}:
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
from repro.check.__main__ import main
sys.exit(main(["environment", "memory"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_target_takes_the_machines_python_where_there_is_no_environment(
    root: Path, tmp_path: Path
) -> None:
    """`make -n` in a folder without .venv: no setup, no activation."""
    (tmp_path / "Makefile").write_bytes((root / "Makefile").read_bytes())
    # The tests themselves may have been called by make, which tells its children so.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    shown = subprocess.run(
        ["make", "-n", "gpu-check"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *_, last = shown.stdout.strip().splitlines()
    assert last.strip() == "exec python3 -m repro.check" and "activate" not in shown.stdout


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["sped"])
    assert "sped (allowed: environment, equality," in capsys.readouterr().err


def test_a_section_that_raises_has_failed_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(scale: object, device: object):  # type: ignore[no-untyped-def]
        yield Check("equality", "first", "fine", True)
        raise RuntimeError("no kernel image is available")

    monkeypatch.setitem(gpu_check.SECTIONS, "equality", broken)
    assert gpu_check.main(["equality", "environment"]) == 1
    shown = capsys.readouterr().out
    assert "FAIL equality: raised: RuntimeError: no kernel image is available" in shown
    assert "PASS environment: device" in shown


def test_another_model_is_not_taken_for_equal() -> None:
    """The bound of `equality` can fail: weights of another seed give another loss and gradient."""
    spec = TOY.spec("mmcl", "fp32")
    data = batch(TOY, 8, 1, 20, 0, CPU)
    losses = [float(Trainee(spec, CPU, seed).step(*data)) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] and abs(losses[0] - losses[2]) > 1e-3


def test_the_measured_table_names_the_gpu_and_every_line() -> None:
    checks = [Check("speed", "a | b", "2\n3"), Check("ranks", "losses", "off", False)]
    block = measured_block("NVIDIA H100", "2030-01-02", checks)
    assert block.startswith("Measured on one NVIDIA H100, 2030-01-02: with failures, see below.")
    assert "| speed | a / b | 2 3 | INFO |" in block and "| ranks | losses | off | FAIL |" in block
    assert failed(checks) and not failed(checks[:1])
    assert "all checks passed" in measured_block("x", "y", checks[:1])


def test_the_page_says_that_no_gpu_has_confirmed_it_or_which_one_has(root: Path) -> None:
    text = (root / "docs" / "gpu.md").read_text(encoding="utf-8")
    block = text.partition("<!-- gpu-check:start -->\n")[2].partition("\n<!-- gpu-check:end -->")[0]
    assert block == unconfirmed_block() or block.startswith("Measured on one NVIDIA ")


def test_every_section_has_an_expectation_but_the_description_of_the_machine() -> None:
    assert [*gpu_check.SECTIONS] == ["environment", *EXPECTED]
