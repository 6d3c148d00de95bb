"""The calls of somebody's first hour: made in the wrong place, without the environment, with a typing
error, or stopped. Each ends with one line that says what to do, and never with a traceback.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repro.__main__ import main
from repro.cli import calls
from repro.cli.commands import COMMANDS, Command
from repro.cli.reproduce import named_profile
from repro.runs import signals
from repro.spec import SpecError
from tests.support.pipeline import environment

BARE = (sys.executable, "-S", "-m", "repro")
"""An interpreter without packages, as where no environment is activated."""

CELL = "--profile smoke --dataset cc3m --objective mmcl"
MISTAKES = {
    "": "repro: the following arguments are required: COMMAND; `python -m repro --help` lists",
    "dat": "did you mean 'data'?",
    "reprodcue smoke": "did you mean 'reproduce'?",
    "data": "repro data: the following arguments are required: --profile; example: python -m repro",
    "data --profile smok": "repro: profile: 'smok' (allowed: authors, midi, mini, paper,",
    "reproduce smok": "did you mean 'smoke'?",
    "reproduce smoke mini": "repro reproduce: unknown argument 'mini'",
    "verify --profile mni": "did you mean 'mini'?",
    "publish --profile ../mini": "repro: profile: '../mini' (allowed: ",
    "study seedz": "repro: study: 'seedz' (allowed: attacks, ",
    f"clean {CELL} --lossy x": "repro clean: unknown argument '--lossy' (allowed: --profile, ",
    f"clean {CELL[:-4]} mcl": "(allowed: mmcl, mmcl_ssl): did you mean 'mmcl'?",
    f"run-one pretrain {CELL} --run seed9": "repro: run: 'seed9' (allowed: seed0)",
    "tracking statu": "did you mean 'status'?",
    "omniboard --port many": "argument --port: invalid int value: 'many'; example: ",
    "derive papr x y.yaml": "did you mean 'paper'?",
    "derive paper x y.yaml": "repro: y.yaml: no such file",
    "evaluate --checkpoint x --format clip --images y": "(allowed: cleanclip, open_clip): did you",
}


@pytest.mark.parametrize("call", MISTAKES)
def test_a_typing_error_is_one_line_with_what_is_allowed(
    call: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    try:
        status = main(call.split())
    except SystemExit as ended:
        status = int(str(ended.code))
    said = capsys.readouterr()
    assert status == 2 and said.out == ""
    assert MISTAKES[call] in said.err and said.err.count("\n") == 1, said.err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_without_the_environment_each_command_names_what_to_type(
    command: Command, root: Path
) -> None:
    call = [*BARE, *command.example.split()]
    ended = subprocess.run(call, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert re.fullmatch(
        r"repro: \S+ has no package '\w+': `(source \.venv/bin/activate|make setup)`.*\n",
        ended.stderr,
    ), ended.stderr


def test_help_needs_no_environment(root: Path) -> None:
    ended = subprocess.run(
        [*BARE, "clean", "--help"], cwd=root, capture_output=True, text=True, check=True
    )
    assert "example: python -m repro clean " in ended.stdout


@pytest.mark.parametrize(
    ("prefix", "activate", "expected"),
    [
        ("/usr", True, "`source .venv/bin/activate` and call again"),
        ("/usr", False, "`make setup`, then `source .venv/bin/activate`, and call again"),
        (".venv", True, "`make setup` completes the environment"),
    ],
)
def test_the_remedy_is_that_of_the_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
    activate: bool,
    expected: str,
) -> None:
    """No environment made, none activated, or one that an edit of the requirements left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calls, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / prefix))
    if activate:
        Path(".venv/bin").mkdir(parents=True)
        Path(".venv/bin/activate").touch()
    error = ModuleNotFoundError("No module named 'numpy.linalg'", name="numpy.linalg")
    assert calls.missing_package(error) == f"{sys.executable} has no package 'numpy': {expected}"
    assert not calls.missing_package(ModuleNotFoundError("ours", name="repro.nowhere"))


def test_an_old_python_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(calls, "OLDEST_PYTHON", (9, 1))
    assert main(["data", "--profile", "smoke"]) == 2
    said = capsys.readouterr().err
    assert f"{sys.executable} is older than Python 9.1: " in said and said.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_from_another_folder_a_command_names_the_right_one_and_leaves_nothing(
    command: Command,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if command.name == "run-pack":
        assert command.needs == (), "the launcher calls it where it likes"
        return
    assert main(command.example.split()) == 2
    expected = f"repro: {tmp_path} has no specs/: `cd {root}` and call again\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["profile: smok\n", "profil: smoke\n", "smoke\n", ""])
def test_a_profile_mistyped_in_params_is_named_with_its_file(
    content: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("specs").symlink_to(root / "specs")
    Path("params.yaml").write_text(content)
    with pytest.raises(SpecError, match=r"^params\.yaml: profile: '(smok|None)' \(allowed: auth"):
        named_profile()


def test_a_missing_dvc_is_named_like_any_package(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is called and not imported, so no import would tell."""
    monkeypatch.chdir(root)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["reproduce", "smoke"]) == 2
    assert f"{sys.executable} has no package 'dvc': `" in capsys.readouterr().err


@pytest.mark.slow
def test_dvc_repro_without_the_environment_says_what_to_type(project: Path) -> None:
    """By its full path, DVC runs; the stage then finds the system's Python."""
    (project / "results" / "studies").mkdir(parents=True)
    put_python(project, f'exec {sys.executable} -S "$@"')
    ended = dvc(project, "repro", "data@mini")
    output = ended.communicate(timeout=120)[0]
    assert ended.returncode and "Traceback" not in output
    assert re.search(r"^repro: \S+ has no package '\w+': `make setup`, then `source", output, re.M)


@pytest.mark.slow
def test_ctrl_c_on_dvc_repro_says_how_to_go_on(project: Path) -> None:
    """The terminal sends it to DVC and to the stage; the line is the stage's."""
    (project / "results" / "studies").mkdir(parents=True)
    (project / "call.py").write_text(SLOW)
    put_python(project, f"exec {sys.executable} call.py")
    call = dvc(project, "repro", "data@mini")
    wait_for(project / "working")
    os.killpg(call.pid, signal.SIGINT)
    output = call.communicate(timeout=60)[0]
    assert output.count(signals.INTERRUPTED) == 1
    assert call.returncode and "Traceback" not in output


def test_ctrl_c_on_a_command_at_work_is_one_line(tmp_path: Path, root: Path) -> None:
    (tmp_path / "specs").symlink_to(root / "specs")
    (tmp_path / "call.py").write_text(SLOW)
    call = subprocess.Popen(
        [sys.executable, "call.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(tmp_path / "working")
    call.send_signal(signal.SIGINT)
    assert call.communicate(timeout=30)[0] == f"{signals.INTERRUPTED}\n"
    assert call.returncode == 128 + signal.SIGINT


SLOW = """\
import sys, time
from pathlib import Path
import repro.__main__ as m

def work(profile):
    Path("working").touch()
    time.sleep(60)

m.load = lambda name: work
sys.exit(m.main(["data", "--profile", "smoke"]))
"""


def put_python(project: Path, line: str) -> None:
    """What the stages find as `python`."""
    (project / "bin" / "python").write_text(f"#!/bin/sh\n{line}\n")


def dvc(project: Path, *arguments: str) -> subprocess.Popen[str]:
    """DVC in a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        env=environment(project) | {"PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} in vain"
        time.sleep(0.05)


@pytest.fixture
def makefile(root: Path, tmp_path: Path) -> Path:
    """A folder with the Makefile alone: no target may run here."""
    shutil.copy(root / "Makefile", tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("way", ["argument", "environment"])
@pytest.mark.parametrize("target", ["reproduce", "publish"])
def test_what_stands_in_profile_is_a_name_and_no_command(
    makefile: Path, monkeypatch: pytest.MonkeyPatch, target: str, way: str
) -> None:
    (makefile / "setup.sh").touch()
    (makefile / ".venv/bin").mkdir(parents=True)
    (makefile / ".venv/bin/activate").write_text('PATH="$PWD/bin:$PATH"\n')
    (makefile / "bin").mkdir()
    put_python(makefile, 'for word; do echo "word: $word"; done')
    (makefile / "bin/python").chmod(0o755)
    value = "smoke; touch 'hit' $(touch hit) `touch hit`"
    if way == "environment":
        monkeypatch.setenv("PROFILE", value)
        ended = make(makefile, target)
    else:
        # As make wants it: a dollar is written twice.
        ended = make(makefile, target, f"PROFILE={value.replace('$', '$$')}")
    assert ended.returncode == 0 and ended.stdout.endswith(f"word: {value}\n"), ended.stderr
    assert not (makefile / "hit").exists()


def test_make_alone_lists_every_target_with_its_purpose(makefile: Path) -> None:
    with (makefile / "Makefile").open("a") as file:
        file.write("two-words_3.x: setup ## a name of all signs\n\t@false\n")
    rules = re.findall(r"^([a-z][^\s:=]*):(?!=)", (makefile / "Makefile").read_text(), re.M)
    listed = make(makefile).stdout.splitlines()
    assert {line.split()[0] for line in listed} == set(rules) >= {"gpu-check", "two-words_3.x"}
    assert all(re.match(r"  \S+ +\S+ \S+", line) and "##" not in line for line in listed)


def test_every_target_runs_though_a_file_has_its_name(makefile: Path) -> None:
    content = (makefile / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", content, re.M)
    assert phony and set(phony[1].split()) == set(re.findall(r"^([a-z-]+):", content, re.M))


def test_a_mistyped_target_is_one_line_that_names_the_list(makefile: Path) -> None:
    ended = make(makefile, "reprodcue")
    assert ended.returncode == 2
    assert "no target 'reprodcue': `make` alone lists them" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_gpu_check_without_torch_names_what_to_do(makefile: Path) -> None:
    (makefile / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (makefile / "python3").chmod(0o755)
    path = f"PATH={makefile}:{os.environ['PATH']}"
    ended = make(makefile, "gpu-check", path, f"SHELL=/usr/bin/env {path} bash")
    assert "gpu-check: python3 has no package torch: `make setup`" in ended.stderr
