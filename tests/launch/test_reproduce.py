"""The call over all stages: no studies, the user's files untouched, DVC's torn ones mended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repro.__main__ import main
from repro.cli import reproduce
from repro.runs import signals
from repro.spec import SpecError
from tests.support.pipeline import repro

CALL = (sys.executable, "-m", "repro", "reproduce")
MINE = "profile: paper  # mine\n"
EDITED = "profile: authors  # edited meanwhile\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    reproduce.PARAMS.write_text(MINE)
    reproduce.LOCK.parent.mkdir(parents=True)
    return tmp_path


def environment_here() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(reproduce.__file__).parents[2])}


def kill_amid_a_call() -> None:
    code = (
        "import os, repro.cli.reproduce as r\nwith r.profile_set('smoke'): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], env=environment_here(), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "profile: smoke\n" in reproduce.PARAMS.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["repro", "repro.cli.reproduce"])
def test_a_profile_for_one_call_runs_its_stages_and_no_study(project: Path, module: str) -> None:
    """Archives of studies may be stale, or gone: hours of training must not begin by themselves."""
    before = (project / "params.yaml").read_bytes()
    (project / "results" / "studies").mkdir(parents=True)
    ran = repro(
        project, sys.executable, "-m", module, *["reproduce"] * (module == "repro"), "smoke"
    )
    assert [line.split()[0] for line in ran] == [
        *["data"],
        *["poison"] * 2,
        *["pretrain"] * 4,
        *["clean"] * 4,
        *["report"],
    ]
    assert (project / "params.yaml").read_bytes() == before


def test_stages_come_in_the_order_in_which_they_can_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    names = reproduce.stage_names("tiny")
    assert names[:3] == ["data@tiny", "poison@tiny-cc3m", "poison@tiny-cc6m"]
    assert names[-2:] == ["clean@tiny-cc6m-mmcl_ssl", "report@tiny"]


def test_params_come_back_after_an_error(here: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), reproduce.profile_set("smoke"):
        assert "profile: smoke\n" in reproduce.PARAMS.read_text()
        raise KeyboardInterrupt
    assert reproduce.PARAMS.read_text() == MINE


@pytest.mark.faults(1)
def test_params_come_back_with_the_next_call_after_a_kill(here: Path) -> None:
    kill_amid_a_call()
    with reproduce.profile_set(None):
        assert reproduce.PARAMS.read_text() == MINE


@pytest.fixture(params=["another file", "another profile in the same file"])
def edit(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Edits what `reproduce` has put there; gives what the file then holds."""

    def write() -> str:
        before = reproduce.PARAMS.read_text()
        same = before.replace("profile: smoke", "profile: paper")
        content = EDITED if request.param == "another file" else same
        assert content != before
        reproduce.PARAMS.write_text(content)
        return content

    return write


def test_an_edit_of_params_during_the_call_stays(
    here: Path, edit: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    with reproduce.profile_set("smoke"):
        edited = edit()
    assert reproduce.PARAMS.read_text() == edited
    assert "params.yaml: edited since `make reproduce` began; your edit" in capsys.readouterr().err
    assert Path(".dvc/tmp/params.yaml.before").read_text() == MINE


def test_an_edit_of_params_after_a_kill_stays(here: Path, edit: Callable[[], str]) -> None:
    kill_amid_a_call()
    edited = edit()
    with reproduce.profile_set(None):
        assert reproduce.PARAMS.read_text() == edited
    with reproduce.profile_set("smoke"):
        pass
    assert reproduce.PARAMS.read_text() == edited


@pytest.mark.faults(6)
def test_two_calls_in_one_folder_do_not_mix(here: Path) -> None:
    with (
        reproduce.profile_set("smoke"),
        pytest.raises(SpecError, match="held by another `make reproduce`"),
        reproduce.profile_set("mini"),
    ):
        pass
    assert reproduce.PARAMS.read_text() == MINE


@pytest.mark.faults(17)
def test_an_unknown_profile_is_refused_before_anything_changes(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    before = (root / "params.yaml").read_bytes()
    assert main(["reproduce", "tiny"]) == 2
    assert capsys.readouterr().err.startswith("repro: profile: 'tiny' (allowed: authors, ")
    assert (root / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("torn", [b"", b'{"write": {"/data', b"[]"])
def test_a_torn_list_of_readers_and_writers_is_removed_with_a_line(
    here: Path, torn: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce.RWLOCK.write_bytes(torn)
    reproduce.mend_rwlock()
    assert not reproduce.RWLOCK.exists()
    assert ".dvc/tmp/rwlock: torn by the end of an earlier call" in capsys.readouterr().err

    reproduce.RWLOCK.write_bytes(b'{"read": {}}')
    reproduce.mend_rwlock()
    assert reproduce.RWLOCK.exists() and not capsys.readouterr().err


@pytest.mark.slow
def test_a_call_after_a_torn_list_goes_on(project: Path) -> None:
    (project / "results" / "studies").mkdir(parents=True)
    (project / ".dvc" / "tmp").mkdir()
    (project / ".dvc" / "tmp" / "rwlock").write_bytes(b"")
    assert repro(project, *CALL, "smoke")[-1] == "report smoke"


LOCKED = """schema: '2.0'
stages:
  data@smoke:
    cmd: python -m repro data --profile smoke
    outs:
    - path: data/smoke/cc3m
      md5: a0b1.dir
"""


@pytest.mark.parametrize("size", [0, 20, len(LOCKED) - 20, LOCKED.index("- path")])
def test_a_lock_file_that_an_end_tore_is_what_it_was(
    here: Path, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce.LOCK_FILE.write_text(LOCKED)
    with contextlib.suppress(KeyboardInterrupt), reproduce.lock_file_kept():
        reproduce.LOCK_FILE.write_text(LOCKED[:size])
        raise KeyboardInterrupt

    with reproduce.lock_file_kept():
        assert reproduce.LOCK_FILE.read_text() == LOCKED
    assert "dvc.lock: torn by the end of an earlier call" in capsys.readouterr().err
    assert not reproduce.SAVED_LOCK.exists()


def test_a_whole_lock_file_of_a_stopped_call_stays(here: Path) -> None:
    reproduce.LOCK_FILE.write_text("stages: {}\n")
    with contextlib.suppress(KeyboardInterrupt), reproduce.lock_file_kept():
        reproduce.LOCK_FILE.write_text(LOCKED)
        raise KeyboardInterrupt
    with reproduce.lock_file_kept():
        assert reproduce.LOCK_FILE.read_text() == LOCKED


def test_a_lock_file_torn_by_somebody_else_is_named_with_its_remedy(here: Path) -> None:
    reproduce.LOCK_FILE.write_text(LOCKED[:-5])
    with (
        pytest.raises(SpecError, match=r"middle of a line; `git checkout dvc\.lock` brings back"),
        reproduce.lock_file_kept(),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_named_without_a_traceback(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    Path(".dvc/tmp").write_text("a file where a folder should be")
    assert main(["reproduce"]) == 1
    assert ".dvc/tmp" in capsys.readouterr().err


def test_stages_find_an_interpreter_where_no_environment_is_activated(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They call `python`, which many a machine does not have, or has as another one."""
    monkeypatch.setenv("PATH", str(here))
    monkeypatch.setattr(sys, "executable", str(here / "venv/bin/python3"))
    Path("venv/bin").mkdir(parents=True)
    Path("venv/bin/python").write_text("#!/bin/sh\necho called > called\n")
    Path("venv/bin/python").chmod(0o755)
    assert reproduce.run(["/bin/sh", "-c", "python"]) == 0
    assert (here / "called").exists()


@pytest.mark.faults(1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_reaches_the_pipeline(here: Path, number: signal.Signals) -> None:
    """The call waits for what it ends, so that runs save their work before params.yaml returns."""
    saving = "sleep 0.3; echo saved > saved; exit 0"
    script = f"trap '{saving}' TERM; echo ready; while :; do sleep 0.05; done"
    with started(script) as call:
        call.send_signal(number)
        assert call.wait(timeout=30) == 128 + number
        assert (here / "saved").exists()


@pytest.mark.faults(1)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")
def test_the_end_of_a_killed_call_reaches_the_pipeline(here: Path) -> None:
    script = "trap 'echo saved > saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    with started(script) as call:
        call.kill()
        deadline = time.monotonic() + 10
        while not (here / "saved").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextlib.contextmanager
def started(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A call that runs the shell script in place of DVC, once it says that it is ready."""
    # Whoever runs the tests may ignore SIGHUP, as nohup does, and calls inherit that.
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "import sys, repro.cli.reproduce as r, repro.runs.signals as s\n"
        f"try: r.run(['bash', '-c', {script!r}])\n"
        "except s.Stopped as stopped: sys.exit(128 + stopped.number)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment_here(), stdout=subprocess.PIPE
    ) as call:
        assert call.stdout is not None and call.stdout.readline() == b"ready\n"
        yield call


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("shell", [[], ["sh", "-c", '"$@"; true', "sh"]])
def test_a_stage_ends_when_its_dvc_is_gone(here: Path, shell: list[str]) -> None:
    """Also where a shell stands between; SIGKILL leaves nobody who could tell it."""
    stage = (
        "import time; from pathlib import Path; from repro.runs.signals import *\n"
        "try:\n"
        "    with stoppable():\n"
        "        end_with_caller(); Path('ready').touch(); time.sleep(60)\n"
        "except Stopped: Path('saved').touch()\n"
    )
    command = [*shell, sys.executable, "-c", stage]
    code = f"import subprocess; subprocess.run({command!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment_here() | {signals.STAGE: "clean"}
    ) as caller:
        wait_for(Path("ready"))
        caller.kill()
        wait_for(Path("saved"))


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_modules_load_is_one_line(here: Path, number: signal.Signals) -> None:
    """Whatever library is at it, no traceback comes out of it."""
    Path("slow.py").write_text("open('loading', 'w').close()\nimport time\ntime.sleep(60)\n")
    Path("specs/smoke").mkdir(parents=True)
    Path("specs/smoke/data.yaml").touch()
    code = (
        "import sys, repro.__main__ as m\nfrom repro.cli.commands import COMMANDS\n"
        "COMMANDS[1].__dict__['function'] = 'slow:never'\n"
        "sys.exit(m.main(['data', '--profile', 'smoke']))\n"
    )
    path = environment_here()
    path["PYTHONPATH"] += f"{os.pathsep}{here}"
    with subprocess.Popen([sys.executable, "-c", code], env=path, stderr=subprocess.PIPE) as call:
        wait_for(Path("loading"))
        call.send_signal(number)
        _, said = call.communicate(timeout=30)
    assert call.returncode == 128 + number
    assert said.decode() == f"{signals.INTERRUPTED}\n"
