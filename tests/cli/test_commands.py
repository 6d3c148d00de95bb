"""The command line and the Makefile: what somebody types in the first hour, mistakes and stops."""

import hashlib
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repro import cli, spec
from repro.__main__ import main
from repro.cli import EXIT, commands, report_error, run
from repro.data.memory import devices
from repro.ledger import LedgerError
from repro.names import GRAPH_OBJECTIVES
from repro.profile import profile_names, read_yaml
from repro.runs import signals
from repro.study.spec import study_names
from tests.support.processes import wait_for

BARE = (sys.executable, "-S", "-m", "repro")
"""An interpreter without packages, as where no environment is activated."""
CELL = "smoke --dataset cc3m --objective mmcl"
MISTAKES = {
    "": "repro: Missing command",
    "dat": "Did you mean 'data'?",
    "reproduce smoke --profile mini": "'smoke' and --profile 'mini' (allowed: one of them)",
    "reproduce smoke --set clean.warmup_steps": "repro: --set: 'clean.warmup_steps' (allowed: FIELD",
    "study": "repro study: allowed: the name of a study, or --list",
    "study confirm --dry-run --model cc6m-mmcl": "repro: --dry-run: with --model ",
    "study confirm --json": "repro: --json: without --dry-run ",
    "study confirm --variant noise_agai": "; nearest: noise_again)",
    "study confirm --seed 1": "repro: --seed: 1 (allowed by the study: ",
    "study confirm --model cc3m-mmcl": "repro: --model: cc3m-mmcl (allowed: cc6m-mmcl_ssl, ",
    "study confirmatio": "--list` has all of them; nearest: confirmation)",
    "study confirm --seed 1,x --dry-run": "'--seed': 'x' is not a valid integer",
    "status --study confirmatio": "repro: specs/studies/confirmatio.yaml: no such study ",
    "data smok": "files with `extends` or `protocol`; nearest: smoke)",
    "data --profile ../mini": "repro: profile: '../mini' (allowed: authors, ",
    "reproduce tiny": "repro: profile: 'tiny' (allowed: authors, ",
    "verify minii": "repro: profile: 'minii' (allowed: authors, ",
    "publish smoke/../smoke": "repro: profile: 'smoke/../smoke' (allowed: authors, ",
    "reproduce smoke mini": "unexpected extra argument (mini)",
    f"clean {CELL} --lossy x": "No such option '--lossy'",
    "write --profile smoke": "No such option '--profile'",
    f"clean {CELL[:-4]} mcl": "'mcl' is not one of 'mmcl', 'mmcl_ssl'",
    f"run-one pretrain {CELL} --run seed9": "repro: run: 'seed9' (allowed: seed0)",
    "omniboard --port many": "'many' is not a valid integer",
    "plan smoke --gpus 0": "'--gpus': 0 is not in the range x>=1",
    "evaluate smoke --checkpoint c --format open_clip --images i --trigger badnett": "'badnett' is not",
}
"""Call to a part of what it says."""


@pytest.mark.parametrize("call", MISTAKES)
def test_a_mistake_is_one_line(call: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = (root / "params.yaml").read_bytes()
    assert main(call.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert MISTAKES[call] in said.err
    assert said.err.count("\n") == 1, said.err
    assert (root / "params.yaml").read_bytes() == params


@pytest.mark.parametrize("name", commands.commands)
def test_a_command_explains_itself_and_calls_a_function_that_takes_its_values(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its example, with the import inside a command too: a renamed function shows here."""
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    help = commands.commands[name].help
    assert help
    assert help.split("\n")[0] in shown
    assert any(line.strip() == EXIT for line in shown.splitlines())

    called = []

    def note(function: Any, *values: object, prints: bool = False, **named: object) -> int:
        called.append((function, values, named))
        return 0

    monkeypatch.setattr(cli, "run", note)
    example = re.search(r"Example: .*?repro (.+)", shown)
    assert example is not None
    words = example[1].split()
    assert words[0] == name
    assert main(words) == 0
    [(function, values, named)] = called
    inspect.signature(function).bind(*values, **named)


def test_the_first_help_lists_twelve_commands_and_names_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    listed = {line.split()[0] for line in shown.splitlines() if re.match("  [a-z]", line)}
    visible = {name for name, command in commands.commands.items() if not command.hidden}
    assert visible <= listed
    assert len(visible) <= 12
    assert [name for name in commands.commands if name not in shown] == ["run-job"]
    assert EXIT in shown


def test_the_profile_is_an_argument_or_an_option_or_that_of_params(
    here: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph's objectives too are those of dvc.yaml."""
    Path("params.yaml").write_text("profile: night\n")
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(cli, "run", lambda *values, **named: called.append(values) or 0)
    for name, command in commands.commands.items():
        if {"profile", "same"} <= {param.name for param in command.params}:
            options = {param.name for param in command.params if param.required}
            words = ["pretrain"] * (name == "run-one")
            words += ["--dataset", "cc3m"] * ("dataset" in options)
            words += ["--objective", "mmcl"] * ("objective" in options)
            if name == "evaluate":
                words = ["--checkpoint", "c", "--format", "open_clip", "--images", "i"]
            for given, expected in {(): "night", ("mini",): "mini"}.items():
                assert main([name, *words, *given]) == 0
                assert expected in called.pop(), name
            assert main([name, *words, "--profile", "mini"]) == 0
            assert "mini" in called.pop(), name
    graph = read_yaml(root / "dvc.yaml")["stages"]
    assert graph["pretrain"]["matrix"]["objective"] == list(GRAPH_OBJECTIVES)


def test_several_values_come_by_commas_or_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[dict[str, object]] = []
    monkeypatch.setattr(cli, "run", lambda *values, **named: called.append(named) or 0)
    assert (
        main(["study", "bench", "--seed", "15,16", "--seed", "17", "--variant", "a,b", "--dry-run"])
        == 0
    )
    [named] = called
    assert (named["seed"], named["variant"], named["model"]) == ([15, 16, 17], ["a", "b"], [])


def test_the_list_of_studies_has_the_question_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--list", "--json"]) == 0
    questions = json.loads(capsys.readouterr().out)
    assert list(questions) == study_names()
    assert all(questions.values())
    assert main(["study", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(questions)


@pytest.mark.parametrize("profile", profile_names(Path(__file__).parents[2] / "specs"))
def test_the_cost_of_a_profile_takes_a_second(profile: str, root: Path) -> None:
    """Of processor time, on a slow machine too: no torch, and no model is built."""
    code = (
        "import sys, time, repro.__main__ as m\n"
        f"status = m.main(['plan', '--profile', '{profile}'])\n"
        "assert status == 0 and 'torch' not in sys.modules and time.process_time() < 2"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert said.startswith(f"| {profile} | runs |")


def test_help_is_quick_and_loads_nothing_heavy(root: Path) -> None:
    """0.5 s of processor time is the bound that a slow machine needs; docstrings may be stripped."""
    code = (
        "import sys, time, repro.__main__ as m; status = m.main(['data', '--help'])\n"
        "loaded = [n for n in ('torch', 'numpy', 'pydantic', 'dvc') if n in sys.modules]\n"
        "assert status == 0 and not loaded and time.process_time() < 0.5, loaded"
    )
    subprocess.run([sys.executable, "-OO", "-c", code], cwd=root, check=True)


@pytest.mark.parametrize("missing", ["click", "numpy"])
def test_without_the_environment_a_command_names_what_to_type(
    missing: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = "`make setup`, then `source .venv/bin/activate`, and call again"
    if missing == "click":
        ended = subprocess.run([*BARE, "data"], cwd=root, capture_output=True, text=True)
        assert ended.returncode
        assert expected in ended.stderr
        assert ended.stderr.count("\n") == 1
    else:
        error = ModuleNotFoundError("No module named 'numpy.linalg'", name="numpy.linalg")
        assert report_error(error) == 2
        assert expected in capsys.readouterr().err
        with pytest.raises(ModuleNotFoundError):
            report_error(ModuleNotFoundError("ours", name="repro.nowhere"))


def test_from_another_folder_the_missing_one_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "--profile", "smoke"]) == 2
    said = f"{tmp_path}/specs: no profiles; call again from the project's folder"
    assert said in capsys.readouterr().err
    assert main(["plan"]) == 2
    assert "params.yaml: No such file or directory; call again from" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_project_end_in_one_line_and_others_in_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report_error(spec.SpecError("a: wrong")) == 2
    assert report_error(LedgerError("b: torn")) == report_error(OSError("disk full")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["repro: a: wrong", "repro: LedgerError: b: torn", "repro: OSError: disk full"]
    with pytest.raises(KeyError):
        report_error(KeyError("a bug"))


def test_a_result_is_a_status_or_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: 3) == 3
    assert run(lambda: {"a": 1}, prints=True) == 0
    assert capsys.readouterr().out == '{\n "a": 1\n}\n'


AT_WORK = """\
import sys, time
from pathlib import Path
import repro.sources.stage as stage
import repro.__main__ as m

def work(profile):
    Path("working").touch()
    time.sleep(60)

stage.data_stage = work
sys.exit(m.main(["data", "--profile", "smoke"]))
"""
LOADING = """\
import sys
from importlib.abc import MetaPathFinder
import repro.__main__ as m

class Slow(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "repro.sources.stage":
            open("working", "w").close()
            import time; time.sleep(60)

sys.meta_path.insert(0, Slow())
sys.exit(m.main(["data", "--profile", "smoke"]))
"""


@pytest.mark.parametrize("code", [AT_WORK, LOADING], ids=["at work", "while modules load"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_one_line(here: Path, root: Path, code: str, number: signal.Signals) -> None:
    command = [sys.executable, "-c", code]
    first = os.environ | {"PYTHONPATH": str(root)}
    out = subprocess.PIPE
    both = subprocess.STDOUT
    call = subprocess.Popen(command, env=first, stdout=out, stderr=both, text=True)
    wait_for((here / "working").exists)
    call.send_signal(number)
    assert call.communicate(timeout=30)[0] == f"{signals.INTERRUPTED}\n"
    assert call.returncode == 128 + number


@pytest.fixture
def makefile(root: Path, tmp_path: Path) -> Path:
    """A folder with the Makefile, and a `python` that says how it is called."""
    shutil.copy(root / "Makefile", tmp_path)
    (tmp_path / "setup.sh").touch()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text('PATH="$PWD/bin:$PATH"\n')
    (tmp_path / "bin").mkdir()
    for name in ("python", "python3"):
        stub = tmp_path / "bin" / name
        stub.write_text('#!/bin/sh\nfor word; do echo "word: $word"; done\n')
        stub.chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("way", ["argument", "environment"])
@pytest.mark.parametrize("target", ["reproduce", "publish"])
def test_the_value_of_profile_is_a_name_and_no_command(
    makefile: Path, monkeypatch: pytest.MonkeyPatch, target: str, way: str
) -> None:
    value = "smoke; touch 'hit' $(touch hit) `touch hit`"
    if way == "environment":
        monkeypatch.setenv("PROFILE", value)
        ended = make(makefile, target)
    else:
        # As make wants it: a dollar is written twice.
        ended = make(makefile, target, f"PROFILE={value.replace('$', '$$')}")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith(f"word: {value}\n")
    assert not (makefile / "hit").exists()


def test_set_up_refuses_a_path_that_breaks_it_later(root: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "a$b", tmp_path / "a:b"):
        folder.mkdir()
        shutil.copy(root / "setup.sh", folder)
        ended = subprocess.run(["bash", "setup.sh"], cwd=folder, capture_output=True, text=True)
        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1
        assert f"{folder}: the path holds $ or :" in ended.stderr
        assert not (folder / ".venv").exists()


def test_set_up_knows_its_place_by_whatever_way_one_comes(root: Path, tmp_path: Path) -> None:
    """What is installed there stays, and DVC is told once that a checkout has no history."""
    real = tmp_path / "real"
    (real / ".venv/bin").mkdir(parents=True)
    (real / ".dvc").mkdir()
    texts = b""
    for name in ("pyproject.toml", "constraints.txt", "setup.sh"):
        texts += Path(shutil.copy(root / name, real)).read_bytes()
    (tmp_path / "link").symlink_to(real)
    key = f"{hashlib.sha256(texts).hexdigest()} {real}"
    (real / ".venv/.complete").write_text(f"{key}\ntest,node\n")
    (real / ".venv/bin/dvc").write_text('#!/bin/sh\necho "$@" >> .dvc/config.local\n')
    (real / ".venv/bin/dvc").chmod(0o755)

    for way in ("real", "link"):
        folder = tmp_path / way
        # Nothing can be installed: what is tried would fail.
        offline = {"PIP_NO_INDEX": "1", "PYTHON": "/bin/false", "PATH": "/usr/bin:/bin"}
        offline["EXTRAS"] = "test"
        ended = subprocess.run(
            ["bash", "setup.sh"],
            cwd=folder,
            env=os.environ | offline | {"PWD": str(folder)},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0
        assert ended.stderr == ""
    assert (real / ".dvc/config.local").read_text() == "config --local core.no_scm true\n"


PIP = """#!/bin/sh
case $* in
    *"index versions"*) echo "Available versions: 2.14.1+cpu, $OFFERED" ;;
    *) echo "pip $*" >&2 ;;
esac
"""


@pytest.mark.parametrize(
    ("chosen", "cluster", "offered", "expected"),
    [
        ("", False, True, {"torch==2.13.0+cpu", "torchvision==0.28.0+cpu"}),
        ("", False, False, set()),
        ("", True, True, {"torch!=2.13.0+cpu", "torchvision!=0.28.0+cpu"}),
        ("cuda", False, True, {"torch!=2.13.0+cpu", "torchvision!=0.28.0+cpu"}),
        ("cpu", True, True, {"torch==2.13.0+cpu", "torchvision==0.28.0+cpu"}),
        ("rocm", False, True, None),
    ],
)
@pytest.mark.skipif(bool(devices()), reason="a machine with a GPU")
def test_set_up_takes_the_build_of_torch_that_the_trainings_need(
    chosen: str,
    cluster: bool,
    offered: bool,
    expected: set[str] | None,
    root: Path,
    tmp_path: Path,
) -> None:
    """On a cluster's login node, which has no GPU, that for CUDA."""
    for name in ("pyproject.toml", "constraints.txt", "setup.sh"):
        shutil.copy(root / name, tmp_path)
    scripts = tmp_path / ".venv/bin"
    scripts.mkdir(parents=True)
    (scripts / "python").write_text(PIP)
    (scripts / "activate").write_text(f"VIRTUAL_ENV={tmp_path}/.venv\n")
    # The commands of this machine but sbatch, which it may have.
    tools = tmp_path / "tools"
    tools.mkdir()
    for command in {*Path("/usr/bin").iterdir(), *Path("/bin").iterdir()}:
        if command.name != "sbatch" and not (tools / command.name).is_symlink():
            (tools / command.name).symlink_to(command)
    if cluster:
        (tools / "sbatch").write_text("#!/bin/sh\n")
        (tools / "sbatch").chmod(0o755)
    for file in scripts.iterdir():
        file.chmod(0o755)
    environment = {
        "PATH": str(tools),
        "REPRO_TORCH": chosen,
        "OFFERED": "2.13.0+cpu, 0.28.0+cpu" if offered else "2.13.0, 0.28.0",
    }

    command = ["bash", "setup.sh"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    if expected is None:
        assert ended.returncode == 1
        assert "REPRO_TORCH: 'rocm' (allowed: cpu or cuda, or unset)" in ended.stderr
        return
    assert ended.returncode == 0, ended.stderr
    assert set((tmp_path / ".venv/torch.txt").read_text().split()) == expected
    assert "-c constraints.txt -c .venv/torch.txt" in ended.stderr


DELETED = """
class Thing:
    def __del__(self):
        slow()
Thing()
"""
REFERRED = """
import weakref
class Thing: pass
thing = Thing()
kept = weakref.ref(thing, lambda _: slow())
del thing
"""
BODY = """
import sys, time
from pathlib import Path
from repro.runs.signals import Stopped, stoppable

def slow():
    Path("there").touch()
    time.sleep(2)

try:
    with stoppable():
        {amid}
        Path("after").touch()
        time.sleep(60)
except Stopped as stopped:
    sys.exit(128 + stopped.number)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("amid", [DELETED, REFERRED], ids=["__del__", "weak reference"])
def test_a_stop_where_python_can_raise_nothing_comes_again(
    root: Path, tmp_path: Path, amid: str, number: signal.Signals
) -> None:
    """What is raised there is printed and forgotten, in one of ten stops of a report."""
    code = BODY.replace("{amid}", amid.strip().replace("\n", "\n        "))
    command = [sys.executable, "-c", code]
    first = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(command, cwd=tmp_path, env=first, stderr=subprocess.PIPE) as call:
        wait_for((tmp_path / "there").exists)
        call.send_signal(number)
        _, said = call.communicate(timeout=20)
    assert call.returncode == 128 + number
    assert said == b""
    assert (tmp_path / "after").exists(), "it met the process where nothing can be raised"
