"""dvc.yaml: what stages depend on and, with the real DVC and a stub, what an edit reruns."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from repro.profile import load_profile
from repro.study.archive import read_archive
from repro.study.spec import archive_of, lacking, load_study
from tests.support.checkout import commit
from tests.support.imports import closure
from tests.support.pipeline import environment, repro, write_project

MODELS = ["cc3m mmcl", "cc3m mmcl_ssl", "cc6m mmcl", "cc6m mmcl_ssl"]
ENTRIES = {
    "resolve": "repro.profile",
    "data": "repro.sources.stage",
    "poison": "repro.data.stages",
    "pretrain": "repro.worker",
    "clean": "repro.worker",
    "report": "repro.report.build",
}
"""Stage -> the module that makes its content. Where a run goes (repro/launch) changes no result."""


@pytest.fixture(scope="module")
def graph(root: Path) -> dict[str, Any]:
    """The stages of dvc.yaml."""
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    content = YAML(typ="safe", pure=True).load(text)
    return dict(content["stages"])


def test_two_profiles_share_no_output_and_training_keeps_its_own(graph: dict[str, Any]) -> None:
    for name in ENTRIES:
        stage = graph[name]
        assert stage["matrix"]["profile"] == ["${profile}"]
        for out in stage["outs"]:
            assert "/${item.profile}" in str(out)
    for name in ("pretrain", "clean"):
        for out in graph[name]["outs"]:
            assert list(out.values()) == [{"persist": True}]


def test_studies_of_the_graph_have_results_and_a_spec(root: Path, graph: dict[str, Any]) -> None:
    """A stale study would make plain `dvc repro` start hours of training."""
    study = graph["study"]
    archives = {path.name.partition(".")[0] for path in root.glob("results/studies/*.jsonl.gz")}
    listed = set(study["matrix"]["name"])
    assert listed <= archives
    for name in archives:
        runs = read_archive(root / archive_of(name))
        whole = not lacking(load_study(name), [run.record for run in runs])
        assert whole == (name in listed), name
    assert "params" not in study
    assert study["deps"] == ["specs/studies/${item.name}.yaml"]
    kept = {"cache": False, "persist": True}
    assert study["outs"] == [{"results/studies/${item.name}.jsonl.gz": kept}]


@pytest.mark.parametrize("stage", ENTRIES)
def test_a_stage_depends_on_all_its_imports(root: Path, graph: dict[str, Any], stage: str) -> None:
    listed = {path for path in graph[stage]["deps"] if path.startswith("repro/")}
    for path in listed:
        assert (root / path).exists(), path
    reached = closure(ENTRIES[stage], root / "repro")
    # A package within repro/ counts as a whole.
    parts = {Path(*file.relative_to(root).parts[:2]).as_posix() for file in reached}
    assert parts - {"repro/__init__.py"} <= listed


def test_every_value_of_a_profile_reruns_a_stage(root: Path, graph: dict[str, Any]) -> None:
    """A field that no stage names could change without any effect; the report depends on specs/."""
    named = set()
    for stage in graph.values():
        for params in stage.get("params", []):
            (fields,) = params.values()
            named |= {field.replace("${item.objective}", "mmcl_ssl") for field in fields or []}
    assert "switches" in named

    profile = load_profile("mini", root / "specs").model_dump()
    unnamed = set()
    for part in ("data", "pretrain", "clean"):
        if part not in named:
            unnamed |= {f"{part}.{name}" for name in profile[part]}
    left = {"pretrain.objectives", "data.poison", "data.stand_in"}
    assert unnamed - named <= left


def edit_template(project: Path) -> None:
    template = project / "repro/report/pages/templates/index.html.j2"
    template.write_text(template.read_text() + "\n")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture(scope="module")
def first_call(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A checkout at profile smoke whose stages, which are stubs, have run; what ran."""
    folder = write_project(root, tmp_path_factory.mktemp("once"))
    (folder / "params.yaml").write_text("profile: smoke\n")
    return folder, repro(folder)


@pytest.fixture
def complete(first_call: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A copy of this checkout that a test may change."""
    return Path(shutil.copytree(first_call[0], tmp_path / "project", symlinks=True))


def test_an_edit_reruns_what_it_changes_and_nothing_else(
    first_call: tuple[Path, list[str]], complete: Path, graph: dict[str, Any]
) -> None:
    project = complete
    smoke = complete / "specs" / "smoke.yaml"
    models = [f"smoke {model}" for model in MODELS]
    everything = ["resolve smoke", "data smoke", "poison smoke cc3m", "poison smoke cc6m"]
    everything += [f"{stage} {model}" for stage in ("pretrain", "clean") for model in models]
    everything += ["report smoke"]
    studies = ["study"] * len(graph["study"]["matrix"]["name"])  # their results are not copied
    assert sorted(first_call[1]) == sorted([*everything, *studies])
    status = ["git", "status", "--porcelain", "-uall"]
    lines = subprocess.check_output(status, cwd=project, text=True).splitlines()
    generated = ("data/", "poisoned/", "models/", "results/smoke", "report/build/", ".dvc/cache/")
    assert not [line for line in lines if line[3:].startswith(generated)]

    (project / "params.yaml").write_text("profile: mini\n")
    assert len(repro(project)) == len(everything)
    (project / "params.yaml").write_text("profile: smoke\n")
    assert repro(project) == []  # both profiles keep their entries in dvc.lock

    replace(smoke, "learning_rates: [3.0e-4, 1.0e-3]", "learning_rates: [3.0e-4, 2.0e-3]")
    assert repro(project) == [
        "resolve smoke",
        *(f"clean {model}" for model in models),
        "report smoke",
    ]

    replace(smoke, "mmcl_ssl: {learning_rate: 1.0e-3", "mmcl_ssl: {learning_rate: 2.0e-3")
    changed = [f"pretrain smoke {model}" for model in MODELS if model.endswith("ssl")]
    # The stub's model is the same as before, so cleaning stays.
    assert repro(project) == ["resolve smoke", *changed, "report smoke"]

    # A value that is inherited, and one of another profile.
    replace(project / "specs/paper.yaml", "trigger_seed: 0 ", "trigger_seed: 1 ")
    replace(project / "specs/midi.yaml", "num_concepts: 1000", "num_concepts: 900")
    assert sorted(repro(project)) == sorted(set(everything) - {"data smoke"})

    edit_template(project)
    assert repro(project) == ["report smoke"]

    smoke.write_text("# a comment\n" + smoke.read_text())
    assert repro(project) == ["resolve smoke", "report smoke"]  # which quotes comments


def test_in_a_fresh_clone_the_documented_command_says_what_would_run(
    root: Path, project: Path
) -> None:
    pattern = r"In a fresh clone, `(dvc [^`]+)` says what would run"
    [command] = re.findall(pattern, (root / "docs/usage.md").read_text())
    said = shell(project, command, project)
    names = [model.replace(" ", "-") for model in MODELS]
    stages = [f"{stage}@mini-{name}" for stage in ("pretrain", "clean") for name in names]
    for stage in ("resolve@mini", "data@mini", "poison@mini-cc3m", *stages, "report@mini"):
        assert f"{stage}:\n" in said
    assert not (project / "ran.log").exists()


def test_one_value_set_as_an_experiment_reruns_what_it_touches(complete: Path) -> None:
    """DVC rewrites params.yaml alone, and keeps its comments."""
    params = complete / "params.yaml"
    params.write_text("# mine\nprofile: smoke # of mine\noverrides: {}\n")
    repro(complete)
    commit(complete)
    specs = {path: path.read_bytes() for path in (complete / "specs").rglob("*.yaml")}

    ran = repro(complete, "dvc", "exp", "run", "-S", "+overrides.clean.warmup_steps=2")
    assert ran == ["resolve smoke", *(f"clean smoke {model}" for model in MODELS), "report smoke"]
    assert "# mine\nprofile: smoke # of mine\n" in params.read_text()
    assert {path: path.read_bytes() for path in specs} == specs
    content = json.loads((complete / "results/smoke/resolved/profile.json").read_bytes())
    before = load_profile("smoke", complete / "specs")
    assert content["clean"]["warmup_steps"] == 2 != before.clean.warmup_steps


def recipe(root: Path, number: int) -> str:
    """A block of commands of "Share results" in docs/usage.md, for the profile smoke."""
    page = (root / "docs/usage.md").read_text()
    section = page.partition("## Share results")[2]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return str(blocks[number]).replace("mini", "smoke")


def shell(folder: Path, commands: str, remotes: Path, *, may_fail: bool = False) -> str:
    """Output of commands of a recipe in a checkout; each remote is a folder below `remotes`."""
    named = re.sub(r"(small|full) URL", rf"\1 {remotes}/\1", commands)
    command = ["bash", "-euo", "pipefail", "-c", named]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300
    )
    assert may_fail or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shared(
    root: Path, first_call: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A checkout that was pushed as docs/usage.md says, and the folder of its remotes."""
    folder, remotes = (tmp_path_factory.mktemp(name) for name in ("shared", "remotes"))
    shutil.copytree(first_call[0], folder, symlinks=True, dirs_exist_ok=True)
    shell(folder, recipe(root, 0), remotes)
    # Only what the recipe adds is committed of these.
    (folder / ".git/info/exclude").write_text("/dvc.lock\n/params.yaml\n")
    commit(folder)
    return folder, remotes


def cloned(shared: tuple[Path, Path], folder: Path) -> Path:
    subprocess.run(["git", "clone", "-q", shared[0], folder], check=True)
    shutil.copytree(shared[0] / "bin", folder / "bin", dirs_exist_ok=True)
    return folder


def test_a_report_is_seen_and_rebuilt_from_the_small_remote(
    root: Path, shared: tuple[Path, Path], tmp_path: Path
) -> None:
    """In a fresh clone only the report is rebuilt, after an edit of a template."""
    clone = cloned(shared, tmp_path / "clone")
    remotes = shared[1]
    assert "up to date" in shell(clone, recipe(root, 1), remotes)
    assert (clone / "report/build/smoke").is_dir()
    assert not (clone / "models").exists()
    edit_template(clone)
    again = "dvc repro --pull --allow-missing report"
    assert again in recipe(root, 1)
    assert repro(clone, *again.split()) == ["report smoke"]
    assert not (clone / "models").exists()
    assert (clone / "results/smoke").is_dir()


def test_the_full_remote_gives_everything_and_a_file_that_it_lacks_is_named(
    root: Path, shared: tuple[Path, Path], tmp_path: Path
) -> None:
    clone = cloned(shared, tmp_path / "clone")
    remotes = shared[1]
    assert "up to date" in shell(clone, recipe(root, 2), remotes)
    assert (clone / "models/smoke/cc3m-mmcl/file").is_file()

    lacking = Path(shutil.copytree(remotes, tmp_path / "remotes"))
    pairs = hashlib.md5(b"data/smoke/cc3m\n", usedforsecurity=False).hexdigest()
    (lacking / "full/files/md5" / pairs[:2] / pairs[2:]).unlink()
    clone = cloned(shared, tmp_path / "second")
    said = shell(clone, recipe(root, 2), lacking, may_fail=True)
    assert "failed to pull data" in said
    assert pairs in said


def test_an_unpacked_archive_works_without_git(
    root: Path, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With the one setting that setup.sh makes where there is no .git."""
    archive = tmp_path_factory.mktemp("archive")
    commit(project)
    packed = subprocess.check_output(["git", "archive", "HEAD"], cwd=project)
    subprocess.run(["tar", "-x"], cwd=archive, input=packed, check=True)
    setting = ["dvc", "config", "--local", "core.no_scm", "true"]
    assert " ".join(setting[1:]) in (root / "setup.sh").read_text().replace('"', "")
    subprocess.run(setting, cwd=archive, env=environment(project), check=True)
    (archive / "params.yaml").write_text("profile: smoke\n")
    ran = repro(archive, "dvc", "repro", "poison@smoke-cc3m")
    assert ran == ["resolve smoke", "data smoke", "poison smoke cc3m"]
