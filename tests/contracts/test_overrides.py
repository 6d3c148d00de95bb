"""Values that stand for those of the profile: from params.yaml and from --set."""

import re
from pathlib import Path
from typing import Any

import pytest

from repro.cli import main
from repro.profile import (
    departures,
    flat,
    graph_profile,
    load_profile,
    overrides_of,
    parse_override,
    whole_profile,
)
from repro.spec import SpecError
from repro.study.archive import read_archive
from repro.study.run import run_study
from repro.study.spec import archive_of, lacking, load_study, study_profiles, study_runs

WRONG: dict[type, Any] = {int: "many", float: "many", bool: "many", list: "many", str: 3.5}
"""By type of a right value, one of another type."""


def every_wrong_override() -> list[tuple[str, Any]]:
    """Each value of a profile once with a wrong type, and a field beside each that nothing has."""
    profile = load_profile("smoke", Path(__file__).parents[2] / "specs")
    leaves = flat(profile.model_dump(mode="json"))
    wrong = {field: WRONG[type(value)] for field, value in leaves.items() if type(value) in WRONG}
    wrong |= {f"{field.rpartition('.')[0]}.wrong".lstrip("."): 1 for field in leaves}
    del wrong["name"]
    return list(wrong.items())


@pytest.mark.parametrize(("field", "value"), every_wrong_override(), ids=str)
def test_a_wrong_override_is_named_with_its_value_and_what_is_allowed(
    root: Path, field: str, value: Any
) -> None:
    with pytest.raises(SpecError) as caught:
        load_profile("smoke", root / "specs", {field: value}, "--set")
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("--set: ")
    line = next(line for line in lines if field.split(".")[-1] in line)
    # A name that is no key is the wrong value itself.
    assert str(value) in line or "(got 'wrong')" in line
    assert any(word in line for word in ("allowed", "should be", "expected")), line


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("clean.warmup_steps=4", "clean.warmup_steps: 4 (allowed: 0 to 3, the run's steps)"),
        ("data.cleaning_sizes.100k=97", "100k: 97 (allowed: 1 to 96, the pairs of 200k)"),
    ],
)
def test_values_of_ones_own_fit_each_other_as_those_of_a_profile_do(
    here: Path, capsys: pytest.CaptureFixture[str], override: str, said: str
) -> None:
    """For one call and in params.yaml: all of the profile is made, unlike a study's."""
    Path("params.yaml").write_text("profile: smoke\n")
    assert main(["reproduce", "smoke", "--set", override]) == 2
    problem = capsys.readouterr().err
    assert problem.startswith("repro: --set: 1 problem(s)\n")
    assert said in problem

    field, _, value = override.partition("=")
    Path("params.yaml").write_text(f"profile: smoke\noverrides: {{{field}: {value}}}\n")
    with pytest.raises(SpecError, match=rf"params\.yaml: overrides: 1 .*\n.*{re.escape(said)}"):
        graph_profile("smoke")


def test_overrides_are_those_of_the_profile_beside_them(here: Path) -> None:
    Path("params.yaml").write_text(
        "profile: smoke\noverrides: {clean: {warmup_steps: 2}, pretrain.seeds: [7]}\n"
    )
    assert overrides_of("smoke") == {"clean.warmup_steps": 2, "pretrain.seeds": [7]}
    profile = graph_profile("smoke")
    assert profile.clean.warmup_steps == 2
    assert profile.pretrain.seeds == [7]
    assert graph_profile("mini") == load_profile("mini")
    assert overrides_of("mini") == {}
    assert [line.split(":")[0] for line in departures(profile)] == [
        "clean.warmup_steps",
        "pretrain.seeds",
    ]
    assert departures(load_profile("smoke")) == []


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ("profile: smoke\noverrides: [1]", r"params\.yaml: overrides: \[1\] \(allowed: fields of"),
        ("profile: smoke\noverride: {}", r"params\.yaml: \['override'\] \(allowed: profile, over"),
        ("profile: smoke\noverrides: {clean: {warmup: 1}}", r"clean\.warmup: .*allowed: .*warmup_"),
    ],
)
def test_a_wrong_params_file_is_named(here: Path, params: str, said: str) -> None:
    Path("params.yaml").write_text(params)
    with pytest.raises(SpecError, match=said):
        graph_profile("smoke")


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("clean.warmup_steps=20", ("clean.warmup_steps", 20)),
        ("pretrain.seeds=[1, 2]", ("pretrain.seeds", [1, 2])),
        ("clean.optimizer.weight_decay=1e-2", ("clean.optimizer.weight_decay", 0.01)),
        ("data.stand_in=a=b", ("data.stand_in", "a=b")),
        ("a=null", ("a", None)),
    ],
)
def test_a_value_is_read_as_in_a_specification(text: str, pair: tuple[str, Any]) -> None:
    assert parse_override(text) == pair


def test_the_example_in_the_help_changes_the_learning_rates(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["reproduce", "--help"])
    example = re.search(r"'(clean.+?)'", capsys.readouterr().out)
    assert example
    path, rates = parse_override(example[1])
    cells = load_profile("mini", root / "specs", {path: rates}, "--set").clean.cells
    assert {tuple(cell.learning_rates) for cell in cells} == {(0.001, 0.002)}


@pytest.mark.parametrize("text", ["clean.warmup_steps", "=3", "a=[1", "a=&b 1", "a=!!python/x 1"])
def test_what_is_no_field_and_value_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"--set: .*allowed: "):
        parse_override(text)


def test_a_retired_defence_is_read_and_not_trained(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a profile, before anything runs; the study whose archive has such runs still loads."""
    monkeypatch.chdir(root)
    retired = {"clean.defence": {"name": "deep_clustering", "weight": 5.0}}
    with pytest.raises(SpecError, match=r"clean\.defence\.name: 'deep_clustering' \(allowed: cl"):
        whole_profile("smoke", retired, "--set")

    study = load_study("remedies")
    runs = study_runs(study, study_profiles(study), "clean")
    named = [run for run in runs if run.defence and run.defence.name == "deep_clustering"]
    assert len(named) == 18
    archived = [record for record, _ in read_archive(archive_of("remedies"))]
    assert lacking(study, archived) == []
    without = [record for record in archived if record.spec.variant != "deep_clustering"]
    monkeypatch.setattr("repro.study.run._archived", lambda name: without)
    with pytest.raises(SpecError, match=r"remedies\.yaml: 1 problem.s.\n.*deep_clustering"):
        run_study("remedies")
