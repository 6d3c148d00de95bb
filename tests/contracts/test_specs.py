"""Specifications: every shipped one loads; a bad one is refused whole, with file, field, value and
what is allowed.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.profile import clean_runs, load_classnames, load_profile, pretrain_runs, read_yaml
from repro.spec import SpecError

Edit = Callable[..., Path]


@pytest.fixture
def specs(root: Path, tmp_path: Path) -> Path:
    """A copy of specs/ to spoil."""
    return Path(shutil.copytree(root / "specs", tmp_path / "specs"))


@pytest.fixture
def edit(specs: Path) -> Edit:
    """`edit("data", {"image_size": 0})` rewrites smoke's data.yaml with dotted fields set, or taken
    out where the value is `...`.
    """

    def change(file: str, fields: dict[str, Any]) -> Path:
        path = specs / "smoke" / f"{file}.yaml"
        content = read_yaml(path)
        for dotted, value in fields.items():
            *parents, last = dotted.split(".")
            node = content
            for key in parents:
                node = node[int(key) if isinstance(node, list) else key]
            if value is ...:
                del node[last]
            else:
                node[last] = value
        path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
        return path

    return change


def message(specs: Path, profile: str = "smoke") -> str:
    with pytest.raises(SpecError) as caught:
        load_profile(profile, specs)
    return str(caught.value)


@pytest.mark.parametrize("profile", ["smoke", "mini", "paper"])
@pytest.mark.parametrize("protocol", ["paper", "authors"])
def test_every_profile_loads_under_both_protocols(specs: Path, profile: str, protocol: str) -> None:
    (specs / profile / "protocol.yaml").write_text(f"protocol: {protocol}\noverrides: {{}}\n")
    loaded = load_profile(profile, specs)
    assert load_classnames(loaded, specs).count(loaded.data.poison.target_class) == 1
    runs = [(run.stage, run.cell, run.run_id) for run in pretrain_runs(loaded) + clean_runs(loaded)]
    assert len(set(runs)) == len(runs)
    assert {cell for _, cell, _ in runs} == {
        "cc3m-mmcl",
        "cc3m-mmcl_ssl",
        "cc6m-mmcl",
        "cc6m-mmcl_ssl",
    }


def test_every_number_of_a_shipped_spec_tells_where_it_comes_from(root: Path) -> None:
    """A line with a number carries a provenance note, or its block does, at the head or on a line
    of its own.
    """
    note = re.compile(r"#.*(paper|code|assumed|study)", re.DOTALL)
    silent = []
    files = [
        file
        for folder in ("smoke", "mini", "paper", "protocols")
        for file in sorted((root / "specs" / folder).glob("*.yaml"))
    ]
    for file in files:
        covered: list[int] = []  # indents of the open blocks whose head carries a note
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            body = re.sub(
                r'"[^"]*"|[12]00k', "", line.split("#")[0]
            )  # text and names of sizes are no numbers
            indent = len(body) - len(body.lstrip())
            if not body.strip():
                indent = len(line) - len(line.lstrip())
                if indent and note.search(line):
                    covered.append(
                        indent - 1
                    )  # a note on a line of its own is for the rest of its block
                continue
            covered = [level for level in covered if level < indent]
            has_note = bool(note.search(line))
            if re.search(r"[:\[ ]-?\d", body) and not has_note and not covered:
                silent.append(f"{file.relative_to(root)}:{number}: {line.strip()}")
            if has_note:
                covered.append(indent)
    assert silent == []


@pytest.mark.faults(12, 17)
@pytest.mark.parametrize(
    ("file", "fields", "expected"),
    [
        ("data", {"image_sizes": 32}, "image_sizes: Extra inputs are not permitted (got 32)"),
        ("data", {"image_size": ...}, "image_size: Field required"),
        ("data", {"image_size": "32"}, "image_size: Input should be a valid integer (got '32')"),
        ("data", {"image_size": 32.0}, "image_size: Input should be a valid integer (got 32.0)"),
        ("data", {"image_size": -32}, "image_size: Input should be greater than 0 (got -32)"),
        (
            "data",
            {"poison.trigger.patch_size": 33},
            "poison.trigger.patch_size: 33 is larger than the image (allowed: 1 to image_size = 32)",
        ),
        (
            "data",
            {"poison.num_poisoned.cc3m": 156},
            "poison.num_poisoned.cc3m: 156 is more than the 155 pairs (allowed: 1 to 155)",
        ),
        (
            "data",
            {"poison.num_poisoned.cc6m": ...},
            "poison.num_poisoned.cc6m: missing (allowed: a positive count)",
        ),
        (
            "data",
            {"poison.trigger.name": "sticker"},
            "poison.trigger.name: Input should be 'badnet'",
        ),
        (
            "data",
            {"poison.target_class": ""},
            "poison.target_class: String should have at least 1 character (got '')",
        ),
        (
            "data",
            {"poison.target_class": "bananas"},
            "poison.target_class: 'bananas' names 0 classes (allowed: one of the 48 names in",
        ),
        (
            "data",
            {"cleaning_sizes.200k": 156},
            "cleaning_sizes.200k: 156 is more than the smallest dataset (allowed: 1 to 155)",
        ),
        (
            "data",
            {"source.kind": "folder"},
            "source: Input tag 'folder' found using 'kind' does not match any of the expected tags",
        ),
        ("pretrain", {"seeds": []}, "seeds: List should have at least 1 item"),
        ("pretrain", {"seeds": [True]}, "seeds.0: Input should be a valid integer (got True)"),
        (
            "pretrain",
            {"precision": "fp8"},
            "precision: Input should be 'fp32', 'tf32' or 'bf16' (got 'fp8')",
        ),
        (
            "pretrain",
            {"model.text.heads": 3},
            "model.text.heads: 3 (allowed: a divisor of text.width = 32)",
        ),
        (
            "pretrain",
            {"model.vision.image_size": 64},
            "model.vision.image_size: 64 (allowed: data.yaml's image_size = 32)",
        ),
        (
            "pretrain",
            {"objectives.mmcl.norm_batch_size": 5},
            "norm_batch_size: 5 (allowed: a divisor of global_batch_size = 32)",
        ),
        (
            "clean",
            {"cells.0.learning_rates": []},
            "cells.0.learning_rates: List should have at least 1 item",
        ),
        (
            "clean",
            {"cells.0.learning_rates": [-1e-3]},
            "cells.0.learning_rates.0: Input should be greater than 0 (got -0.001)",
        ),
        (
            "clean",
            {"cells.0.learning_rates": [1e-3, 1e-3]},
            "run 100k-mmcl-lr0.001-seed0 of cc3m-mmcl is listed 2 times",
        ),
        (
            "clean",
            {"cells.0.losses": ["clip"]},
            "cells.0.losses.0: Input should be 'mmcl', 'ssl' or 'mmcl_ssl' (got 'clip')",
        ),
        (
            "clean",
            {"cells.0.global_batch_size": 49},
            "cells.0.global_batch_size: more than the 100k subset holds",
        ),
        (
            "clean",
            {"evaluate_every_steps": 4},
            "give exactly one of evaluations_per_epoch and evaluate_every_steps",
        ),
        ("evaluate", {"asr_cap": 5}, "asr_cap: Input should be less than or equal to 1 (got 5)"),
        (
            "evaluate",
            {"templates": ["a photo"]},
            "templates: 'a photo' (allowed: strings with exactly one {})",
        ),
        (
            "protocol",
            {"overrides": {"gather": "mean"}},
            "gather: Input should be 'exact' or 'authors' (got 'mean')",
        ),
        ("protocol", {"overrides": {"gathering": "exact"}}, "gathering: no such field to override"),
        (
            "protocol",
            {"protocol": "../mini/data"},
            "protocol: Input should be 'paper' or 'authors' (got '../mini/data')",
        ),
    ],
    ids=lambda value: (
        value
        if isinstance(value, str) and len(value) < 9
        else next(iter(value))
        if isinstance(value, dict)
        else ""
    ),
)
def test_a_bad_field_is_refused_with_its_value_and_what_is_allowed(
    specs: Path, edit: Edit, file: str, fields: dict[str, Any], expected: str
) -> None:
    edit(file, fields)
    text = message(specs)
    assert expected in text
    assert (
        f"{file}.yaml" in text or "protocols/" in text
    )  # a wrong switch belongs to the protocol's table


@pytest.mark.faults(17)
def test_all_problems_of_a_file_come_at_once(specs: Path, edit: Edit) -> None:
    path = edit(
        "evaluate",
        {"asr_cap": 2.0, "confidence": 0.5, "trigger_seed": ..., "classnames": "coco", "margin": 1},
    )
    lines = message(specs).splitlines()
    assert lines[0] == f"{path}: 5 problem(s)"
    assert {line.split(":")[0].strip() for line in lines[1:]} == {
        "asr_cap",
        "confidence",
        "trigger_seed",
        "classnames",
        "margin",
    }


@pytest.mark.faults(12, 17)
def test_all_impossible_values_of_a_file_come_at_once(specs: Path, edit: Edit) -> None:
    edit(
        "data",
        {
            "poison.trigger.patch_size": 40,
            "poison.num_poisoned.cc3m": 999,
            "cleaning_sizes.100k": 5000,
        },
    )
    assert len(message(specs).splitlines()) == 1 + 3


@pytest.mark.faults(17)
@pytest.mark.parametrize(
    "number", [".nan", ".inf", "-.inf", "1e-3x", "0.0", "'0.001'", "null", "[1.0e-3]"]
)
def test_a_learning_rate_is_a_finite_positive_number(specs: Path, number: str) -> None:
    path = specs / "smoke" / "clean.yaml"
    path.write_text(
        path.read_text().replace("learning_rates: [3.0e-4, 1.0e-3]", f"learning_rates: [{number}]")
    )
    assert f"{path}: 2 problem(s)\n  cells.0.learning_rates.0: " in message(specs)


@pytest.mark.faults(17, 33)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a: !!python/object/apply:os.system ['touch canary']",
            "could not determine a constructor for the tag",
        ),
        ("a: !include /etc/passwd", "could not determine a constructor for the tag"),
        ("a: &x [1]\nb: [*x, *x]", "anchors and aliases are not allowed"),
        ("a: &x {b: 1}\n<<: *x", "anchors and aliases are not allowed"),
        ("a: 1\na: 2", "found duplicate key"),
        ("a: [1", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a:\t1\n\tb: 2", "not valid YAML"),
    ],
)
def test_yaml_that_does_more_than_hold_values_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=re.escape(str(path))) as caught:
        read_yaml(path)
    assert expected in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.faults(17)
def test_a_file_that_is_no_text_is_refused(specs: Path) -> None:
    (specs / "smoke" / "data.yaml").write_bytes(b"a: \xff\xfe")
    assert message(specs).endswith("data.yaml: not UTF-8 (invalid start byte at byte 3)")


@pytest.mark.faults(17)
@pytest.mark.parametrize("content", ["", "[]", "3", "null", "text"])
def test_a_file_that_is_no_table_is_refused(specs: Path, content: str) -> None:
    for file in ("data", "protocol"):
        (specs / "smoke" / f"{file}.yaml").write_text(content)
        assert message(specs).startswith(f"{specs}/smoke/")


@pytest.mark.faults(17)
def test_a_missing_file_is_named(specs: Path) -> None:
    (specs / "smoke" / "clean.yaml").unlink()
    assert message(specs) == f"{specs}/smoke/clean.yaml: no such file"


@pytest.mark.faults(17)
@pytest.mark.parametrize(
    "profile", ["", ".", "tiny", "../specs/mini", "mini/../smoke", "/etc", "protocols", "smoke\n"]
)
def test_a_profile_is_a_folder_of_specs_and_nothing_else(specs: Path, profile: str) -> None:
    known = "authors, midi, mini, paper, paper_fast, smoke"
    assert message(specs, profile) == f"profile: {profile!r} (allowed: {known})"


def test_an_override_of_a_field_that_is_not_there_is_refused(root: Path) -> None:
    with pytest.raises(
        SpecError, match=r"data\.poison\.rate: no such field|poison\.rate: no such field"
    ):
        load_profile("smoke", root / "specs", {"data.poison.rate": 1})
    with pytest.raises(
        SpecError, match="allowed: switches, data, pretrain, clean, evaluate followed by a field"
    ):
        load_profile("smoke", root / "specs", {"seed": 1})


def test_an_override_is_checked_like_a_file(root: Path) -> None:
    with pytest.raises(
        SpecError, match=re.escape("image_size: Input should be greater than 0 (got -1)")
    ):
        load_profile("smoke", root / "specs", {"data.image_size": -1})
    assert load_profile("smoke", root / "specs", {"pretrain.seeds": [3, 4]}).pretrain.seeds == [
        3,
        4,
    ]


@pytest.mark.faults(17)
@given(text=st.text(max_size=200))
def test_any_text_is_read_or_refused_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(SpecError):
        read_yaml(path)
