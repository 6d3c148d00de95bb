"""The table of commands: parsed without heavy imports, with examples, calling what is there."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from repro import spec
from repro.__main__ import load
from repro.cli.calls import build_parser
from repro.cli.commands import COMMANDS, DATASETS, OBJECTIVES, PROTOCOLS, Command

BY_NAME = {command.name: command for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=BY_NAME)
def test_the_help_of_a_command_ends_with_an_example_that_parses(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        build_parser().parse_args([command.name, "--help"])
    assert f"example: python -m repro {command.example}" in " ".join(
        capsys.readouterr().out.split()
    )
    assert build_parser().parse_args(command.example.split()).chosen is command


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=BY_NAME)
def test_a_command_calls_a_function_that_takes_its_options(command: Command) -> None:
    parameters = inspect.signature(load(command.function))
    parameters.bind(*command.options)


def test_parsing_imports_nothing_heavy(root: Path) -> None:
    code = (
        "import sys, repro.__main__, repro.cli.calls as m; m.build_parser().parse_args(['findings'])\n"
        "print(*(n for n in ('torch', 'numpy', 'pydantic', 'dvc') if n in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_the_closed_sets_are_those_of_the_specifications(root: Path) -> None:
    assert set(DATASETS) == set(get_args(spec.Dataset))
    assert set(OBJECTIVES) == set(get_args(spec.Objective))
    assert set(PROTOCOLS) == {path.stem for path in (root / "specs/protocols").glob("*.yaml")}


def test_docstrings_may_be_stripped(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "repro", "--help"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "reproduce" in done.stdout
