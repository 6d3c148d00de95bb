"""dvc.yaml: what stages depend on and, with the real DVC and a stub, what an edit reruns."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from repro.profile import load_profile
from tests.support.checkout import commit
from tests.support.imports import closure
from tests.support.pipeline import environment, repro, write_project

CELLS = ["cc3m mmcl", "cc3m mmcl_ssl", "cc6m mmcl", "cc6m mmcl_ssl"]
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
def graph(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The stages of dvc.yaml."""
    text = (request.config.rootpath / "dvc.yaml").read_text(encoding="utf-8")
    return dict(YAML(typ="safe", pure=True).load(text)["stages"])


def test_two_profiles_share_no_output_and_training_keeps_its_own(graph: dict[str, Any]) -> None:
    for stage in (graph[name] for name in ENTRIES):
        assert stage["matrix"]["profile"] == ["${profile}"]
        assert all("/${item.profile}" in str(out) for out in stage["outs"])
    for name in ("pretrain", "clean"):
        assert all(list(out.values()) == [{"persist": True}] for out in graph[name]["outs"])


def test_studies_of_the_graph_have_results_and_a_spec(root: Path, graph: dict[str, Any]) -> None:
    """A stale study would make plain `dvc repro` start hours of training."""
    study = graph["study"]
    archives = {path.name.partition(".")[0] for path in root.glob("results/studies/*.jsonl.gz")}
    assert set(study["matrix"]["name"]) == archives
    assert archives <= {path.stem for path in root.glob("specs/studies/*.yaml")}
    assert "deps" not in study
    assert study["params"] == [{"specs/studies/${item.name}.yaml": None}]
    kept = {"cache": False, "persist": True}
    assert study["outs"] == [{"results/studies/${item.name}.jsonl.gz": kept}]


@pytest.mark.parametrize("stage", ENTRIES)
def test_a_stage_depends_on_all_its_imports(root: Path, graph: dict[str, Any], stage: str) -> None:
    listed = {path for path in graph[stage]["deps"] if path.startswith("repro/")}
    assert not [path for path in listed if not (root / path).exists()]
    reached = {path.relative_to(root) for path in closure(ENTRIES[stage], root / "repro")}
    parts = {Path(*path.parts[:2]).as_posix() for path in reached}
    assert parts - {"repro/__init__.py"} <= listed


def test_every_value_of_a_profile_reruns_a_stage(root: Path, graph: dict[str, Any]) -> None:
    """A field that no stage names could change without any effect; the report depends on specs/."""
    named = [
        field.replace("${item.objective}", "mmcl_ssl")
        for stage in graph.values()
        for file in stage.get("params", [])
        for field in next(iter(file.values())) or []
    ]
    profile = load_profile("mini", root / "specs").model_dump()
    fields = [f"{part}.{name}" for part in ("data", "pretrain", "clean") for name in profile[part]]
    left = {"pretrain.objectives", "data.poison"}
    unnamed = [field for field in fields if not {field, field.partition(".")[0]} & set(named)]
    assert set(unnamed) <= left and "switches" in named


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


@pytest.mark.slow
def test_an_edit_reruns_what_it_changes_and_nothing_else(
    first_call: tuple[Path, list[str]], complete: Path, graph: dict[str, Any]
) -> None:
    project, smoke = complete, complete / "specs" / "smoke.yaml"
    cells = [f"smoke {cell}" for cell in CELLS]
    everything = ["resolve smoke", "data smoke", "poison smoke cc3m", "poison smoke cc6m"]
    everything += [f"{stage} {cell}" for stage in ("pretrain", "clean") for cell in cells]
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
    assert repro(project) == ["resolve smoke", *(f"clean {cell}" for cell in cells), "report smoke"]

    replace(smoke, "mmcl_ssl: {learning_rate: 1.0e-3", "mmcl_ssl: {learning_rate: 2.0e-3")
    changed = [f"pretrain smoke {cell}" for cell in CELLS if cell.endswith("ssl")]
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


@pytest.mark.slow
def test_one_value_set_as_an_experiment_reruns_what_it_touches(complete: Path) -> None:
    """DVC rewrites the file, and the value is all that its content differs in."""
    commit(complete)
    before = load_profile("smoke", complete / "specs")

    value = "specs/smoke.yaml:clean.warmup_steps=2"
    ran = repro(complete, "dvc", "exp", "run", "-S", value)
    assert ran == ["resolve smoke", *(f"clean smoke {cell}" for cell in CELLS), "report smoke"]
    changed = before.clean.model_copy(update={"warmup_steps": 2})
    assert before.clean.warmup_steps != 2
    assert load_profile("smoke", complete / "specs") == before.model_copy(update={"clean": changed})


@pytest.mark.slow
def test_reports_are_rebuilt_alone(
    complete: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a remote of results alone: fresh clone, changed template, and only the report runs."""
    remote, clone = (str(tmp_path_factory.mktemp(name)) for name in ("remote", "clone"))
    outs = ["report/build/smoke", "data/smoke/accounting.json", "data/smoke/attribution.json"]
    outs += [f"poisoned/smoke/{dataset}-samples.json" for dataset in ("cc3m", "cc6m")]
    cells = [cell.replace(" ", "-") for cell in CELLS]
    outs += [f"results/smoke/{stage}/{cell}" for stage in ("pretrain", "clean") for cell in cells]
    for command in (["remote", "add", "-d", "small", remote], ["push", *outs]):
        subprocess.run(["dvc", *command], cwd=complete, env=environment(complete), check=True)
    commit(complete)
    subprocess.run(["git", "clone", "-q", complete, clone], check=True)
    edit_template(Path(clone))
    ran = repro(Path(clone), "dvc", "repro", "--pull", "--allow-missing", "report")
    assert ran == ["report smoke"]
    assert not (Path(clone) / "models").exists() and (Path(clone) / "results" / "smoke").is_dir()


@pytest.mark.slow
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
