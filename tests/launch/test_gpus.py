"""GPU runs, as far as a machine without GPU can tell: environment, ranks, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from repro.events import PackFile
from repro.launch import pack, packs, places, slurm, torchrun
from repro.launch.driver import run_all
from repro.profile import clean_runs, pretrain_runs
from repro.runs.run import LaunchError, Run
from repro.spec import Profile, RunSpec
from repro.train.process import distributed
from tests.support.launch import Launch, launch, profile, stub_inputs  # noqa: F401  (fixtures)

# ruff: noqa: F811  (fixtures are imported, and named again where they are used)


def make_pack(**values: object) -> PackFile:
    pack: PackFile = {
        "runs": [],
        "work": "work",
        "worker": "repro.worker",
        "ranks": 1,
        "nodes": 1,
        "threads": 6,
        "devices": ["0"],
        "in_job": False,
        "grace_seconds": 20.0,
    }
    return pack | values  # type: ignore[return-value]


def make_run(spec: RunSpec) -> Run:
    return Run(spec, "0" * 16, {"pairs": {"path": "pairs", "hash": "p"}}, "code")


def with_groups(spec: RunSpec, groups: int) -> Run:
    """The run with a batch of so many BatchNorm groups."""
    sizes = {"global_batch_size": 8 * groups, "norm_batch_size": 8}
    return make_run(spec.model_copy(update={"schedule": spec.schedule.model_copy(update=sizes)}))


def test_a_gpu_run_starts_in_the_environment_that_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (places.LOADER_WORKERS, *places.GPU_ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    found = torchrun.training_environment(make_pack())
    wanted = {
        "REPRO_LOADER_WORKERS": "5",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": "6",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    assert {name: found.get(name) for name in wanted} == wanted

    found = torchrun.training_environment(make_pack(devices=[]))
    assert found["REPRO_LOADER_WORKERS"] == "0" and "PYTORCH_ALLOC_CONF" not in found


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
    batch = packs.Pack((make_run(clean_runs(profile)[0]),), places.Place(("1",), 2, 3))
    packs.write_pack(batch, path, "repro.worker", slurm.RANK_SECONDS, in_job=in_job)
    monkeypatch.setattr(pack, "cores", lambda: 12)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    found = pack.read_pack(path)
    assert (found["devices"], found["threads"]) == expected
    assert found["grace_seconds"] == slurm.NOTICE_SECONDS - 20
    assert "--shutdown-timeout=100" in torchrun.command(found, path)


def test_a_file_that_is_no_batch_is_refused(tmp_path: Path) -> None:
    for content in ("# README", "{}"):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(LaunchError, match=r"x\.json: not a file of a batch of runs"):
            pack.read_pack(tmp_path / "x.json")


def test_ranks_are_bound_to_cores_only_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bound(found: str | None, nodes: int, **values: object) -> bool:
        monkeypatch.setattr(torchrun.shutil, "which", lambda name: found)
        monkeypatch.setattr(torchrun.Path, "glob", lambda path, pattern: [path] * nodes)
        return "--numa-binding=node" in torchrun.command(make_pack(**values), Path("p"))

    assert bound("/usr/bin/numactl", 2)
    assert not bound("/usr/bin/numactl", 1), "all cores are equally near"
    assert not bound(None, 2), "torchrun binds by numactl"
    assert not bound("/usr/bin/numactl", 2, devices=[])


def test_a_stop_on_two_nodes_leaves_rank_0_the_time_to_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first agent to end must not have srun kill the others."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    command = torchrun.command(make_pack(nodes=2, ranks=2, grace_seconds=100.0), Path("p"))
    assert "--wait=100" in command and "--kill-on-bad-exit=1" not in command


def test_an_older_torchrun_gets_no_option_that_it_does_not_know() -> None:
    asked = ["--nproc-per-node=1", "--numa-binding=node", "--shutdown-timeout=20", "-m", "w"]
    assert torchrun.supported(asked, "--nproc-per-node") == ["--nproc-per-node=1", "-m", "w"]
    assert torchrun.supported(asked, " ".join(torchrun.NEWER_OPTIONS)) == asked


def test_ranks_that_were_asked_for_are_kept_or_refused(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run = with_groups(pretrain_runs(profile)[0], 6)
    monkeypatch.setenv("REPRO_RANKS", "3")
    assert places.whole_place(run).ranks == 3
    monkeypatch.setenv("REPRO_RANKS", "4")
    with pytest.raises(LaunchError, match=r"4 ranks on 1 nodes \(allowed: 1, 2, 3, 6; set REPRO_"):
        places.whole_place(run)


def test_more_ranks_than_gpus_are_refused(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("REPRO_RANKS", "4")
    with pytest.raises(LaunchError, match=r"4 ranks on 2 GPUs \(allowed: at most a rank a GPU"):
        places.whole_place(with_groups(pretrain_runs(profile)[0], 4))


def test_a_rank_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(RuntimeError, match="4 ranks on a machine with 2 usable GPUs"):
        distributed.start(["0", "1"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a usable GPU")
@pytest.mark.slow
def test_promised_gpus_that_torch_cannot_use_end_the_stage_before_training(
    profile: Profile, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says what to do, instead of days on the processor."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("REPRO_SLOTS", "1")
    said = r"RuntimeError: GPUs 0 are there, but torch .* cannot use them: install the build of"
    with pytest.raises(LaunchError, match=said):
        run_all(clean_runs(profile)[:1], stub_inputs, worker="tests.support.promised")
