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

from repro.cli import reproduce
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


def test_the_stages_are_the_study_in_order(graph: dict[str, Any]) -> None:
    assert list(graph) == ["data", "poison", "pretrain", "clean", "study", "report"]
    assert all(
        stage["cmd"].startswith(f"python -m repro {name} --profile ${{item.profile}}")
        for name, stage in of_profiles(graph)
    )


def of_profiles(graph: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Names and stages of the graph proper; studies lie beside it and name their profile
    themselves.
    """
    return [(name, stage) for name, stage in graph.items() if name != "study"]


def test_the_studies_of_the_graph_are_those_with_results_and_depend_on_their_specification_alone(
    graph: dict[str, Any],
) -> None:
    """A study without results would make plain `dvc repro` start hours of training, and so would
    one that depends on code.
    """
    root = Path(__file__).parents[2]
    archives = {
        path.name.removesuffix(".jsonl.gz") for path in root.glob("results/studies/*.jsonl.gz")
    }
    assert (
        set(graph["study"]["matrix"]["name"])
        == archives
        <= {path.stem for path in root.glob("specs/studies/*.yaml")}
    )
    assert "deps" not in graph["study"] and graph["study"]["params"] == [
        {"specs/studies/${item.name}.yaml": None}
    ]
    assert graph["study"]["outs"] == [
        {"results/studies/${item.name}.jsonl.gz": {"cache": False, "persist": True}}
    ]


def test_axes_are_strings_and_the_profile_is_one_of_them(graph: dict[str, Any]) -> None:
    """Other values are rendered into names (1.0e-6 becomes 1e-06), and stages of two profiles must
    not share a name.
    """
    for _, stage in of_profiles(graph):
        assert stage["matrix"]["profile"] == ["${profile}"]
        assert all(isinstance(value, str) for axis in stage["matrix"].values() for value in axis)


def test_every_output_lies_in_a_folder_of_its_profile(graph: dict[str, Any]) -> None:
    for _, stage in of_profiles(graph):
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]
        assert all("/${item.profile}" in out for out in outs)


def test_training_stages_keep_their_outputs(graph: dict[str, Any]) -> None:
    for name in ("pretrain", "clean"):
        assert all(
            isinstance(out, dict) and list(out.values()) == [{"persist": True}]
            for out in graph[name]["outs"]
        )


def test_only_the_report_reads_results(graph: dict[str, Any]) -> None:
    readers = {
        name
        for name, stage in graph.items()
        if any(dep.startswith("results/") for dep in stage.get("deps", []))
    }
    assert readers == {"report"}


def test_where_runs_go_is_no_part_of_the_graph(graph: dict[str, Any]) -> None:
    told = [
        {key: value for key, value in stage.items() if key not in ("desc", "deps")}
        for stage in graph.values()
    ]
    text = str(told).lower()
    assert not any(word in text for word in ("slurm", "slots", "partition", "cuda", "nproc"))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.slow
def test_an_edit_reruns_what_it_changes_and_nothing_else(project: Path) -> None:
    smoke = project / "specs" / "smoke"
    (project / "params.yaml").write_text("profile: smoke\n")
    cells = [f"smoke {cell}" for cell in CELLS]
    everything = ["data smoke", "poison smoke cc3m", "poison smoke cc6m", "report smoke"]
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

    replace(
        smoke / "clean.yaml", "learning_rates: [3.0e-4, 1.0e-3]", "learning_rates: [3.0e-4, 2.0e-3]"
    )
    assert repro(project) == [*(f"clean {cell}" for cell in cells), "report smoke"]

    replace(
        smoke / "pretrain.yaml",
        "mmcl_ssl: {learning_rate: 1.0e-3",
        "mmcl_ssl: {learning_rate: 2.0e-3",
    )
    changed = [
        f"{stage} smoke {cell}" for stage in ("pretrain",) for cell in CELLS if cell.endswith("ssl")
    ]
    assert repro(project) == [
        *changed,
        "report smoke",
    ]  # the stub's model is the same as before, so cleaning stays

    template = next(
        path
        for path in sorted((project / "repro" / "report" / "pages" / "templates").rglob("*"))
        if path.is_file()
    )
    template.write_text(template.read_text() + "\n")
    assert repro(project) == ["report smoke"]

    (smoke / "clean.yaml").write_text("# a comment\n" + (smoke / "clean.yaml").read_text())
    assert repro(project) == ["report smoke"]  # it quotes the specs' comments


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

    value = "specs/smoke/clean.yaml:warmup_steps=2"
    ran = repro(project, "dvc", "exp", "run", "-S", value)
    assert ran == [*(f"clean smoke {cell}" for cell in CELLS), "report smoke"]
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
    outs = ["report/build/smoke", "data/smoke/accounting.json", "data/smoke/attribution.json"]
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
    project: Path, tmp_path_factory: pytest.TempPathFactory
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
    assert " ".join(setting[1:]) in Path(reproduce.__file__).parents[2].joinpath(
        "setup.sh"
    ).read_text().replace('"', "")
    subprocess.run(setting, cwd=archive, env=environment(project), check=True)
    (archive / "params.yaml").write_text("profile: smoke\n")
    assert repro(archive, "dvc", "repro", "poison@smoke-cc3m") == [
        "data smoke",
        "poison smoke cc3m",
    ]


@pytest.mark.slow
@pytest.mark.faults(6)
def test_a_second_pipeline_in_the_folder_is_refused(project: Path) -> None:
    (project / "params.yaml").write_text("profile: smoke\n")
    stub, hold = project / "bin" / "python", project / "hold"
    stub.rename(project / "bin" / "stage")
    stub.write_text(
        '#!/bin/sh\ntouch started\nwhile [ -e hold ]; do sleep 0.1; done\nexec "${0%python}stage" "$@"\n'
    )
    stub.chmod(0o755)
    hold.touch()
    target = ["dvc", "repro", "data@smoke"]
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
    assert (project / "ran.log").read_text().splitlines() == ["data smoke  "]
