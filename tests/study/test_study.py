"""Studies: their specifications, tables and shared models, and archives that nobody edits."""

import gc
import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import repro
from repro.data.stages import data_key, data_settings, poison_key, poison_settings, write_settings
from repro.ledger import LedgerError
from repro.profile import check, load_profile, pretrain_runs
from repro.report.readme import write_blocks
from repro.report.studies import LARGER, REPLICATES, SUMS, archive_problems, evidence_of
from repro.runs.published import read_results, read_run
from repro.spec import SpecError, digest
from repro.study import run as study_run
from repro.study.archive import ArchivedRun, read_archive, unpack_run, write_archive
from repro.study.spec import (
    Study,
    archive_of,
    asked_runs,
    lacking,
    lenders,
    load_study,
    owner,
    study_names,
    study_profiles,
    varied,
)
from tests.support.ledger import write_run, write_specs, write_study_spec
from tools.rerun import compare

SPECS = Path(__file__).resolve().parents[2] / "specs"
STUDIES = study_names()


def test_a_variant_changes_the_field_it_names_and_its_data_folder() -> None:
    loaded = load_study("starts")
    base = varied(loaded, loaded.variants["start"])
    overrides = {"data.poison.trigger.patch_size": 8}
    larger = loaded.variants["start"].model_copy(update={"overrides": overrides})
    changed = varied(loaded, larger)
    assert base.data.poison.trigger.patch_size == 16
    assert changed.data.poison.trigger.patch_size == 8
    assert data_key(base) == data_key(changed)  # the same drawings
    assert poison_key(base) != poison_key(changed)


def test_data_that_tell_of_other_settings_are_refused(here: Path) -> None:
    loaded = load_study("starts")
    base = varied(loaded, loaded.variants["start"])

    # As after the stages of the main graph.
    stores = {Path("data/mini/evaluation"): data_settings(base)}
    stores |= {Path("poisoned/mini", name): poison_settings(base) for name in loaded.datasets}
    for folder, settings in stores.items():
        folder.mkdir(parents=True)
        write_settings(folder, settings)
    assert study_run.variant_folders(loaded, base) == (Path("data/mini"), Path("poisoned/mini"))
    for folder, settings in stores.items():
        write_settings(folder, settings | {"target_class": "star"})
        with pytest.raises(SpecError, match=f"{folder}: made with target_class: star"):
            study_run.variant_folders(loaded, base)
        write_settings(folder, settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fixed": None}, "fixed: missing .allowed: the day on which"),
        ({"setting": ["cc3m", "200k"]}, r"setting: .* \(allowed: \[cc6m, 200k\]\)"),
        ({"contrast": {"*/mmcl_ssl": 1.0, "*/mmcl": -1.0}}, "variants without a common seed"),
        ({"contrast": {"nobody_*/mmcl_ssl": 1.0, "cleanclip/mmcl": -1.0}}, "'nobody_.*allowed"),
        ({"measure": "taste"}, r"hypotheses\.0\.measure"),
        ({"rate": -1.0}, r"hypotheses\.0\.rate"),
        ({"rate": 5e-4, "measure": "lost_at_cap"}, r"rate: 0.0005 \(allowed: none, for lost"),
    ],
)
def test_a_hypothesis_that_cannot_be_judged_is_refused_before_the_first_run(
    change: dict[str, Any], message: str
) -> None:
    content = load_study("mechanism").model_dump()
    (content if "fixed" in change else content["hypotheses"][0]).update(change)
    with pytest.raises(SpecError, match=message):
        check(Study, content, "specs/studies/mechanism.yaml")


def test_a_hypothesis_about_a_rate_that_no_run_has_is_refused() -> None:
    study = load_study("whose_view")
    study_profiles(study)
    other = study.hypotheses[0].model_copy(update={"rate": 3.0e-3})
    study = study.model_copy(update={"hypotheses": [other]})
    with pytest.raises(SpecError, match=r"rate: 0.003 \(allowed: 0.00025, .*\)"):
        study_profiles(study)
    study = study.model_copy(update={"stages": ["pretrain"]})
    with pytest.raises(SpecError, match=r"rate: 0.003 \(allowed: none"):
        study_profiles(study)


def test_a_pattern_stands_for_the_variants_whose_names_it_matches() -> None:
    study = load_study("draws")
    assert len(study.matching("*/mmcl")) == 10
    assert study.matching("target_*/mmcl") == [v for v in study.variants if v.startswith("target")]
    assert study.matching("mechanism/cleanclip/mmcl") == []


@pytest.mark.parametrize("name", [name for name in STUDIES if archive_of(name).is_file()])
def test_an_archive_has_whole_seeds_as_its_study_asks_for_today_and_no_other(name: str) -> None:
    """An edit of a profile must not change what a study with results asked for. A study that is
    being run has some of its seeds.
    """
    study = load_study(name)
    records = [record for record, _ in read_archive(archive_of(name))]
    seeds = {record.spec.seed for record in records}
    assert [run for run in lacking(study, records) if run.seed in seeds] == []
    profiles = study_profiles(study)
    asked = {
        (run.variant, digest(run.computed()))
        for label in study.variants
        for stage in study.stages
        for run in asked_runs(study, profiles, label, stage)
    }
    assert {(of.spec.variant, digest(of.spec.computed())) for of in records} <= asked


def test_models_of_a_variant_are_trained_by_one_study() -> None:
    assert owner("default") == "seeds"
    assert owner("unpoisoned") == "control"
    with pytest.raises(SpecError, match="trained by no study"):
        owner("nobody")


def test_a_lender_trains_the_seeds_that_are_asked_for() -> None:
    chosen = [("default", 12), ("unpoisoned", 11)]
    assert lenders(load_study("control"), chosen) == {"seeds": {("default", 12)}}


def test_every_lent_variant_is_of_the_same_kind_and_covers_the_borrowers_seeds() -> None:
    """Whoever cleans another's models asks for seeds, data sets and poisoning that it has."""
    for name in STUDIES:
        borrower = load_study(name)
        for label, variant in borrower.variants.items():
            if variant.models is not None:
                lender = load_study(owner(variant.models))
                lent = lender.variants[variant.models]
                assert lent.poisoned == variant.poisoned, (name, label)
                assert {*variant.seeds} <= {*lent.seeds}, (name, label)
                assert {*borrower.datasets} <= {*lender.datasets}, (name, label)
                objectives = {*variant.pretrain_objectives}
                assert objectives <= {*lent.pretrain_objectives}, (name, label)


def test_a_borrowed_pre_training_is_the_lenders_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the variant cleans with another set, whose store is another input."""
    folders = lambda _, profile: (Path("data"), Path(poison_key(profile)))  # noqa: E731
    monkeypatch.setattr(study_run, "variant_folders", folders)
    study = load_study("regime")
    profiles = study_profiles(study)
    inputs = study_run.study_inputs(study, profiles)

    def computed(label: str) -> list[tuple[dict[str, Any], Path]]:
        runs = asked_runs(study, profiles, label, "pretrain")
        return [(run.computed(), inputs(run)["pairs"]) for run in runs if run.seed == 0]

    assert computed("half_of_the_pairs") == computed("epochs_16") != []
    assert computed("epochs_8") != computed("epochs_16")

    # Its cleaning is its own.
    own, lent = (
        {inputs(run)["pairs"] for run in asked_runs(study, profiles, label, "clean")}
        for label in ("half_of_the_pairs", "epochs_16")
    )
    assert own.isdisjoint(lent)


NAME = "again"
ARCHIVE = Path(f"results/studies/{NAME}.jsonl.gz")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of a study of two models, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_specs(tmp_path)
    write_study_spec(tmp_path, NAME, {"default": {}})
    profile = load_profile("mini", tmp_path / "specs")
    for spec in pretrain_runs(profile, "cc3m", variant="default"):
        write_run(tmp_path / "made", spec, [(0.1, 0.2), (0.4, 0.9)])
    write_archive(ARCHIVE, ((record, rows) for _, record, rows in read_results(Path("made"))))
    return ARCHIVE


def edit(archive: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the first run of an archive."""
    first, *others = gzip.decompress(archive.read_bytes()).decode().splitlines()
    item = json.loads(first)
    change(item)
    lines = [json.dumps(item), *others]
    archive.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0))


def more_correct(item: dict[str, Any]) -> None:
    item["rows"][-1]["num_correct"] += 30


def lock(archive: Path, name: str = NAME) -> None:
    """A dvc.lock that knows the archive as it is, and a stage before and after its own."""
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    Path("dvc.lock").write_text(
        "schema: '2.0'\nstages:\n"
        f"  study@before:\n    cmd: x\n    outs:\n    - path: other\n      md5: {'0' * 32}\n"
        f"  study@{name}:\n    cmd: y\n    deps:\n    - path: {archive}\n      md5: {'1' * 32}\n"
        f"    outs:\n    - path: {archive}\n      hash: md5\n      md5: {md5}\n      size: 3\n"
        f"  study@{name}_after:\n    cmd: z\n    outs:\n    - path: last\n      md5: {'2' * 32}\n"
    )


def test_the_garbage_collector_pauses_while_an_archive_is_read(root: Path) -> None:
    """It would go through all of the runs read so far, again and again: once is the one after."""
    phases: list[str] = []
    gc.callbacks.append(lambda phase, info: phases.append(phase))
    try:
        read_archive(root / "results/studies/confirmation.jsonl.gz")
    finally:
        gc.callbacks.pop()
    assert phases.count("start") <= 1
    assert gc.isenabled()


def test_a_count_edited_in_an_archive_is_refused_by_line(archive: Path) -> None:
    edit(archive, more_correct)
    with pytest.raises(LedgerError, match=r"again\.jsonl\.gz:1: its rows do not have the hash"):
        read_archive(archive)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_correct": 10**9}, "num_correct: 1000000000 .allowed: 0 to 400"),
        ({"num_target_attacked": 300}, "num_target_attacked: 300 .allowed: 0 to 2"),
        ({"num_attacked": 400, "num_target_attacked": 1}, "num_attacked: 400 .allowed: 0 to 399"),
    ],
)
def test_impossible_counts_are_refused(archive: Path, change: dict[str, int], problem: str) -> None:
    """The counts of a row are possible ones."""
    edit(archive, lambda item: item["rows"][-1].update(change))
    with pytest.raises(LedgerError, match=rf"again\.jsonl\.gz:1: not a run .*{problem}"):
        read_archive(archive)


def test_a_start_that_is_no_time_and_a_run_that_stands_twice_are_refused(archive: Path) -> None:
    lines = gzip.decompress(archive.read_bytes())
    archive.write_bytes(gzip.compress(lines + lines.splitlines(keepends=True)[0]))
    with pytest.raises(LedgerError, match=r"gz:3: pretrain/cc3m-mmcl/default-seed0 stands twice"):
        read_archive(archive)

    archive.write_bytes(gzip.compress(lines))
    edit(archive, lambda item: item["run"].update(started="<script>"))
    with pytest.raises(LedgerError, match=r"gz:1: not a run .*started.*Invalid isoformat"):
        read_archive(archive)


def test_an_archive_of_the_first_version_is_refused(archive: Path) -> None:
    edit(archive, lambda item: item.pop("run"))
    with pytest.raises(LedgerError, match=r"again\.jsonl\.gz:1: not a run of this version"):
        read_archive(archive)


def test_an_unpacked_run_has_the_rows_of_the_one_that_was_archived(archive: Path) -> None:
    made = {record.fingerprint: folder for folder, record, _ in read_results(Path("made"))}
    for record, rows in read_archive(archive):
        unpack_run(record, rows, Path("unpacked", record.fingerprint))
        folder = Path("unpacked", record.fingerprint)
        source = made[record.fingerprint]
        assert (folder / "rows.jsonl").read_bytes() == (source / "rows.jsonl").read_bytes()
        assert read_run(folder) == (record, rows)

    # Equal runs give equal bytes.
    write_archive(Path("other.gz"), reversed(read_archive(archive)))
    assert Path("other.gz").read_bytes() == archive.read_bytes()


def test_an_archive_of_an_older_version_is_written_again_only_with_other_runs(
    archive: Path,
) -> None:
    """Its records lack fields that have a default today."""
    lines = gzip.decompress(archive.read_bytes()).decode()
    older = gzip.compress(lines.replace('"second_view": "all", ', "").encode())
    assert len(older) < len(archive.read_bytes())
    archive.write_bytes(older)

    runs = read_archive(archive)
    write_archive(archive, runs)
    assert archive.read_bytes() == older
    write_archive(archive, runs[1:])
    assert read_archive(archive) == runs[1:]


def test_an_unreadable_run_of_an_older_version_gives_way_to_the_archive(archive: Path) -> None:
    record, rows = read_archive(archive)[0]
    folder = Path("unpacked")
    folder.mkdir()
    (folder / "run.json").write_text('{"seal": "0"}')
    unpack_run(record, rows, folder)
    assert read_run(folder) == (record, rows)


def test_a_newer_archive_replaces_what_an_older_one_left_and_no_run_made_here(
    archive: Path,
) -> None:
    (record, rows), (newer, other_rows) = read_archive(archive)[:2]
    folder = Path("unpacked")
    unpack_run(record, rows, folder)
    unpack_run(newer, other_rows, folder)
    assert read_run(folder) == (newer, other_rows)

    made, made_record, _ = next(read_results(Path("made")))
    before = (made / "run.json").read_bytes()
    unpack_run(newer if made_record == record else record, rows, made)
    assert (made / "run.json").read_bytes() == before


def test_an_edited_archive_is_named_and_no_table_is_written_from_it(archive: Path) -> None:
    """A record's time is changed: only dvc.lock can tell."""
    lock(archive)
    assert archive_problems("mini") == []
    edit(archive, lambda item: item["run"].update(seconds=1.0))
    (line,) = archive_problems("mini")
    assert line.startswith("results/studies/again.jsonl.gz: not the file that is known to dvc.lock")
    assert "dvc repro study@again" in line
    with pytest.raises(LedgerError, match=r"known to dvc\.lock"):
        write_blocks()
    # A report has the line among its notices.
    assert line in evidence_of(load_profile("mini")).notices


def test_every_archive_behind_a_report_is_guarded(archive: Path, root: Path) -> None:
    """That of the larger scale is in each report, and so are those of earlier code."""
    write_study_spec(Path(), "larger", {"default": {}})
    specification = Path("specs/studies/larger.yaml")
    text = specification.read_text().replace('"profile":"mini"', f'"profile":"{LARGER}"')
    specification.write_text(text)
    edit(archive, lambda item: item["run"].update(seconds=1.0))
    larger = archive_of("larger")
    larger.write_bytes(archive.read_bytes())
    lock(larger, "larger")
    for profile in ("mini", "smoke", LARGER):
        assert archive_problems(profile) == []

    edit(larger, lambda item: item["run"].update(seconds=2.0))
    for profile in ("mini", "smoke", LARGER):
        (line,) = archive_problems(profile)
        assert line.startswith(f"{larger}: not the file that is known to dvc.lock")
    with pytest.raises(LedgerError, match=r"larger\.jsonl\.gz: not the file"):
        write_blocks()
    with pytest.warns(UserWarning, match=r"larger\.jsonl\.gz: not the file"):
        repro.points("mini")

    # Of earlier code, of another processor, of other ranks.
    larger.unlink()
    shutil.copytree(root / REPLICATES, REPLICATES)
    assert archive_problems("mini") == []
    earlier = sorted(REPLICATES.glob("*.gz"))
    assert len(earlier) == 5
    for path in earlier:
        path.write_bytes(path.read_bytes() + b"\0")
    lines = archive_problems("mini")
    assert [line.partition(":")[0] for line in lines] == [str(path) for path in earlier]
    sums = SUMS.read_bytes()
    for damaged in (
        b"",
        sums[:20],
        sums.replace(b"first", b"fur\xffst"),
        sums.replace(b"7b", b"xx"),
    ):
        SUMS.write_bytes(damaged)
        assert any(line.startswith(f"{SUMS}: sums of") for line in archive_problems("mini"))


def test_where_nobody_knows_better_an_archive_counts_as_it_is(archive: Path) -> None:
    edit(archive, lambda item: item["run"].update(seconds=1.0))
    assert archive_problems("mini") == []


def test_an_archived_run_without_the_hash_of_its_rows_is_refused(archive: Path) -> None:
    """Nothing else could tell that a count was edited."""

    def unhashed(item: dict[str, Any]) -> None:
        more_correct(item)
        item["run"]["files"] = {}

    edit(archive, unhashed)
    with pytest.raises(LedgerError, match=r"again\.jsonl\.gz:1: its rows do not have the hash"):
        read_archive(archive)


def test_a_cell_trained_again_has_the_counts_of_the_archive_or_those_of_a_replicate() -> None:
    archived = read_archive(study_run.archive_of("bench"))
    again = [run for run in archived if run.record.spec.variant == "stripes_par"]
    assert list(compare(archived, again)) == []
    both = [item for item in archived if item[0].spec.variant == "badnet_par"]
    assert list(compare(archived, [item for item in both if item[0].spec.seed == 27])) == []
    hit = {"num_attacked": again[0][1][0].num_images}
    wrong = [ArchivedRun(run, [row.model_copy(update=hit) for row in rows]) for run, rows in again]
    (problem,) = compare(archived, wrong)
    assert problem.startswith("mmcl: mean ASR at the ends of the runs 1.000, in the archive 0.")
