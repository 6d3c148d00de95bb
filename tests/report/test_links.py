"""Links of the report's pages: to the record of the very run, and never to nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.build import report_stage
from repro.report.pages.links import broken_links
from repro.report.verify import verify
from repro.runs.published import read_results
from repro.study.archive import write_archive
from tests.support.ledger import reseal, write_run, write_study_spec

REPORT = Path("report/build/mini/report.json")
OWN = "results/mini/pretrain/cc3m-mmcl/seed0"
ELSEWHERE = "results/mini/pretrain/cc3m-mmcl_ssl/seed0"


def write_sacred(number: int, fingerprint: str) -> None:
    """A Sacred record of a pre-training run, below the working folder."""
    folder = Path(f"sacred/mini/{number}")
    folder.mkdir(parents=True)
    run = {"experiment": {"name": "pretrain"}, "status": "COMPLETED", "start_time": "2026-01-02"}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "config.json").write_text(json.dumps({"fingerprint": fingerprint, "seed": 0}))


@pytest.fixture(scope="module")
def study(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study on a machine with two records, and the archive of another machine's runs.

    The first record is of OWN; number 2 is of a run that ELSEWHERE, made on another machine, also
    had as its second.
    """
    root = tmp_path_factory.mktemp("links") / "study"
    shutil.copytree(built, root)
    profile = load_profile("mini", root / "specs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("REPRO_AUTHORS_DIR", raising=False)
        write_sacred(1, json.loads(Path(OWN, "run.json").read_bytes())["fingerprint"])
        write_sacred(2, "feedfeedfeedfeed")
        reseal(Path(ELSEWHERE), sacred="mini/2")

        # Every run of the archive says `mini/1`, as the machine that made it counted.
        write_study_spec(Path(), "again", {"default": {}})
        runs = [*pretrain_runs(profile, variant="default")]
        runs += clean_runs(profile, "cc3m", variant="default")[:3]
        for spec in runs:
            write_run(Path("made"), spec, [(0.4, 0.9), (0.3, 0.02)])
        archived = ((record, rows) for _, record, rows in read_results(Path("made")))
        write_archive(Path("results/studies/again.jsonl.gz"), archived)
        shutil.rmtree("made")
        report_stage("mini")
    return root


@pytest.fixture
def page(study: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The study's first page, with the study as working folder."""
    monkeypatch.chdir(study)
    return REPORT.with_name("index.html").read_text()


def test_only_runs_whose_own_record_is_there_link_to_it(page: str) -> None:
    """Not the archived runs with the same number, nor the own run made on another machine."""
    document: dict[str, Any] = json.loads(REPORT.read_bytes())
    numbers = {name: run["sacred"] for name, run in document["runs"].items()}
    archived = [name for name in numbers if name.startswith("results/studies/")]
    assert archived and all(numbers[name] == "mini/1" for name in archived)
    assert numbers[ELSEWHERE] == "mini/2"

    ledger = REPORT.with_name("ledger.html").read_text()
    rows = re.findall(
        r'<tr id="run-\d+"><th scope="row"><code>(.*?)</code>(.*?)</tr>', ledger, re.S
    )
    assert len(rows) == len(numbers)
    linked = {name: re.findall(r'href="(runs\.html#.*?)"', row) for name, row in rows}
    assert {name: links for name, links in linked.items() if links} == {OWN: ["runs.html#run-1"]}


def test_every_link_of_all_pages_has_a_target(page: str) -> None:
    """A run leads to its record where runs.html has it, to its row in the table of runs else."""
    assert "runs.html#run-1" in page
    assert re.search(r'href="ledger\.html#run-\d+"', page)
    assert 'href="studies.html#study-again"' in page
    assert verify(REPORT) == []


@pytest.mark.faults(21)
def test_a_record_that_is_gone_and_a_link_to_nothing_are_named(
    page: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(study, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    runs = REPORT.with_name("runs.html")
    runs.write_text(runs.read_text().replace('id="run-1"', 'id="run-11"'))
    pears = page.replace('href="#pairs"', 'href="#pears"')
    pears = pears.replace('href="studies.html#study-again"', 'href="studies.html#study-agin"')
    REPORT.with_name("index.html").write_text(pears)
    found = verify(REPORT)
    assert "index.html: link to studies.html#study-agin, which has no target" in found
    assert "index.html: link to runs.html#run-1, which has no target" in found
    assert "index.html: link to #pears, which has no target" in found
    assert "runs.html: link to #run-1, which has no target" in found


def test_links_to_files_anchors_and_ids_are_followed_and_others_are_not() -> None:
    page = (
        '<h2 id="a">A</h2><section aria-labelledby="a b"><a href="#a">x</a><a href="#c">y</a>'
        '<a href="other.html#d">z</a><a href="gone.pdf">w</a><img src="data:image/png;base64,AA">'
        '<a href="https://example.org/#e">v</a><a href="b%20c.txt">u</a></section>'
        "<script>const link = '<a href=\"#nowhere\">';</script>"
    )
    pages = {"index.html": page, "other.html": '<p id="D"></p><a href="index.html#a">up</a>'}
    assert list(broken_links(pages, ["index.html", "other.html", "b c.txt"])) == [
        "index.html: link to #b, which has no target",
        "index.html: link to #c, which has no target",
        "index.html: link to other.html#d, which has no target",
        "index.html: link to gone.pdf, but gone.pdf is no file of the report",
    ]
