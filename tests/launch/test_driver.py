"""The driver: slots, attempts, GPUs; whose failure counts, and what it cannot work without."""

import errno
import fcntl
import signal
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from repro.__main__ import main
from repro.data.stages import leave_out
from repro.events import JobFile
from repro.launch import driver, jobs, places, run_job, slurm, torchrun
from repro.launch.driver import run_all, train_stage
from repro.launch.jobs import Attempts, run_progress
from repro.plan.queue import cost
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs.again import reopen
from repro.runs.deliver import deliver
from repro.runs.run import LaunchError, Run
from repro.spec import Dataset, Profile, RunSpec, SpecError, Stage
from repro.train.process import distributed
from tests.support.launch import Launch, published, started, stub_inputs
from tests.support.short_run import scheduled


def test_deaths_with_progress_between_them_do_not_count(profile: Profile, launch: Launch) -> None:
    """Four deaths where two in vain are the limit: each came after a new checkpoint."""
    spec = clean_runs(profile)[0]
    launch([spec], {spec.run_id: "die further"})
    assert published([spec]) == {spec.run_id: "completed"}
    assert len(started()) == 5


def test_a_run_whose_failure_another_call_takes_away_is_not_started_for_ever(
    profile: Profile, here: Path
) -> None:
    """The call opens it to make it again, while the job that had given it up is still there."""
    run = Run(clean_runs(profile)[0], "a" * 16, {}, "code")
    run.save()
    attempts = Attempts()
    for number in range(1, 4):
        attempts.begin([run])
        run_job._note_failure(run, "died", attempts)
        assert (run.finished() is not None) == (number >= 2)
        reopen(run)


def test_a_failed_run_made_ahead_does_not_fail_the_stage(profile: Profile, launch: Launch) -> None:
    """Its own stage names it; what is asked for here is there."""
    first, second, *_ = clean_runs(profile)
    Path("behaviour.json").write_text(f'{{"{second.run_id}": "raise"}}')
    run_all([first], stub_inputs, worker="tests.support.stub_worker", ahead=[first, second])
    assert published([first]) == {first.run_id: "completed", second.run_id: "failed"}
    with pytest.raises(LaunchError, match="1 of 1 runs failed"):
        run_all([second], stub_inputs, worker="tests.support.stub_worker", ahead=[first, second])


def test_a_run_that_has_not_ended_is_not_locked(here: Path) -> None:
    """A driver asks for each of its runs several times a second."""
    run = make_run(clean_runs(load_profile("smoke"))[0])
    run.save()
    assert not deliver(run, Path("results"))
    assert [path.name for path in run.work_dir.iterdir()] == ["spec.json"]


@pytest.mark.parametrize("stage", ["pretrain", "clean"])
def test_a_dataset_that_was_not_brought_has_no_runs(
    stage: Stage, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stages leave the empty outputs that DVC wants, and those of the other do not train it."""
    asked: list[tuple[set[str], set[str]]] = []

    def noted(specs: list[RunSpec], ahead: list[RunSpec]) -> None:
        asked.append(({spec.dataset for spec in specs}, {spec.dataset for spec in ahead}))

    monkeypatch.setattr(driver, "run_all", noted)
    # Where both are there, the first stage that trains makes the runs of both.
    train_stage(stage, "smoke", "cc3m", "mmcl")
    assert asked.pop() == ({"cc3m"}, {"cc3m", "cc6m"})

    leave_out(Path("data/smoke/cc6m"), "not there")
    leave_out(Path("poisoned/smoke/cc6m"), "not there")
    for dataset in get_args(Dataset):
        train_stage(stage, "smoke", dataset, "mmcl")
    assert asked == [({"cc3m"}, {"cc3m"})]
    models = {"pretrain": "models/smoke", "clean": "models/smoke/cleaned"}
    for folder in (Path("results/smoke") / stage, Path(models[stage])):
        assert [*(folder / "cc6m-mmcl").iterdir()] == []


def test_runs_whose_record_could_not_be_written_are_counted(
    profile: Profile, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file stands where the folder of the records should be; the results are whole."""
    specs = clean_runs(profile)
    Path("sacred").touch()
    launch(specs)
    assert set(published(specs).values()) == {"completed"}
    told = "3 of 3 runs have results, but no record in sacred/; why is in work/jobs"
    assert told in capsys.readouterr().out
    logs = "".join(path.read_text() for path in Path("work/jobs").glob("*.log"))
    assert "tracking: no record in sacred/smoke: Not a directory" in logs


def test_what_records_will_lack_is_said_before_the_runs(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "commit_notice", lambda: "records name no commit: why")
    run_all([], stub_inputs)
    *_, notice, counts = capsys.readouterr().out.splitlines()
    assert notice.endswith("records name no commit: why")
    assert counts.endswith("0 runs to make, 0 are up to date")


def test_a_file_system_without_locks_is_named_before_anything_runs(
    root: Path,
    profile: Profile,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(SpecError, match=r"grants no locks .*mount it with them \(Lustre: option"):
        launch(clean_runs(profile)[:1])
    assert started() == []

    (Path.cwd() / "specs").symlink_to(root / "specs")
    assert main(["reproduce", "smoke"]) == 2
    assert "profile.lock: the file system grants no locks" in capsys.readouterr().err


@pytest.fixture
def runs(here: Path) -> list[Run]:
    """Three runs with work folders in an empty repository."""
    inputs = {"pairs": {"path": "pairs", "hash": "p"}}
    specs = clean_runs(load_profile("smoke"))[:3]
    made = [Run(spec, f"{number:016x}", inputs, "code") for number, spec in enumerate(specs)]
    for run in made:
        run.save()
    return made


def checkpoint(run: Run, step: int) -> None:
    (run.work_dir / f"checkpoint-{step}").mkdir()


def test_failures_at_one_checkpoint_add_up_and_a_new_one_resets_the_count(runs: list[Run]) -> None:
    attempts = Attempts()
    run = runs[0]
    counts = []
    for step in (0, 0, 90, 100, 0, 1000):
        attempts.begin([run])
        if step:
            checkpoint(run, step)
        counts.append(attempts.failed(run))
    assert counts == [1, 2, 1, 1, 2, 1]
    assert run_progress([run]) == (0, 1000)


def test_progress_of_one_run_counts_for_those_that_wait_behind_it(runs: list[Run]) -> None:
    """The last of a long batch is submitted once a day and has its turn in a week."""
    attempts = Attempts()
    attempts.begin(runs)
    assert attempts.failed(runs[2]) == 1
    attempts.begin(runs)
    checkpoint(runs[0], 5)
    assert attempts.failed(runs[2]) == 1


def test_slurm_jobs_with_progress_go_on(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten jobs that end at the wall time with a new checkpoint; three in vain are the limit."""
    submitted: list[int] = []
    monkeypatch.setattr(slurm, "submit", lambda name, jobs, worker: submitted.append(len(jobs)))
    submitter = slurm.Submitter("name", "worker")
    run = runs[0]
    waiting = [run]
    for number in range(10):
        # Looked at twice, for a record may come late.
        submitter.submit_lost(waiting, [])
        submitter.submit_lost(waiting, [])
        checkpoint(run, 10 + number)
    assert run.finished() is None
    assert sum(submitted) >= 10

    for _ in range(2 * slurm.ROUNDS):
        submitter.submit_lost(waiting, [])
    record = run.finished()
    assert record is not None
    assert f"no result after {slurm.ROUNDS} Slurm jobs" in record.reason


def test_slots_get_equal_shares(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two SSL runs cost 2, two MMCL runs 1: each of two slots gets one of both, in one job."""
    monkeypatch.setenv("REPRO_SLOTS", "2")
    specs = [clean_runs(profile)[0].model_copy(update={"loss": loss}) for loss in ("mmcl", "ssl")]
    data = {"pairs": {"path": "pairs", "hash": "p"}}
    runs = [Run(spec, f"{number:04}", data, "code") for number, spec in enumerate(specs * 2)]
    shares = [[[run.spec.loss for run in job.runs] for job in of] for of in jobs.queues(runs)]
    assert shares == [[["ssl", "mmcl"]], [["ssl", "mmcl"]]]


def test_no_process_of_the_pretrainings_has_half_as_much_again_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dealt in turn, one of two would have twice as much as the other."""
    monkeypatch.setenv("REPRO_SLOTS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("REPRO_RANKS", raising=False)
    runs = [make_run(spec) for spec in pretrain_runs(load_profile("mini", root / "specs"))]
    shares = [[run for job in queue for run in job.runs] for queue in jobs.queues(runs)]
    assert sorted(run.name for share in shares for run in share) == sorted(run.name for run in runs)
    less, more = sorted(sum(cost(run.spec) for run in share) for share in shares)
    assert more < 1.5 * less


@pytest.mark.parametrize("due", [1, 2, 5])
def test_a_pretraining_on_cores_has_one_rank_however_many_are_due(
    profile: Profile, monkeypatch: pytest.MonkeyPatch, due: int
) -> None:
    """Other ranks round sums in another order: the digits of a run must be its own."""
    monkeypatch.delenv("REPRO_RANKS", raising=False)
    monkeypatch.delenv("REPRO_SLOTS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("repro.launch.places.cores", lambda: 2)
    spec = pretrain_runs(profile)[0]
    runs = [replace(make_run(spec), fingerprint=f"{number:016}") for number in range(due)]
    queued = [job for queue in jobs.queues(runs) for job in queue]
    assert sum(len(job.runs) for job in queued) == due
    assert {(job.place.ranks, job.place.threads) for job in queued} == {(1, 1)}


def test_runs_on_equal_data_go_together(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_SLOTS", "1")
    spec = clean_runs(profile)[0]
    runs = []
    for asked in ("p m1 100k", "q m3 100k", "p m2 100k", "p m1 200k", "p m1 100k"):
        pairs, model, size = asked.split()
        inputs = {"pairs": {"path": pairs, "hash": size}, "model": {"hash": model}}
        sized = spec.model_copy(update={"clean_size": size})
        runs.append(Run(sized, f"{asked} {len(runs)}", inputs, "code"))
    (queue,) = jobs.queues(runs)
    first, second = sorted([run.fingerprint[:9] for run in of.runs] for of in queue)
    assert first == ["p m1 100k", "p m1 100k", "p m1 200k", "p m2 100k"]
    assert second == ["q m3 100k"]


def make_job(**values: object) -> JobFile:
    place = {"runs": [], "work": "work", "worker": "repro.worker", "in_job": False}
    size = {"ranks": 1, "nodes": 1, "threads": 6, "devices": ["0"], "grace_seconds": 20.0}
    return {**place, **size, **values}  # type: ignore[return-value, typeddict-item]


def make_run(spec: RunSpec) -> Run:
    return Run(spec, "0" * 16, {"pairs": {"path": "pairs", "hash": "p"}}, "code")


def with_groups(spec: RunSpec, groups: int) -> Run:
    """The run with a batch of so many BatchNorm groups."""
    return make_run(scheduled(spec, global_batch_size=8 * groups, norm_batch_size=8))


def test_a_gpu_run_starts_in_the_environment_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    compilers = "TORCHINDUCTOR_COMPILE_THREADS"
    for name in (places.LOADER_WORKERS, compilers, *places.GPU_ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    found = torchrun.training_environment(make_job())
    wanted = {
        "REPRO_LOADER_WORKERS": "5",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        # Not in /tmp, which ends with the job: the next one would compile anew.
        "TORCHINDUCTOR_CACHE_DIR": f"{Path('work/cache/inductor').resolve()}",
        compilers: "6",
        "OMP_NUM_THREADS": "6",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    assert {name: found.get(name) for name in wanted} == wanted

    found = torchrun.training_environment(make_job(devices=[]))
    assert found["REPRO_LOADER_WORKERS"] == "0"
    assert not {"PYTORCH_ALLOC_CONF", compilers} & found.keys()


@pytest.mark.parametrize(("in_job", "expected"), [(True, (["3"], 6)), (False, (["1"], 3))])
def test_a_slurm_job_counts_its_own_devices_and_cores(
    profile: Profile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_job: bool,
    expected: tuple[list[str], int],
) -> None:
    """By its affinity, with or without --cpus-per-task; a batch on this machine keeps its share."""
    path = tmp_path / "0.json"
    made = jobs.Job((make_run(clean_runs(profile)[0]),), places.Place(("1",), 2, 3))
    jobs.write_job(made, path, "repro.worker", slurm.RANK_SECONDS, in_job=in_job)
    monkeypatch.setattr(run_job, "cores", lambda: 12)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    found = run_job.read_job(path)
    assert (found["devices"], found["threads"]) == expected
    assert found["grace_seconds"] == slurm.NOTICE_SECONDS - 20
    assert "--shutdown-timeout=100" in torchrun.command(found, path)


def test_ranks_are_bound_to_cores_where_that_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    def bound(found: str | None, nodes: int, **values: object) -> bool:
        monkeypatch.setattr(torchrun.shutil, "which", lambda name: found)
        monkeypatch.setattr(torchrun.Path, "glob", lambda path, pattern: [path] * nodes)
        return "--numa-binding=node" in torchrun.command(make_job(**values), Path("p"))

    assert bound("/usr/bin/numactl", 2)
    assert not bound("/usr/bin/numactl", 1), "all cores are equally near"
    assert not bound(None, 2), "torchrun binds by numactl"
    assert not bound("/usr/bin/numactl", 2, devices=[])


def test_a_stop_on_two_nodes_leaves_rank_0_time_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first agent to end must not have srun kill the others."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    command = torchrun.command(make_job(nodes=2, ranks=2, grace_seconds=100.0), Path("p"))
    assert "--wait=100" in command
    assert "--kill-on-bad-exit=0" in command


@pytest.mark.parametrize(
    ("gpus", "groups", "ranks", "problem"),
    [
        ("", 6, 3, ""),
        ("", 6, 4, r"4 ranks on 1 nodes \(allowed: 1, 2, 3, 6; set REPRO_"),
        ("0,1", 4, 4, r"4 ranks on 1 nodes \(allowed: 1, 2; set .* one a GPU"),
        ("0,1,2,3", 6, None, ""),
    ],
)
def test_ranks_are_those_that_were_asked_for_or_as_many_as_divide_the_groups(
    profile: Profile,
    monkeypatch: pytest.MonkeyPatch,
    gpus: str,
    groups: int,
    ranks: Any,
    problem: str,
) -> None:
    run = with_groups(pretrain_runs(profile)[0], groups)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    if ranks:
        monkeypatch.setenv("REPRO_RANKS", str(ranks))
    if problem:
        with pytest.raises(LaunchError, match=problem):
            places.whole_place(run)
    else:
        place = places.whole_place(run)
        assert place.ranks == 3
        assert place.devices == tuple(filter(None, gpus.split(",")))


def test_a_rank_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(RuntimeError, match="4 ranks on a machine with 2 usable GPUs"):
        distributed.start(["0", "1"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a usable GPU")
def test_promised_gpus_that_torch_cannot_use_end_the_stage_before_training(
    profile: Profile, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says what to do, instead of days on the processor."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("REPRO_SLOTS", "1")
    said = r"RuntimeError: GPUs 0 are there, but torch .* cannot use them: install the build of"
    with pytest.raises(LaunchError, match=said):
        run_all(clean_runs(profile)[:1], stub_inputs)


def test_a_run_that_lacks_memory_says_what_to_try() -> None:
    launch = torchrun.Torchrun.__new__(torchrun.Torchrun)
    cause = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    launch.lines = deque([f"[rank0]: {cause}"])
    assert launch.reason().startswith(cause)
    assert "nvidia-smi" in launch.reason()
    launch.lines = deque(["ValueError: no"])
    assert launch.reason() == "ValueError: no"


@pytest.mark.parametrize("nodes", [1, 2])
def test_srun_itself_gets_no_signal(nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would answer SIGTERM with SIGKILL to all ranks; here Slurm's word ends the process."""
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(torchrun, "command", lambda job, path: waiting)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    launch = torchrun.Torchrun(make_job(nodes=nodes, ranks=nodes), Path("p"))
    asked = []

    def scancel(command: list[str], **_: Any) -> None:
        asked.append(command)
        launch.process.kill()

    monkeypatch.setattr(torchrun.subprocess, "run", scancel)
    launch.stop()
    several = nodes > 1
    assert asked == ([["scancel", "--signal=TERM", "7"]] if several else [])
    assert launch.process.returncode == -(signal.SIGKILL if several else signal.SIGTERM)
