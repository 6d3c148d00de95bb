"""Specifications: shipped ones load; a bad one is refused with file, field, value, what is allowed."""

import re
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.profile import (
    chosen_profile,
    clean_runs,
    load_classnames,
    load_profile,
    pretrain_runs,
    profile_names,
    read_yaml,
    resolved_profile,
)
from repro.spec import SpecError
from repro.study.spec import load_study, study_names, study_profiles, varied

PROFILES = ["authors", "midi", "mini", "night", "paper", "paper_lean", "rehearsal", "smoke"]


@pytest.fixture
def specs(root: Path, tmp_path: Path) -> Path:
    """A copy of specs/ to spoil."""
    return Path(shutil.copytree(root / "specs", tmp_path / "specs"))


def replaced(path: Path, old: str, new: str) -> Path:
    """The file with `old` replaced once."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def message(specs: Path, profile: str = "smoke", overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        load_profile(profile, specs, overrides)
    return str(caught.value).replace(f"{specs}/", "specs/")


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_loads_and_names_each_run_once(root: Path, name: str) -> None:
    assert profile_names(root / "specs") == PROFILES
    profile = load_profile(name, root / "specs")
    assert load_classnames(profile).count(profile.data.poison.target_class) == 1
    runs = [(run.stage, run.model_name, run.run_id) for run in pretrain_runs(profile)]
    runs += [(run.stage, run.model_name, run.run_id) for run in clean_runs(profile)]
    assert len(set(runs)) == len(runs)
    names = {f"{data}-{of}" for data in ("cc3m", "cc6m") for of in ("mmcl", "mmcl_ssl")}
    assert {name for _, name, _ in runs} == names


def test_every_study_loads_with_its_defaults() -> None:
    for name in study_names():
        study = load_study(name)
        for variant in study.variants.values():
            assert varied(study, variant).pretrain.seeds == variant.seeds
    rates = [1.25e-4, 2.5e-4, 5.0e-4, 1.0e-3, 2.0e-3, 4.0e-3, 8.0e-3]
    study = load_study("confirmation")
    profile = varied(study, study.variants["norm_groups_64"])
    assert profile.pretrain.objectives["mmcl"].norm_batch_size == 64
    assert [cell.learning_rates for cell in profile.clean.cells] == [rates] * 4
    assert not study.variants["twin_mmcl"].poisoned
    assert study.variants["confirmed"].poisoned


def test_a_profile_takes_from_the_one_that_it_extends_what_it_leaves_out(specs: Path) -> None:
    (specs / "own.yaml").write_text(
        "extends: midi\nclean: {cells: {'*': {global_batch_size: 64}, 1: {learning_rates: [0.5]}}}\n"
        "data: {num_pairs: {cc3m: 50000}}\nevaluate: {templates: ['{}']}\n"
    )
    own = load_profile("own", specs)
    midi = load_profile("midi", specs)
    assert own.data.num_pairs == {"cc3m": 50000, "cc6m": 174539}
    assert own.evaluate.templates == ["{}"]
    assert [cell.global_batch_size for cell in own.clean.cells] == [64] * 4
    assert own.clean.cells[1].learning_rates == [0.5]
    assert own.clean.cells[0] == (midi.clean.cells[0].model_copy(update={"global_batch_size": 64}))
    assert own.pretrain == midi.pretrain
    assert own.switches == midi.switches
    assert own.protocol == "paper"
    assert load_profile("mini", specs).data.source.kind == "icons"  # a mapping of another kind


FIELDS: dict[str, tuple[Any, str]] = {
    "data.image_sizes": (32, "data.image_sizes: Extra inputs are not permitted (got 32)"),
    "data.poison.trigger.name": ("badnett", "(got 'badnett'); nearest: badnet"),
    "data.poison.trigger.patch_size": (33, "trigger.patch_size: 33 (allowed: 1 to image_size = 32"),
    "data.poison.num_poisoned.cc3m": (156, "num_poisoned.cc3m: 156 (allowed: 1 to 155, its pairs"),
    "data.poison.target_class": ("bananas", "target_class: 'bananas' (allowed: a name that occurs"),
    "data.cleaning_sizes.200k": (
        146,
        "200k: 146 (allowed: 1 to 145, the pairs of cc3m that are no",
    ),
    "data.poison.num_poisoned.cc6m": (300, "200k: 96 (allowed: 1 to 0, the pairs of cc6m that are"),
    "data.source.kind": ("folder", "data.source: Input tag 'folder' found using 'kind'"),
    "data.source.num_concepts": (9999, "num_concepts: 9999 (allowed: 1 to 1000, the names in"),
    "evaluate.classnames": ("imagenet", "classnames: 'imagenet' (allowed: icons, the task of this"),
    "data.num_validation": (50, "num_validation: 50 (allowed: 0 to 49, the pairs of cc3m that are"),
    "data.source": (
        {"num_concepts": 1},
        "num_concepts: Input should be greater than or equal to 2",
    ),
    "pretrain.objectives.mmcl.warmup_steps": (9, "warmup_steps: 9 (allowed: 0 to 8, the run's st"),
    "pretrain.objectives.mmcl.learning_rate": (
        999.0,
        "should be less than or equal to 10 (got 999",
    ),
    "pretrain.objectives.mmcl_ssl.learning_rate": (
        1e-300,
        "should be greater than or equal to 0.000000001 (got 1e-300",
    ),
    "pretrain.model.vision.width": (10**6, "should be less than or equal to 16384 (got 1000000)"),
    "clean.stop_early": ({"epochs": 2, "asr": 0.5}, "epochs: 2 (allowed: 1 to clean.epochs = 1)"),
    "clean.cells.²": ({"losses": ["ssl"]}, "clean.cells.²: no such entry (allowed: 0, 1, *)"),
    "pretrain.seeds": ([True, -1], "seeds.0: Input should be a valid integer (got True)"),
    "pretrain.seeds.1": (3, "pretrain.seeds.1: no such entry (allowed: 0, *)"),
    "pretrain.precision": ("fp8", "precision: Input should be 'fp32', 'tf32' or 'bf16'"),
    "pretrain.optimizer.betas": ([1.0, 1.0], "betas.0: Input should be less than 1 (got 1.0)"),
    "pretrain.model.text.heads": (3, "text.heads: 3 (allowed: a divisor of text.width = 32)"),
    "pretrain.model.vision": (
        {"patch_size": 5, "layers": 2, "head_width": 3},
        "image_size: 32 (allowed: a multiple of 5)",
    ),
    "pretrain.model.vision.patches": (8, "vision.resnet.patches: Extra inputs are not permitted"),
    "pretrain.model.vision.patch_size": (8, "vision.vit.layers: Input should be a valid integer"),
    "pretrain.model.vision.image_size": (64, "image_size: 64 (allowed: data.image_size = 32)"),
    "pretrain.objectives.mmcl.norm_batch_size": (5, "size: 5 (allowed: a divisor of glo"),
    "pretrain.objectives.*.global_batch_size": (256, "mmcl.global_batch_size: 256 (allowed: 2 to"),
    "pretrain.model_age.cc3m.mmcl": (999, "model_age.cc3m.mmcl: 999 (allowed: last, best_valid"),
    "clean.cells.0.learning_rates": ([1e-3] * 2, "'100k-mmcl-lr0.001-seed0' (allowed: once in"),
    "clean.cells.2.losses": (["ssl"], "clean.cells.2: no such entry (allowed: 0, 1, *)"),
    "clean.cells.0.global_batch_size": (49, "49 (allowed: 2 to 48, the cleaning pairs of 100k)"),
    "clean.poisons_left": (11, "poisons_left: 11 (allowed: 0 to 10, the poisoned pairs of cc3m)"),
    "clean.defence": ({"name": "cleanclip", "shrink": 0.5}, "shrink: no setting of cleanclip (al"),
    "clean.evaluate_every_steps": (4, "(allowed: a number for exactly one of evaluations_per_ep"),
    "evaluate.templates": (["a {!r}{}"], "templates: 'a {!r}{}' (allowed: strings with exactly"),
}


def test_a_sweep_fits_as_far_as_it_is_made(specs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile makes all of it, a study the sizes that it names: see `share` and `regime`."""
    smoke = replaced(specs / "smoke.yaml", "  warmup_steps: 1 ", "  warmup_steps: 4 ")
    line = "clean.warmup_steps: 4 (allowed: 0 to 3, the run's steps)"
    assert line in message(specs)
    replaced(smoke, "100k: 48, 200k: 96", "100k: 97, 200k: 96")
    line = "data.cleaning_sizes.100k: 97 (allowed: 1 to 96, the pairs of 200k)"
    assert line in message(specs)

    monkeypatch.chdir(specs.parent)
    dose = specs / "studies" / "dose.yaml"
    replaced(dose, "pretrain.ssl_weight: 0.5", "clean.warmup_steps: 10000")
    study = load_study("dose")
    with pytest.raises(SpecError, match=r"dose.yaml: 1 problem.*\n  clean.warmup_steps: 10000"):
        varied(study, study.variants["ssl_half"])


def test_only_the_wrong_field_is_named(specs: Path) -> None:
    """Seeds that stand twice make runs twice, and too many validation pairs leave no batch."""
    for field, value, line in (
        ("pretrain.seeds", [0, 0], "pretrain.seeds: [0, 0] (allowed: every seed once)"),
        ("data.num_validation", 1000, "data.num_validation: 1000 (allowed: 0 to 49"),
    ):
        first, *lines = message(specs, overrides={field: value}).splitlines()
        assert "1 problem(s)" in first
        assert lines[0].startswith(f"  {line}")


def test_the_warm_up_ends_within_a_run_that_is_cut_short_or_begins_an_epoch_in() -> None:
    """Of 4 steps an epoch on CC3M: one epoch of two is trained, or the counter begins at 4."""
    warm = {"pretrain.objectives.mmcl_ssl.warmup_steps": 8}
    early = {"pretrain.model_age.cc3m.mmcl_ssl": 1, "pretrain.model_age.cc6m.mmcl_ssl": 1}
    offset = {"switches.schedule_offset": "one_epoch", "pretrain.model_age.cc3m.mmcl_ssl": "last"}
    with pytest.raises(SpecError, match=r"warmup_steps: 8 \(allowed: 0 to 4, the run's"):
        load_profile("smoke", overrides=warm | early)
    load_profile("smoke", overrides=warm | offset)


SHARDS = {
    "kind": "webdataset",
    "pairs": {"cc3m": "a"},
    "selection": {"cc6m": "first"},
    "evaluation": "b",
    "images_per_class": 2,
    "max_drop_fraction": 0.1,
}


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (
            {"clean.epochs": 4, "clean.evaluations_per_epoch": 0.5}
            | {"clean.stop_early": {"epochs": 3, "asr": 0.9}},
            ["clean.stop_early.epochs: 3 (allowed: an epoch that ends with an evaluation)"],
        ),
        (
            {"data.source": SHARDS},
            [
                "data.source.pairs.cc6m: None (allowed: a folder; where there is none the study",
                "data.source.selection.cc3m: None (allowed: keyed, first)",
                "evaluate.classnames: 'icons' (allowed: imagenet, or a list of the evaluation's",
            ],
        ),
    ],
    ids=["never judged", "one dataset's shards, another's classes"],
)
def test_what_would_fail_or_do_nothing_hours_later_is_refused(
    specs: Path, overrides: dict[str, Any], lines: list[str]
) -> None:
    refused = message(specs, overrides=overrides)
    for line in lines:
        assert line in refused


@pytest.mark.parametrize("field", FIELDS)
def test_a_bad_field_is_refused_with_its_value_and_what_is_allowed(specs: Path, field: str) -> None:
    value, expected = FIELDS[field]
    assert expected in message(specs, overrides={field: value})


@pytest.mark.parametrize("number", [".nan", ".inf", "1e-3x", "0.0", "null"])
def test_a_learning_rate_is_a_finite_positive_number(specs: Path, number: str) -> None:
    path = specs / "smoke.yaml"
    old = "learning_rates: [3.0e-4, 1.0e-3]"
    path.write_text(path.read_text().replace(old, f"learning_rates: [{number}]"))
    start = "specs/smoke.yaml: 2 problem(s)\n  clean.cells.0.learning_rates.0: "
    assert message(specs).startswith(start)


def test_all_problems_come_at_once_each_with_the_file_that_has_it(specs: Path) -> None:
    replaced(specs / "smoke.yaml", "evaluate_every_epochs: 1", "evaluate_every_epochs: 0")
    replaced(specs / "mini.yaml", "classnames: icons", "classnames: coco")
    replaced(specs / "paper.yaml", "confidence: 0.95", "confidence: 0.5\n  margin: 1")
    assert message(specs).splitlines() == [
        "specs/smoke.yaml: 4 problem(s)",
        "  pretrain.evaluate_every_epochs: Input should be greater than 0 (got 0)",
        "  evaluate.classnames: Input should be 'imagenet' or 'icons' (got 'coco')"
        " in specs/mini.yaml",
        "  evaluate.confidence: Input should be greater than 0.5 (got 0.5) in specs/paper.yaml",
        "  evaluate.margin: Extra inputs are not permitted (got 1) (allowed: asr_cap, classnames, "
        "confidence, precision, templates, trigger_seed) in specs/paper.yaml",
    ]


def test_a_problem_of_a_studys_override_names_the_study(
    specs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(specs.parent)
    replaced(specs / "studies" / "dose.yaml", "ssl_weight: 0.25", "ssl_weight: -1.0")
    study = load_study("dose")
    with pytest.raises(SpecError) as caught:
        varied(study, study.variants["ssl_quarter"])
    assert str(caught.value).splitlines() == [
        "specs/studies/dose.yaml: 1 problem(s)",
        "  pretrain.ssl_weight: Input should be greater than or equal to 0 (got -1.0)",
    ]


def test_an_objective_whose_models_are_to_be_cleaned_has_a_setting_of_cleaning(
    specs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its models would be trained, and nothing would be said."""
    monkeypatch.chdir(specs.parent)
    line = "      clean.cells.1.pretrain_objectives: [two_views, image_ssl, text_ssl, ssl_unused]\n"
    replaced(specs / "studies" / "mechanism.yaml", line, "")
    study = load_study("mechanism")
    with pytest.raises(SpecError) as caught:
        varied(study, study.variants["parts"])
    assert str(caught.value).splitlines() == [
        "specs/studies/mechanism.yaml: 1 problem(s)",
        "  clean.cells.*.pretrain_objectives: ['mmcl', 'mmcl_ssl'] "
        "(allowed: image_ssl, ssl_unused, text_ssl, two_views among them, to be cleaned)",
    ]


def test_a_second_view_is_chosen_only_where_every_objective_has_one(
    specs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile trains all its objectives; a study those that it names."""
    allowed = "pretrain.second_view: 'poisoned' (allowed: all, because {} encodes one view)"
    replaced(specs / "smoke.yaml", "pretrain:", "pretrain:\n  second_view: poisoned")
    assert allowed.format("mmcl") in message(specs)

    monkeypatch.chdir(specs.parent)
    dose = replaced(specs / "studies" / "dose.yaml", "ssl_weight: 0.5", "second_view: poisoned")
    study = load_study("dose")
    chosen = varied(study, study.variants["ssl_half"])
    assert {run.second_view for run in pretrain_runs(chosen)} == {"poisoned"}
    assert {run.second_view for run in clean_runs(chosen)} == {"all"}

    replaced(dose, "pretrain_objectives: [mmcl_ssl]", "pretrain_objectives: [mmcl, mmcl_ssl]")
    study = load_study("dose")
    with pytest.raises(SpecError) as caught:
        varied(study, study.variants["ssl_half"])
    assert f"dose.yaml: 1 problem(s)\n  {allowed.format('mmcl')}" in str(caught.value)

    # Without the SSL term the other objective has one view too.
    weightless = "pretrain.second_view: clean, pretrain.ssl_weight: 0.0"
    replaced(dose, "pretrain.second_view: poisoned", weightless)
    study = load_study("dose")
    with pytest.raises(SpecError, match=r"'clean' \(allowed: all, because mmcl, mmcl_ssl encodes"):
        varied(study, study.variants["ssl_half"])


@pytest.mark.parametrize(
    ("there", "instead", "refused"),
    [
        (
            "pretrain.image_view: crop_and_colour",
            "pretrain.image_view: blur",
            r"pretrain.image_view: Input should be 'autoaugment'.* \(got 'blur'\)",
        ),
        (
            "{name: noise_view}",
            "{name: blur}",
            r"clean.defence.name: Input .*'noise_view'.* \(got 'blur'\)",
        ),
        (
            "pretrain_objectives: [mmcl_ssl]",
            "pretrain_objectives: [mmcl, mmcl_ssl]",
            r"pretrain.image_view: 'noise_and_erasing' \(allowed: autoaugment, because mmcl",
        ),
    ],
)
def test_a_view_that_cannot_be_is_refused_before_the_first_run(
    there: str, instead: str, refused: str, specs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(specs.parent)
    replaced(specs / "studies" / "crossed_views.yaml", there, instead)
    with pytest.raises(SpecError, match=refused):
        study_profiles(load_study("crossed_views"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!python/object/apply:os.system ['touch x']", "line 1: an anchor, an alias or a tag"),
        ("b: 1\na: &x [1]\nb: [*x, *x]", "line 2: an anchor, an alias or a tag"),
        ("a: 1\na: 2", "found duplicate key"),
        ("a: [1", "not valid YAML"),
        ("[" * 1000 + "]" * 1000, "not valid YAML"),
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


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("smoke.yaml", b"extends: mini\na: \xff", "smoke.yaml: 'utf-8' codec can't decode byte"),
        ("smoke.yaml", b"extends: mini\n- 1", "specs/smoke.yaml: not valid YAML"),
        (
            "smoke.yaml",
            b"",
            "profile: 'smoke' (specs/smoke.yaml is none; allowed: authors, midi, ",
        ),
        ("smoke.yaml", b"extends: mini\ndata: 3", "  data: Input should be a valid dictionary"),
        ("smoke.yaml", b"extends: mini\nclaen: {}", "  claen: Extra inputs are not permitted"),
        ("smoke.yaml", b"extends: smoke", "specs/smoke.yaml: extends: 'smoke' extends itself"),
        ("smoke.yaml", b"extends: few", "specs/smoke.yaml: extends: 'few' (allowed: authors, "),
        ("smoke.yaml", b"protocol: paper", "  switches: Field required"),
        ("mini.yaml", None, "specs/smoke.yaml: extends: 'mini' (allowed: authors, midi, "),
        ("classnames/icons.txt", b"\xe9t\xe9", "icons.txt: 'utf-8' codec can't decode byte 0xe9"),
        ("classnames/icons.txt", None, "specs/classnames/icons.txt: No such file"),
    ],
)
def test_a_bad_file_is_named(specs: Path, name: str, content: bytes | None, expected: str) -> None:
    (specs / name).unlink()
    if content is not None:
        (specs / name).write_bytes(content)
    assert expected in message(specs)


@pytest.mark.parametrize("profile", ["", ".", "tiny", "../specs/mini", "/etc", "été", "smoke\n"])
def test_a_profile_is_a_file_of_specs_and_nothing_else(specs: Path, profile: str) -> None:
    allowed = f"allowed: {', '.join(PROFILES)}; files with `extends` or `protocol`"
    assert message(specs, profile).startswith(f"profile: {profile!r} ({allowed}")
    assert message(specs, "claims") == f"profile: 'claims' (specs/claims.yaml is none; {allowed})"


@pytest.mark.parametrize("content", ["", "[]", "profile: tiny", "profile: [mini]", "mini"])
def test_params_that_name_no_profile_are_refused(
    specs: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(specs.parent)
    path = Path("params.yaml")
    path.write_text(content)
    with pytest.raises(SpecError, match=r"params\.yaml: profile: .* \(allowed: authors, midi"):
        chosen_profile()
    path.write_text("profile: mini\n")
    assert chosen_profile() == "mini"


def test_a_stage_reads_what_resolve_wrote_and_by_hand_resolves_first(
    specs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC would credit the results to the values of `resolve`, which ran before the edit."""
    monkeypatch.chdir(specs.parent)
    before = resolved_profile("smoke")
    assert before == load_profile("smoke")
    replaced(specs / "smoke.yaml", "warmup_steps: 1 ", "warmup_steps: 2 ")
    monkeypatch.setenv("DVC_STAGE", "clean@smoke-cc3m-mmcl")
    assert resolved_profile("smoke") == before
    monkeypatch.delenv("DVC_STAGE")
    assert resolved_profile("smoke").clean.warmup_steps == 2


ODD = ["", "null", "[]", "{}", ".nan", "-1", "1e400", "2020-01-01", "!!set {}", "*x", "é", "{a: }"]


@pytest.fixture(scope="module")
def spoilt(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of specs/ of which one file at a time is edited, and written back."""
    return Path(shutil.copytree(root / "specs", tmp_path_factory.mktemp("fuzz") / "specs"))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), name=st.sampled_from(["smoke.yaml", "studies/attacks.yaml"]))
def test_a_random_edit_is_read_or_named(spoilt: Path, data: st.DataObject, name: str) -> None:
    path = spoilt / name
    text = path.read_text(encoding="utf-8")
    start = data.draw(st.integers(0, len(text)))
    end = min(len(text), start + data.draw(st.integers(0, 12)))
    if data.draw(st.booleans()):  # a whole value
        values = list(re.finditer(r"(?<=: )[^\n#{]+", text))
        start, end = data.draw(st.sampled_from(values)).span()
    new = data.draw(st.one_of(st.sampled_from(ODD), st.text(max_size=8)))
    edited = text[:start] + new + text[end:]
    path.write_bytes(edited.encode("utf-8", "surrogatepass"))
    problem = ""
    try:
        with chdir(spoilt.parent):
            load_profile("smoke")
            study = load_study("attacks")
            for variant in study.variants.values():
                varied(study, variant)
    except SpecError as error:
        problem = str(error)
    finally:
        path.write_text(text, encoding="utf-8")
    # Without `extends` a file is no profile: the message has its name alone.
    assert not problem or name.removesuffix(".yaml") in problem
