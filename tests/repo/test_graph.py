"""dvc.yaml: the stages, what they depend on, and - with the real DVC and a stub for the stages -
what an edit reruns.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from repro.profile import load_profile
from tests.support.pipeline import environment, repro

CELLS = [
    f"{dataset} {objective}" for dataset in ("cc3m", "cc6m") for objective in ("mmcl", "mmcl_ssl")
]


@pytest.fixture(scope="module")
def graph(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The stages of dvc.yaml."""
    content = YAML(typ="safe", pure=True).load(
        (request.config.rootpath / "dvc.yaml").read_text(encoding="utf-8")
    )
    return dict(content["stages"])


def test_stages_are_the_study_in_order_each_for_one_profile(graph: dict[str, Any]) -> None:
    """Axes are strings, since DVC renders other values into names in its own way (1.0e-6 becomes
    1e-06), and outputs lie in folders of the profile, so that two profiles share nothing.
    """
    of_profiles = {name: stage for name, stage in graph.items() if name != "study"}
    assert list(of_profiles) == ["resolve", "data", "poison", "pretrain", "clean", "report"]
    for name, stage in of_profiles.items():
        first = stage["cmd"] if isinstance(stage["cmd"], str) else stage["cmd"][0]
        assert first.startswith(f"python -m repro {name} --profile ${{item.profile}}")
        assert stage["matrix"]["profile"] == ["${profile}"]
        assert all(isinstance(value, str) for axis in stage["matrix"].values() for value in axis)
        assert all("/${item.profile}" in str(out) for out in stage["outs"])
        # Where runs go is no part of the graph.
        content = str({**stage, "desc": "", "deps": ""}).lower()
        assert not re.search("slurm|slots|partition|cuda|nproc", content)
    for name in ("pretrain", "clean"):
        assert all(list(out.values()) == [{"persist": True}] for out in graph[name]["outs"])


def test_the_studies_of_the_graph_are_those_with_results_and_depend_on_their_specification_alone(
    root: Path, graph: dict[str, Any]
) -> None:
    """A study without results would make plain `dvc repro` start hours of training, and so would
    one that depends on code.
    """
    study = graph["study"]
    archives = {path.name.partition(".")[0] for path in root.glob("results/studies/*.jsonl.gz")}
    assert set(study["matrix"]["name"]) == archives
    assert archives <= {path.stem for path in root.glob("specs/studies/*.yaml")}
    assert "deps" not in study
    assert study["params"] == [{"specs/studies/${item.name}.yaml": None}]
    kept = {"cache": False, "persist": True}
    assert study["outs"] == [{"results/studies/${item.name}.jsonl.gz": kept}]


def test_only_the_report_reads_results(graph: dict[str, Any]) -> None:
    readers = [name for name, stage in graph.items() if "results/" in str(stage.get("deps", []))]
    assert readers == ["report"]


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


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.slow
def test_an_edit_reruns_what_it_changes_and_nothing_else(project: Path) -> None:
    smoke = project / "specs" / "smoke.yaml"
    (project / "params.yaml").write_text("profile: smoke\n")
    cells = [f"smoke {cell}" for cell in CELLS]
    everything = [
        "resolve smoke",
        "data smoke",
        "poison smoke cc3m",
        "poison smoke cc6m",
        "report smoke",
    ]
    everything += [f"{stage} {cell}" for stage in ("pretrain", "clean") for cell in cells]
    studies = len(
        YAML(typ="safe").load(project / "dvc.yaml")["stages"]["study"]["matrix"]["name"]
    )  # their results are not copied
    assert sorted(repro(project)) == sorted([*everything, *["study"] * studies])
    status = subprocess.run(
        ["git", "status", "--porcelain", "-uall"],
        cwd=project,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    generated = ("data/", "poisoned/", "models/", "results/", "report/build/", ".dvc/cache/")
    assert not [
        line
        for line in status.splitlines()
        if line[3:].startswith(generated) and "results/studies/" not in line
    ]

    started = time.monotonic()
    assert repro(project) == []
    assert (
        time.monotonic() - started < 15
    )  # seconds; 2 on an idle core, the bound allows for a busy one

    (project / "params.yaml").write_text("profile: mini\n")
    assert len(repro(project)) == len(everything)
    (project / "params.yaml").write_text("profile: smoke\n")
    assert repro(project) == []  # both profiles keep their entries in dvc.lock

    replace(smoke, "learning_rates: [3.0e-4, 1.0e-3]", "learning_rates: [3.0e-4, 2.0e-3]")
    assert repro(project) == [
        "resolve smoke",
        *(f"clean {cell}" for cell in cells),
        "report smoke",
    ]

    replace(smoke, "mmcl_ssl: {learning_rate: 1.0e-3", "mmcl_ssl: {learning_rate: 2.0e-3")
    changed = [f"pretrain smoke {cell}" for cell in CELLS if cell.endswith("ssl")]
    # The stub's model is the same as before, so cleaning stays.
    assert repro(project) == ["resolve smoke", *changed, "report smoke"]

    # A value that is inherited, and one of another profile.
    replace(project / "specs/paper.yaml", "trigger_seed: 0 ", "trigger_seed: 1 ")
    replace(project / "specs/midi.yaml", "num_concepts: 1000", "num_concepts: 900")
    assert sorted(repro(project)) == sorted(set(everything) - {"data smoke"})

    template = next(
        path
        for path in sorted((project / "repro" / "report" / "pages" / "templates").rglob("*"))
        if path.is_file()
    )
    template.write_text(template.read_text() + "\n")
    assert repro(project) == ["report smoke"]

    smoke.write_text("# a comment\n" + smoke.read_text())
    assert repro(project) == ["resolve smoke", "report smoke"]  # which quotes comments


@pytest.mark.slow
def test_one_value_set_as_an_experiment_reruns_what_it_touches(project: Path) -> None:
    """DVC writes the file anew, and the value is all that its content differs in."""
    (project / "params.yaml").write_text("profile: smoke\n")
    repro(project)
    for command in (
        ["config", "user.name", "x"],
        ["config", "user.email", "x@example.org"],
        ["add", "-A"],
        ["commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=project, check=True)
    before = load_profile("smoke", project / "specs")

    value = "specs/smoke.yaml:clean.warmup_steps=2"
    ran = repro(project, "dvc", "exp", "run", "-S", value)
    assert ran == ["resolve smoke", *(f"clean smoke {cell}" for cell in CELLS), "report smoke"]
    changed = before.clean.model_copy(update={"warmup_steps": 2})
    assert before.clean.warmup_steps != 2
    assert load_profile("smoke", project / "specs") == before.model_copy(update={"clean": changed})


@pytest.mark.slow
def test_a_reader_without_data_or_models_rebuilds_the_report(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a remote that holds only results: fresh clone, changed template, and nothing but the
    report runs.
    """
    (project / "params.yaml").write_text("profile: smoke\n")
    repro(project)
    remote, clone = (str(tmp_path_factory.mktemp(name)) for name in ("remote", "clone"))
    outs = [
        "report/build/smoke",
        "data/smoke/accounting.json",
        "data/smoke/attribution.json",
    ]
    outs += [f"poisoned/smoke/{dataset}-samples.json" for dataset in ("cc3m", "cc6m")]
    outs += [
        f"results/smoke/{stage}/{cell.replace(' ', '-')}"
        for stage in ("pretrain", "clean")
        for cell in CELLS
    ]
    for command in (
        ["dvc", "remote", "add", "-d", "small", remote],
        ["dvc", "push", *outs],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "x"],
        ["git", "clone", "-q", ".", clone],
    ):
        subprocess.run(
            command,
            cwd=project,
            env=environment(project),
            check=True,
            capture_output=True,
            timeout=120,
        )
    template = next(
        path
        for path in sorted((Path(clone) / "repro" / "report" / "pages" / "templates").rglob("*"))
        if path.is_file()
    )
    template.write_text(template.read_text() + "\n")
    assert repro(Path(clone), "dvc", "repro", "--pull", "--allow-missing", "report") == [
        "report smoke"
    ]
    assert not (Path(clone) / "models").exists() and (Path(clone) / "results" / "smoke").is_dir()


@pytest.mark.slow
def test_an_unpacked_archive_works_without_git(
    root: Path, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With the one setting that setup.sh makes where there is no .git."""
    archive = tmp_path_factory.mktemp("archive")
    for command in (
        ["git", "add", "-A"],
        ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "x"],
    ):
        subprocess.run(command, cwd=project, check=True)
    packed = subprocess.run(
        ["git", "archive", "HEAD"], cwd=project, check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x"], cwd=archive, input=packed, check=True)
    setting = ["dvc", "config", "--local", "core.no_scm", "true"]
    assert " ".join(setting[1:]) in (root / "setup.sh").read_text().replace('"', "")
    subprocess.run(setting, cwd=archive, env=environment(project), check=True)
    (archive / "params.yaml").write_text("profile: smoke\n")
    assert repro(archive, "dvc", "repro", "poison@smoke-cc3m") == [
        "resolve smoke",
        "data smoke",
        "poison smoke cc3m",
    ]


@pytest.mark.slow
def test_a_second_pipeline_in_the_folder_is_refused(project: Path) -> None:
    (project / "params.yaml").write_text("profile: smoke\n")
    stub, hold = project / "bin" / "python", project / "hold"
    stub.rename(project / "bin" / "stage")
    stub.write_text(
        '#!/bin/sh\ntouch started\nwhile [ -e hold ]; do sleep 0.1; done\nexec "${0%python}stage" "$@"\n'
    )
    stub.chmod(0o755)
    hold.touch()
    target = ["dvc", "repro", "resolve@smoke"]
    with subprocess.Popen(
        target,
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as first:
        while not (project / "started").exists():
            assert first.poll() is None
            time.sleep(0.1)
        second = subprocess.run(
            target,
            cwd=project,
            env=environment(project),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert second.returncode != 0 and re.search("busy|lock", second.stderr)
        hold.unlink()
        assert first.communicate(timeout=120) and first.returncode == 0
    assert (project / "ran.log").read_text().splitlines() == ["resolve smoke  "]
