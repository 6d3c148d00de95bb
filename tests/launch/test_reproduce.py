"""The call over all stages: no studies, params.yaml as it is told, DVC's torn files mended."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repro import reproduce
from repro.__main__ import main
from repro.runs import signals
from repro.spec import SpecError
from repro.view.watched import CALL_FILE, Call
from tests.support.pipeline import environment, repro
from tests.support.processes import wait_for

MINE = "profile: paper  # mine\n"


@pytest.fixture
def here(here: Path) -> Path:
    reproduce.PARAMS.write_text(MINE)
    reproduce.CALL_LOCK.parent.mkdir(parents=True)
    return here


def environment_here() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(reproduce.__file__).parents[1])}


def test_the_stages_of_a_profile_run_in_order_and_no_study(project: Path) -> None:
    """Nor do DVC's empty list of readers and writers and an empty lock file stop anything."""
    (project / "params.yaml").write_text("profile: smoke\noverrides: {}\n")
    (project / "results" / "studies").mkdir(parents=True)
    ran = repro(project, "dvc", "repro", "--single-item", "--glob", reproduce.STAGES)
    stages = {"resolve": 1, "data": 1, "poison": 2, "pretrain": 4, "clean": 4, "report": 1}
    assert [line.split()[0] for line in ran] == list(Counter(stages).elements())
    for torn in (reproduce.RWLOCK, reproduce.DVC_LOCK):
        whole = (project / torn).read_bytes()
        (project / torn).write_bytes(b"")
        if torn is reproduce.DVC_LOCK:
            (project / reproduce.SAVED_DVC_LOCK).write_bytes(whole)
    # The stages are up to date, so that the foreign `python` of the stub is not missed.
    assert repro(project, sys.executable, "-m", "repro", "reproduce", "smoke") == []
    assert (project / "params.yaml").read_text() == "profile: smoke\noverrides: {}\n"


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("latex", [None, "/usr/bin/pdflatex"])
def test_a_report_from_before_latex_was_here_gets_its_pdf(
    here: Path, monkeypatch: pytest.MonkeyPatch, made: bool, latex: str | None
) -> None:
    """DVC has the report without it in its cache, and would take a later one away."""
    source = here / "report/build/smoke/report.tex"
    source.parent.mkdir(parents=True)
    source.touch()
    commands = []

    def run(command: list[str], log: Path) -> int:
        commands.append(command[-2:])
        with log.open("a") as file:
            file.write(
                "Running stage 'report@smoke':\n" if made else "Stage 'report@smoke' is cached\n"
            )
        return 0

    monkeypatch.setattr(reproduce, "run", run)
    monkeypatch.setattr("repro.view.end.shutil.which", lambda name: latex)
    monkeypatch.setattr(reproduce, "end_of_call", lambda profile: [])
    assert reproduce.reproduce("smoke") == 0
    forced = [command for command in commands if command == ["--force", "report@smoke"]]
    # A report that this call made, and that has no PDF, did not compile.
    assert len(forced) == (latex is not None and not made)


@pytest.mark.parametrize(
    ("before", "call", "after"),
    [
        (MINE, [], MINE),
        (MINE, ["paper"], MINE),
        (MINE, ["smoke"], "profile: smoke  # mine\noverrides: {}\n"),
        (
            "profile: smoke\noverrides: {clean.epochs: 2}\n",
            ["--set", "clean.warmup_steps=2"],
            "profile: smoke\noverrides:\n  clean.epochs: 2\n  clean.warmup_steps: 2\n",
        ),
        (
            "# what runs\nprofile: mini\noverrides: {clean.epochs: 2}\n",
            ["smoke", "--set", "clean.warmup_steps=2"],
            "# what runs\nprofile: smoke\noverrides:\n  clean.warmup_steps: 2\n",
        ),
        (MINE, ["smoke", "--set", "clean.warmup_steps=many"], MINE),
    ],
)
def test_a_profile_and_values_are_written_to_params_and_stay(
    here: Path, monkeypatch: pytest.MonkeyPatch, before: str, call: list[str], after: str
) -> None:
    """With the comments; values of another profile go, and a mistake changes nothing."""
    reproduce.PARAMS.write_text(before)
    monkeypatch.setattr(reproduce, "_run_stages", lambda profile: 0)
    assert main(["reproduce", *call]) == (2 if after == before and "--set" in call else 0)
    assert reproduce.PARAMS.read_text() == after


def test_two_calls_in_one_folder_do_not_mix(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import repro.reproduce as r, time\nwith r.held(r.CALL_LOCK): print(flush=True); time.sleep(60)"
    call = [sys.executable, "-c", code]
    with subprocess.Popen(call, env=environment_here(), stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        assert main(["reproduce", "smoke"]) == 2
        other.kill()
    assert "held by another `make reproduce`" in capsys.readouterr().err
    assert reproduce.PARAMS.read_text() == MINE


@pytest.mark.parametrize("torn", [b"", b'{"write": {"/data', b"[]"])
def test_a_torn_list_of_readers_and_writers_is_removed_with_a_line(
    here: Path, torn: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce.RWLOCK.write_bytes(torn)
    reproduce.mend_dvc_files()
    assert not reproduce.RWLOCK.exists()
    assert ".dvc/tmp/rwlock is damaged and counts as absent" in capsys.readouterr().out

    # A zombie's too: nobody may ever collect it.
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        for pid, stays in ((os.getpid(), True), (ended.pid, False)):
            reproduce.RWLOCK.write_text(f'{{"read": {{"data": [{{"pid": {pid}, "cmd": "dvc"}}]}}}}')
            reproduce.mend_dvc_files()
            assert reproduce.RWLOCK.exists() == stays
            assert not capsys.readouterr().out


LOCKED = """schema: '2.0'
stages:
  data@smoke:
    cmd: python -m repro data --profile smoke
    outs:
    - path: data/smoke/cc3m
      md5: a0b1.dir
"""


def test_a_whole_lock_file_stays_and_an_empty_one_goes(here: Path) -> None:
    for text in ("stages: {}\n", LOCKED):
        reproduce.DVC_LOCK.write_text(text)
        reproduce.mend_dvc_files()
        assert reproduce.DVC_LOCK.read_text() == text
    reproduce.SAVED_DVC_LOCK.unlink()
    reproduce.DVC_LOCK.write_text("")
    reproduce.mend_dvc_files()
    assert not reproduce.DVC_LOCK.exists()


@pytest.mark.parametrize("before", [None, LOCKED])
def test_wherever_the_lock_is_torn_the_next_call_goes_on(here: Path, before: str | None) -> None:
    for size in range(len(LOCKED)):
        if before is not None:
            reproduce.DVC_LOCK.write_text(before)
        reproduce.mend_dvc_files()
        reproduce.DVC_LOCK.write_text(LOCKED[:size])
        reproduce.mend_dvc_files()
        left = reproduce.DVC_LOCK.read_text() if reproduce.DVC_LOCK.exists() else None
        assert left == before or (left == LOCKED[:size] and left.endswith("\n"))
        reproduce.DVC_LOCK.unlink(missing_ok=True)


def test_a_lock_file_torn_by_another_call_is_named_with_its_remedy(here: Path) -> None:
    reproduce.DVC_LOCK.write_text(LOCKED[:-5])
    with pytest.raises(SpecError, match=r"middle of a line; `git checkout dvc\.lock` brings back"):
        reproduce.mend_dvc_files()


def test_a_folder_that_cannot_be_written_is_named_without_a_traceback(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    Path(".dvc/tmp").write_text("a file where a folder should be")
    assert main(["reproduce"]) == 1
    assert ".dvc/tmp" in capsys.readouterr().err


HEARD = """\
Running stage 'data@smoke':
> python -m repro data --profile smoke
a line of the stage
Updating lock file 'dvc.lock'

Stage 'poison@smoke-cc3m' didn't change, skipping
Running stage 'clean@smoke-cc3m-mmcl':
a line of the stage
ERROR: failed to reproduce
To track the changes with git, run:

\tgit add dvc.lock
Use `dvc push` to send your updates to remote storage.
half a li"""


def test_what_the_stages_print_is_news_but_for_noise_and_tells_which_one_runs(here: Path) -> None:
    """A line once in a call, and a half line when it is whole; a reader of call.json sees more."""
    log = Path("log")
    call = Call("smoke", 1.0)
    heard = reproduce.Heard(log, call)
    log.write_text(HEARD)
    assert heard.lines() == ["a line of the stage", "ERROR: failed to reproduce"]
    assert call.stage == "clean@smoke-cc3m-mmcl"
    assert json.loads(CALL_FILE.read_bytes())["stage"] == call.stage
    with log.open("a") as file:
        file.write("ne\nUpdating lock file 'dvc.lock'\n")
    assert heard.lines() == ["half a line"]
    assert heard.lines() == []
    assert call.stage == ""


def test_values_of_a_call_reach_the_stages_and_hold_for_the_next(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By --set or by `overrides` in params.yaml."""
    monkeypatch.chdir(project)
    (project / "results/studies").mkdir(parents=True)
    monkeypatch.setattr(
        reproduce,
        "run",
        lambda command, log: subprocess.run(command, env=environment(project)).returncode,
    )

    def warmup(*call: str) -> tuple[int, list[str]]:
        (project / "ran.log").unlink(missing_ok=True)
        assert main(["reproduce", *call]) == 0
        content = json.loads((project / "results/smoke/resolved/profile.json").read_bytes())
        ran = project / "ran.log"
        stages = {line.split()[0] for line in ran.read_text().splitlines()} if ran.exists() else {}
        return content["clean"]["warmup_steps"], sorted(stages)

    _, ran = warmup("smoke")
    assert "pretrain" in ran
    assert "page: report/build/smoke/index.html" in capsys.readouterr().out
    assert warmup("--set", "clean.warmup_steps=2") == (2, ["clean", "report", "resolve"])
    assert warmup() == (2, [])
    (project / "params.yaml").write_bytes(b"profile: smoke\noverrides: {clean.warmup_steps: 3}\n")
    assert warmup() == (3, ["clean", "report", "resolve"])


def test_stages_ignore_a_foreign_python(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("venv/bin", "other"):
        Path(folder).mkdir(parents=True)
        Path(folder, "python").write_text(f"#!/bin/sh\necho {folder} > {here}/called\n")
        Path(folder, "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}/other")
    monkeypatch.setattr(sys, "executable", str(here / "venv/bin/python3"))
    assert reproduce.run(["/bin/sh", "-c", "python"], Path("log")) == 0
    assert Path("called").read_text() == "venv/bin\n"


SAVING = (
    "trap 'sleep 0.3; echo saved > saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_reaches_the_pipeline(here: Path, number: signal.Signals) -> None:
    """The call waits for what it ends, so that runs save their work before params.yaml returns."""
    with started(SAVING) as call:
        call.send_signal(number)
        assert call.wait(timeout=30) == 128 + number
        assert (here / "saved").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")
def test_the_end_of_a_killed_call_reaches_the_pipeline(here: Path) -> None:
    with started(SAVING) as call:
        call.kill()
        wait_for((here / "saved").exists)


@contextmanager
def started(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A call that runs the shell script in place of DVC, once it says that it is ready."""
    # Whoever runs the tests may ignore SIGHUP, as nohup does, and calls inherit that.
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "import sys, repro.reproduce as r, repro.runs.signals as s\n"
        "try:\n"
        f" with s.stoppable(): r.run(['bash', '-c', {script!r}], r.Path('/dev/stdout'))\n"
        "except s.Stopped as stopped: sys.exit(128 + stopped.number)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment_here(), stdout=subprocess.PIPE
    ) as call:
        assert call.stdout is not None
        assert call.stdout.readline() == b"ready\n"
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
        wait_for(Path("ready").exists)
        caller.kill()
        wait_for(Path("saved").exists)
