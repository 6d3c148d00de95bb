"""Studies in the report: effects are paired over seeds, those below the spread are undecided,
verdicts are compared.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest

from repro.markdown import fill
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.judging.claims import load_claims
from repro.report.numbers.evidence import Settings
from repro.report.pages.findings import findings_block, stale_findings
from repro.report.studies.effects import effects, interactions, size_effects
from repro.report.studies.outcomes import VariantCell, VariantOutcome, outcomes
from repro.report.studies.results import archive_problems, read_study_results
from repro.report.verify import verify
from repro.runs.published import read_results
from repro.spec import Profile, SpecError
from repro.study.archive import write_archive
from repro.study.asked import asked_runs, study_profiles
from repro.study.spec import load_study
from tests.support.ledger import build_at, write_run, write_specs, write_study_spec

SPEC = """
question: Does it matter?
profile: mini
stages: [pretrain, clean]
datasets: [cc3m]
clean_sizes: [100k]
losses: [mmcl_ssl]
reference: default
variants:
  default:
    overrides: {}
    models: null
    poisoned: true
    pretrain_objectives: [mmcl]
    seeds: [0, 1, 2]
    why: as it is
  worse:
    overrides: {switches.text_view: redrawn}
    models: null
    poisoned: true
    pretrain_objectives: [mmcl]
    seeds: [0, 1, 2]
    why: "<b>why</b>"
"""
START = {0: 0.40, 1: 0.42, 2: 0.44}
"""Accuracy of the default before cleaning, by seed; the variant is two points below it."""
KEPT = {"default": (0.40, 0.42, 0.44), "worse": (0.20, 0.205, 0.21)}
"""Accuracy after cleaning: nothing lost, and about half."""
ASR_SHIFT = {0: 0.02, 1: -0.02, 2: 0.01}
"""What the variant adds to the ASR before cleaning: no sign common to the seeds."""


def write_side_study(root: Path) -> Profile:
    profile = write_specs(root)
    (root / "specs/studies/matter.yaml").write_text(SPEC)
    study = load_study("matter", root / "specs")
    profiles = study_profiles(study, root / "specs")
    for variant, stage in profiles:
        for spec in asked_runs(study, profiles, variant, stage):
            accuracy = START[spec.seed] - (0.02 if variant == "worse" else 0)
            asr = 0.9 + (ASR_SHIFT[spec.seed] if variant == "worse" else 0)
            after = [] if stage == "pretrain" else [(KEPT[variant][spec.seed], 0.02)]
            write_run(root / "made", spec, [(accuracy, asr), *after])
    write_archive(
        root / "results/studies/matter.jsonl.gz",
        ((record, rows) for _, record, rows in read_results(root / "made")),
    )
    shutil.rmtree(root / "made")
    return profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("studies")
    write_side_study(root)
    return root


def test_effects_are_paired_and_those_below_the_spread_are_undecided(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Accuracy: -2 points at each seed, so the interval is a point; ASR: 2, -2, 1, whose interval
    holds zero.
    """
    document, page = build_at(folder, load_profile("mini", folder / "specs"), monkeypatch)
    (study,) = document["studies"]
    assert study["reference"] == "default"
    (row,) = [r for r in study["rows"] if r["variant"] == "worse"]
    assert row["seeds"] == [0, 1, 2]
    accuracy, asr = row["effects"]["accuracy"], row["effects"]["asr"]
    assert accuracy["value"] == pytest.approx(-0.02)
    assert accuracy["ci"] == pytest.approx([-0.02, -0.02])
    assert not accuracy["undecided"]
    assert asr["value"] == pytest.approx(0.01 / 3, abs=1e-9)
    assert asr["undecided"]
    assert row["effects"]["cleaned_accuracy"]["value"] == pytest.approx(-0.215, abs=1e-9)
    assert "−2.0" in page
    assert "&lt;b&gt;why" in page


def test_a_variant_that_loses_half_could_change_the_verdict_that_mmcl_cleans(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    document, _ = build_at(folder, load_profile("mini", folder / "specs"), monkeypatch)
    (row,) = [r for r in document["studies"][0]["rows"] if r["variant"] == "worse"]
    verdicts = {v["id"]: (v["reference"], v["variant"]) for v in row["verdicts"]}
    assert verdicts["mmcl-cleans"] == ("reproduced", "not reproduced")
    assert row["could_change"] == "yes"
    (default,) = [r for r in document["studies"][0]["rows"] if r["variant"] == "default"]
    assert (default["effects"], default["verdicts"], default["could_change"]) == (None, [], None)


def test_a_variant_that_costs_one_objective_more_is_told_apart_from_the_seeds():
    """Effects -0.1, -0.2 and -0.3 on MMCL, 0.05 lower each on MMCL + SSL: -0.05 on every seed."""
    cost = {
        ("default", "mmcl"): (0.5, 0.5, 0.5),
        ("worse", "mmcl"): (0.4, 0.3, 0.2),
        ("default", "mmcl_ssl"): (0.6, 0.7, 0.8),
        ("worse", "mmcl_ssl"): (0.45, 0.45, 0.45),
    }
    found = {
        VariantCell(variant, "cc3m", objective, "100k"): {
            seed: VariantOutcome(0.5, 0.9, best, 0.0, None) for seed, best in enumerate(kept)
        }
        for (variant, objective), kept in cost.items()
    }
    (row,) = interactions(found, "default", 0.95)
    assert (row["variant"], row["dataset"], row["clean_size"]) == ("worse", "cc3m", "100k")
    assert (row["effect"]["value"], row["effect"]["n"]) == (pytest.approx(-0.05), 3)
    assert row["effect"]["ci"] == pytest.approx((-0.05, -0.05))
    del found["default", "cc3m", "mmcl", "100k"]
    assert interactions(found, "default", 0.95) == []


def test_a_verdict_that_changes_by_less_than_the_spread_is_undecided(root: Path):
    """Drops of 30, 30 and 50% leave an interval that reaches below the claim's 10%, 30, 30 and 31%
    do not; their difference holds zero.
    """
    drops = {"default": (0.30, 0.30, 0.50), "steadier": (0.30, 0.30, 0.31)}
    found = {
        VariantCell(variant, "cc3m", objective, "100k"): {
            seed: VariantOutcome(0.4, 0.9, 0.4 * (1 - d), 0.0, d) for seed, d in enumerate(lost)
        }
        for variant, of_seed in drops.items()
        for objective, lost in (("mmcl", (0.0, 0.0, 0.0)), ("mmcl_ssl", of_seed))
    }
    settings = Settings.of(load_profile("mini", root / "specs"))
    claims = load_claims(root / "specs/claims.yaml")
    _, _, _, row = effects(found, "default", claims, settings)
    (verdict,) = [v for v in row["verdicts"] if v["id"] == "mmcl-ssl-fails"]
    assert verdict == {
        "id": "mmcl-ssl-fails",
        "reference": "direction only",
        "variant": "reproduced",
        "changes": False,
    }
    assert row["could_change"] == "undecided"


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [((0.0, 0.14), "not tested: control failed"), ((), "not tested: control not run")],
)
def test_a_variant_that_keeps_cleanclip_from_working_turns_no_verdict(
    root: Path, lost: tuple[float, ...], verdict: str
):
    """The MMCL + SSL model loses 30%, then nothing; the variant's MMCL model 7% in the mean."""
    drops = {
        ("default", "mmcl"): (0.0, 0.0),
        ("default", "mmcl_ssl"): (0.30, 0.30),
        ("other", "mmcl"): lost,
        ("other", "mmcl_ssl"): (0.0, 0.0),
    }
    found = {
        VariantCell(variant, "cc3m", objective, "100k"): {
            seed: VariantOutcome(0.4, 0.9, 0.4 * (1 - d), 0.0, d) for seed, d in enumerate(of_seed)
        }
        for (variant, objective), of_seed in drops.items()
    }
    settings = Settings.of(load_profile("mini", root / "specs"))
    row = effects(found, "default", load_claims(root / "specs/claims.yaml"), settings)[-1]
    verdicts = {v["id"]: (v["reference"], v["variant"], v["changes"]) for v in row["verdicts"]}
    assert verdicts["mmcl-ssl-fails"] == ("reproduced", verdict, False)


def test_a_shrunk_model_is_compared_with_what_it_was_before(tmp_path: Path):
    """The first evaluation of a run that shrinks the weights is of the shrunk model; the drop
    counts from the trained one.
    """
    profile = write_specs(tmp_path)
    changes = {"default": {}, "shrunk": {"clean.mitigation.shrink": 0.95}}
    write_study_spec(tmp_path, "shrinking", changes)
    for variant, changed in changes.items():
        for spec in clean_runs(
            load_profile("mini", tmp_path / "specs", changed), "cc3m", "mmcl", variant=variant
        ):
            if spec.loss == "mmcl_ssl":
                write_run(
                    tmp_path / "made",
                    spec,
                    [(0.4, 0.9) if variant == "default" else (0.1, 0.0), (0.2, 0.02)],
                )
    write_archive(
        tmp_path / "results/studies/shrinking.jsonl.gz",
        ((record, rows) for _, record, rows in read_results(tmp_path / "made")),
    )
    (study,) = read_study_results("mini", tmp_path)
    found = outcomes(study.runs, Settings.of(profile))
    for variant in changes:
        (outcome,) = found[variant, "cc3m", "mmcl", "100k"].values()
        assert (outcome.accuracy, outcome.asr, outcome.relative_drop) == pytest.approx(
            (0.4, 0.9, 0.5), abs=0.01
        )


def test_verify_covers_studies_and_the_main_tables_do_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    document, _ = build_at(folder, load_profile("mini", folder / "specs"), monkeypatch)
    assert verify(Path("out/report.json")) == []
    assert document["tables"]["table2"]["rows"][0]["accuracy"]["reproduced"] is None
    archive = Path("results/studies/matter.jsonl.gz")
    content = archive.read_bytes()
    archive.write_bytes(
        gzip.compress(gzip.decompress(content).replace(b'"num_correct": 1', b'"num_correct": 2', 1))
    )
    found = verify(Path("out/report.json"))
    archive.write_bytes(content)
    assert any("studies" in line for line in found)


def test_an_archive_of_another_specification_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert archive_problems("mini", Path()) == []

    study = Path("specs/studies/matter.yaml")
    study.write_text(study.read_text().replace("text_view: redrawn", "truncation: cut"))
    (line,) = archive_problems("mini", Path())
    assert line.startswith("results/studies/matter.jsonl.gz: ")
    assert "/worse-100k-" in line and "another specification" in line

    # More seeds than are asked for are no fault.
    study.write_text(SPEC.replace("seeds: [0, 1, 2]", "seeds: [0]"))
    assert archive_problems("mini", Path()) == []


def test_a_study_of_the_whole_graph_gives_every_claim_a_verdict_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both objectives lose a tenth of their accuracy in every cell: no claim that the objective
    decides survives on any seed.
    """
    profile = write_specs(tmp_path)
    write_study_spec(tmp_path, "again", {"default": {}})
    seeds = load_profile("mini", tmp_path / "specs", {"pretrain.seeds": [0, 1]})
    for spec in [*pretrain_runs(seeds, variant="default"), *clean_runs(seeds, variant="default")]:
        write_run(
            tmp_path / "made",
            spec,
            [(0.4, 0.9)] if spec.stage == "pretrain" else [(0.4, 0.9), (0.36, 0.02)],
        )
    write_archive(
        tmp_path / "results/studies/again.jsonl.gz",
        ((r, rows) for _, r, rows in read_results(tmp_path / "made")),
    )
    document, page = build_at(tmp_path, profile, monkeypatch)
    (found,) = document["studies"]
    claims = {claim["id"]: claim for claim in found["claims"]}
    assert claims.keys() == {claim["id"] for claim in document["claims"]}
    (cell,) = claims["objective-decides-cc6m"]["evidence"]
    assert [item["seed"] for item in cell["by_seed"]] == [0, 1] and cell["spread"]["sd"] is not None
    assert (
        claims["mmcl-costs-little-accuracy"]["verdict"] != "not run"
        and claims["poison-in-the-cleaning-set"]["verdict"] == "not run"
    )
    assert claims["objective-decides-cc6m"]["verdict"] != "reproduced"
    assert 'aria-label="Study again: claims over seeds"' in page

    # Two seeds of the study say more than the profile's one.
    assert (document["resistance"]["study"], document["resistance"]["seeds"]) == ("again", [0, 1])
    (verdict,) = {claim["verdict"] for claim in document["own_claims"]}
    assert verdict == "not tested: control failed"
    block = findings_block("mini")
    assert (
        "on seeds 0, 1" in block and "**undecided**" in block
    ) or "**does not hold here**" in block
    assert verify(Path("out/report.json")) == []


def test_a_variant_of_a_study_decides_the_claim_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With poisoned pairs left, the MMCL models keep their accuracy and the others lose half: as
    the paper's conclusion has it.
    """
    profile = write_specs(tmp_path)
    study = load_study("leftovers", tmp_path / "specs")
    profiles = study_profiles(study, tmp_path / "specs")
    for spec in asked_runs(study, profiles, "poisons_left_5", "clean"):
        # Two of the study's seeds.
        if spec.seed in (10, 11):
            kept = 0.4 if spec.pretrain_objective == "mmcl" else 0.2
            write_run(tmp_path / "made", spec, [(0.4, 0.9), (kept, 0.02)])

    # The control is of the main graph: without the poisoned pairs, CleanCLIP works.
    for spec in clean_runs(profile, "cc6m", "mmcl"):
        if spec.clean_size == "200k" and spec.loss == "mmcl_ssl":
            write_run(tmp_path, spec, [(0.4, 0.9), (0.4, 0.02)])
    archive = tmp_path / "results/studies/leftovers.jsonl.gz"
    archive.parent.mkdir(parents=True)
    write_archive(archive, ((record, rows) for _, record, rows in read_results(tmp_path / "made")))
    document, _ = build_at(tmp_path, profile, monkeypatch)
    claims = {claim["id"]: claim for claim in document["claims"]}
    (cell,) = claims["poison-in-the-cleaning-set"]["evidence"]
    assert [item["seed"] for item in cell["by_seed"]] == [10, 11] and cell["by_seed"][0][
        "value"
    ] == pytest.approx(0.5, abs=0.02)
    assert claims["poison-in-the-cleaning-set"]["verdict"] == "reproduced"
    assert claims["objective-decides-cc6m"]["verdict"] == "not run", (
        "the main graph has no MMCL + SSL runs here"
    )
    assert verify(Path("out/report.json")) == []


def sized(large: dict[str, tuple[float, ...]]) -> list[dict[str, Any]]:
    """Size effects where the smaller cleaning set gives 0.3 on each of three seeds."""
    found = {
        VariantCell(variant, "cc6m", "mmcl", size): {
            seed: VariantOutcome(
                accuracy=0.4,
                asr=0.9,
                cleaned_accuracy=value if size == "200k" else 0.3,
                lowest_asr=0.0,
                relative_drop=None,
            )
            for seed, value in enumerate(values)
        }
        for variant, values in large.items()
        for size in ("100k", "200k")
    }
    return size_effects(found, "right", 0.95)


@pytest.mark.parametrize(
    ("left_on", "answer"),
    [
        ((0.2, 0.205, 0.21), "yes"),
        ((0.33, 0.335, 0.34), "no"),
        ((0.2, 0.3, 0.4), "undecided"),
        ((0.298, 0.302, 0.31), "undecided"),
    ],
)
def test_more_data_looks_worse_by_itself_only_if_it_does_and_because_of_the_variant(
    left_on: tuple[float, ...], answer: str
):
    """The reference gains two points from more data."""
    right, wrong = sized({"right": (0.32, 0.322, 0.321), "left on": left_on})
    assert right["looks_worse"] is None and right["effect"]["value"] == pytest.approx(0.021)
    assert wrong["looks_worse"] == answer
    assert wrong["against_reference"]["value"] == pytest.approx(wrong["effect"]["value"] - 0.021)


def test_a_changed_digit_of_the_findings_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    Path("docs").mkdir(exist_ok=True)
    page = Path("docs/findings.md")
    page.write_text("# Findings\n\n<!-- findings:start -->\n<!-- findings:end -->\n")
    fill(page, "findings", findings_block("mini"))
    assert stale_findings("mini") == []
    row = next(line for line in page.read_text().splitlines() if line.startswith("| worse"))
    assert "-2.0 [-2.0, -2.0]" in row and " u " in row and "yes" in row
    page.write_text(page.read_text().replace(row, row.replace("-2.0", "-2.1", 1)))
    (line,) = stale_findings("mini")
    assert line.startswith("docs/findings.md:") and "-2.1" in line
    build_at(folder, load_profile("mini", folder / "specs"), monkeypatch)
    assert any("findings" in line for line in verify(Path("out/report.json")))
    page.unlink()


def test_the_findings_name_the_studies_without_results(folder: Path):
    """Of the studies of mini, `matter` alone has an archive."""
    for path in (folder / "specs/studies").glob("*.yaml"):
        if path.stem != "matter":
            path.unlink()
    assert "without results" not in findings_block("mini", folder)
    (folder / "specs/studies/later.yaml").write_text(SPEC.replace("Does it", "Will it"))
    assert "- Specified, but without results so far: `later`." in findings_block("mini", folder)


def test_a_study_file_that_is_none_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    profile = write_side_study(tmp_path)
    (tmp_path / "specs/studies/matter.yaml").write_text(
        "question: 3\nprofile: mini\nreference: x\nvariants: {}\n"
    )
    with pytest.raises(SpecError, match=r"matter\.yaml: .*\n  question: "):
        build_at(tmp_path, profile, monkeypatch)
