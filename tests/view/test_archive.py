"""What archived runs came to, beside one's own."""

from pathlib import Path
from statistics import fmean

import pytest

from repro.ledger import Row
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.study.archive import ArchivedRun, read_archive
from repro.study.spec import archive_of
from repro.view.archive import Archive, Ends, means_of


@pytest.fixture(scope="module")
def archive(root: Path) -> Archive:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return Archive("mini")


def last(run: ArchivedRun) -> Row:
    return run.rows[-1]


def test_runs_on_other_data_are_no_counterparts(archive: Archive) -> None:
    """Studies vary number, share and draw of the poisons, of which a specification tells nothing."""
    models = pretrain_runs(load_profile("mini"))
    ends = [Ends.of_last(archive.like(of, ""), of.schedule.learning_rate) for of in models]
    assert all(of is not None and of.asr > 0.85 for of in ends)


def test_cleaning_runs_of_other_models_are_no_counterparts(archive: Archive) -> None:
    """The specification of a cleaning run does not tell how its model was pre-trained."""
    [run] = (
        of
        for of in clean_runs(load_profile("mini"), "cc6m", "mmcl")
        if of.clean_size == "100k" and of.loss == "mmcl_ssl" and of.schedule.learning_rate == 5e-4
    )
    same = [
        (record, rows)
        for record, rows in read_archive(archive_of("confirmation"))
        if record.spec.computed() | {"seed": None} == run.computed() | {"seed": None}
        and record.spec.variant == "confirmed"
    ]
    known = Ends.of_last(archive.like(run, ""), 5e-4)
    assert len(same) == 10
    assert known is not None
    # Other studies have such runs of further seeds.
    expected = fmean(rows[-1].asr(of.spec.switches.asr_denominator) for of, rows in same)
    assert known.asr == pytest.approx(expected, abs=0.01)
    assert Ends.of_last(archive.like(run, ""), 5.1e-4) is None


def test_a_study_ends_with_its_means_beside_those_of_published_defences(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PAR's view alone, by hand from the archives: the rows are in docs/findings.md too."""
    monkeypatch.chdir(root)
    lines = means_of("par", [25, 26], ["noise_view"]).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2:5] for line in lines}
    runs = [
        run
        for run in read_archive(archive_of("par"))
        if run.record.spec.variant == "noise_view" and run.record.spec.seed in (25, 26)
    ]
    of_rate = [
        run.rows[-1]
        for run in runs
        if run.record.spec.model_name == "cc6m-mmcl_ssl"
        and run.record.spec.schedule.learning_rate == 2.5e-4
    ]
    own, cleanclip, par = cells["noise_view cc6m-mmcl_ssl 200k mmcl_ssl, last at 0.00025"]
    means = fmean(row.accuracy for row in of_rate), fmean(row.asr("all") for row in of_rate)
    assert own.strip() == f"{means[0]:.1%}, {means[1]:.1%} (2)"
    # Of more seeds, and far apart: PAR cleans at this rate, CleanCLIP does not.
    assert float(cleanclip.split()[1].strip("%")) > 60
    assert float(par.split()[1].strip("%")) < 5
    best = cells["noise_view cc6m-mmcl 200k mmcl_ssl, best of ASR <= 5%"][0]
    cleaned = [
        max(
            (row.accuracy, -row.asr("all"))
            for run in runs
            if run.record.spec.model_name == "cc6m-mmcl" and run.record.spec.seed == seed
            if run.record.spec.stage == "clean"
            for row in run.rows
            if row.step and row.asr("all") <= 0.05
        )
        for seed in (25, 26)
    ]
    asr = -fmean(of[1] for of in cleaned)
    assert best.strip() == f"{fmean(of[0] for of in cleaned):.1%}, {asr:.1%} (2)"
