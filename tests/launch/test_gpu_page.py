"""docs/gpu.md as it is typed: each block runs, with stand-ins for downloads and trainings."""

import io
import os
import re
import subprocess
import tarfile
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest

from repro.cli import commands
from repro.data.cache import cached_array
from repro.launch import slurm
from repro.launch.jobs import Job, queues
from repro.launch.places import Place
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs.run import Run
from repro.spec import RunSpec

STUB = '#!/bin/bash\necho "$(basename "$0") $*" >> "$CALLS"\n'
COMMANDS = ("python", "pip", "hf", "img2dataset", "dvc", "make", "rsync")


def blocks(root: Path) -> list[str]:
    text = (root / "docs/gpu.md").read_text(encoding="utf-8")
    return re.findall(r"^ *```bash\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def calls(root: Path, tmp_path: Path) -> list[str]:
    """Calls of the commands in all blocks, run one after another in an empty folder."""
    (tmp_path / ".venv/fetch/bin").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in COMMANDS:
        for folder in ("bin", ".venv/fetch/bin"):
            (tmp_path / folder / name).write_text(STUB)
            (tmp_path / folder / name).chmod(0o755)
    for name in ("Train_GCC-training.tsv", "cc12m.tsv"):
        (tmp_path / name).write_text("a boat\thttp://example.org/1.jpg\n")
    first = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": f"{tmp_path}/calls"}
    first["SAFE"] = "elsewhere:study"
    for block in blocks(root):
        subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=os.environ | first, check=True)
    assert (tmp_path / "Train_GCC-training.tsv").read_text().startswith("caption\turl\n")
    return (tmp_path / "calls").read_text().splitlines()


MOGRIFY = """#!/bin/bash
status=0
for file in "${@: -1}" "$@"; do
    case $file in
        *faulty.jpg) status=1 ;;
        *.jpg) echo smaller > "$file" ;;
    esac
done
exit $status
"""


def test_shards_are_encoded_anew_but_for_faulty_images(root: Path, tmp_path: Path) -> None:
    """With a stand-in for ImageMagick, which goes on after a file that it cannot read."""
    (block,) = (block for block in blocks(root) if "mogrify" in block)
    for folder in ("bin", "incoming/cc3m", "scratch"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin/mogrify").write_text(MOGRIFY)
    (tmp_path / "bin/mogrify").chmod(0o755)
    names = ["a-faulty.jpg", "a-faulty.txt", "b.jpg", "b.txt"]
    shards = [tmp_path / f"incoming/cc3m/cc3m-train-{number}.tar" for number in range(2)]
    for shard in shards:
        with tarfile.open(shard, "w") as tar:
            for name in reversed(names):
                info = tarfile.TarInfo(name)
                info.size = 6
                tar.addfile(info, io.BytesIO(b"larger"))

    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "TMPDIR": f"{tmp_path}/scratch"}
    command = ["bash", "-euc", block]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("some images stay as they are") == 2
    for shard in shards:
        with tarfile.open(shard) as tar:
            assert tar.getnames() == names
            contents = [tar.extractfile(name).read() for name in names]  # type: ignore[union-attr]
        assert contents == [b"larger", b"larger", b"smaller\n", b"larger"]
    assert not [*(tmp_path / "scratch").iterdir()]
    assert sorted((tmp_path / "incoming/cc3m").iterdir()) == shards


def test_each_call_is_one_that_the_project_has(root: Path, calls: list[str]) -> None:
    """Commands with options, targets and stages; img2dataset is called for both lists."""
    assert sum(call.startswith("img2dataset --url_list") for call in calls) == 2
    for call in calls:
        words = call.split()
        if words[:3] == ["python", "-m", "repro"]:
            with click.Context(commands) as context:
                command = commands.get_command(context, words[3])
                assert command is not None
                command.make_context(words[3], words[4:], parent=context)
        elif words[0] == "make":
            assert f"\n{words[1]}:" in (root / "Makefile").read_text(encoding="utf-8")


def test_the_mirrors_shards_hold_the_pairs_that_the_profiles_take(calls: list[str]) -> None:
    """CC12M's 2,176 shards have 10,968,539 pairs, CC3M's 576 have 2,905,954 (the mirrors' pages)."""
    patterns = [call.partition("--include ")[2].split(" --")[0].split() for call in calls]
    wanted = load_profile("paper").data.num_pairs
    for name, shards, rows in (("cc3m", 576, 2_905_954), ("cc12m", 2_176, 10_968_539)):
        names = [f"{name}-train-{number:04}.tar" for number in range(shards)]
        of = next(listed for listed in patterns if any(f"{name}-" in one for one in listed))
        fetched = sum(any(fnmatch(file, pattern) for pattern in of) for file in names)
        pairs = wanted["cc3m" if name == "cc3m" else "cc6m"]
        assert pairs * 1.05 < fetched / shards * rows < pairs * 1.1


def run_of(spec: RunSpec) -> Run:
    inputs = {
        "pairs": {"path": spec.dataset, "hash": ""},
        "model": {"path": spec.model_name, "hash": ""},
    }
    return Run(spec, f"{spec.model_name} {spec.run_id}", inputs, "code")


def options_of(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The call of sbatch for these batches, which is not made."""
    calls: list[list[str]] = []
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(slurm, "_slurm", lambda command: calls.append(command) or done)
    slurm.submit("name", jobs, "repro.worker")
    (call,) = calls
    return call


@pytest.mark.usefixtures("here")
def test_the_launcher_finds_its_jobs_whatever_the_user_names_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of an option that stands twice sbatch takes the last."""
    monkeypatch.setenv("REPRO_SBATCH", "--job-name=clip --comment=project --output=here.log")
    run = run_of(clean_runs(load_profile("smoke"))[0])
    command = options_of([Job((run,), Place((), ranks=1, threads=1))], monkeypatch)
    for option in ("--job-name", "--comment", "--output"):
        last = [value for value in command if value.startswith(f"{option}=")][-1]
        assert last.split("=")[1] not in ("clip", "project", "here.log")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("number", [0, 1])
def test_the_settings_for_slurm_start_every_run_of_the_paper(
    root: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one node of eight GPUs, and on two nodes of four."""
    exports = ["\n".join(re.findall("^export.*$", block, re.M)) for block in blocks(root)]
    first, second = [lines for lines in exports if "REPRO_SBATCH_PRETRAIN" in lines]
    lines = first if number == 0 else f"{first}\n{second}"
    for line in subprocess.check_output(["bash", "-euc", f"{lines}\nenv"], text=True).splitlines():
        if line.startswith("REPRO_"):
            monkeypatch.setenv(*line.split("=", 1))
    nodes = int(os.environ.get("REPRO_NODES", "1"))
    assert nodes == number + 1

    paper = load_profile("paper")
    runs = [run_of(spec) for spec in pretrain_runs(paper)]
    jobs = [job for queue in queues(runs, nodes) for job in queue]
    assert len(jobs) == len(runs) == 4, "each pre-training is a job of its own"
    assert {(job.place.ranks, job.place.nodes) for job in jobs} == {(8, nodes)}
    options = options_of(jobs, monkeypatch)
    assert {"--mem", "--cpus-per-task"} <= {option.partition("=")[0] for option in options}

    cleaning = [run_of(spec) for spec in clean_runs(paper, "cc3m", "mmcl")]
    jobs = [job for queue in queues(cleaning, nodes) for job in queue]
    assert len(jobs) == 32
    assert {"--mem=64G", "--gres=gpu:1"} <= set(options_of(jobs, monkeypatch))


def test_the_cache_may_be_a_link_to_a_folder_that_a_node_lacks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (root / "docs/gpu.md").read_text(encoding="utf-8")
    link = re.search(r"`(mkdir -p work && ln -s [^`]*)`", text)
    assert link
    command = link[1].replace("/scratch/$USER", f"{tmp_path}/node")
    subprocess.run(["bash", "-euc", command], check=True)
    assert not Path("work/cache").exists()
    array = cached_array(Path("work/cache/x.npy"), (2,), lambda: [np.zeros(2, np.uint8)])
    assert array.shape == (2,)
    assert (tmp_path / "node/cache/x.npy").exists()
