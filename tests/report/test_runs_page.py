"""runs.html: what its table says of each record, and how it is found, sorted and drawn in a browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repro.report.build import records_file
from repro.report.pages.html import runs_page
from repro.report.pages.sacred import read_records
from tests.support.browser import CHROMIUM, Page, browser

TIMES = {"start_time": "2026-01-02T03:04:05", "stop_time": "2026-01-02T04:05:05"}
SERIES = {
    "epoch": [0.5, 1, 2],
    "zero_shot_top1": [0.10, 0.40, 0.30],
    "attack_success_rate": [0.9, 0.06, 0.05],
    "loss": [3, 2, 1],
    "learning_rate": [1e-3, 5e-4, 0],
}


def write_record(folder: Path, number: int, accuracy: float, **config: Any) -> None:
    """A record as Sacred keeps it, of a cleaning run."""
    values = SERIES | {"zero_shot_top1": [value * accuracy for value in SERIES["zero_shot_top1"]]}
    metrics = {name: {"steps": [10, 20, 40], "values": series} for name, series in values.items()}
    loss, rate = config["loss"], config["rate"]
    content = {
        "run.json": {"experiment": {"name": "clean"}, "status": "COMPLETED", **TIMES},
        "metrics.json": metrics,
        "config.json": {
            "cell": config["cell"],
            "run_id": f"100k-{loss}-lr{rate:g}-seed0",
            "dataset": config["cell"][:4],
            "pretrain_objective": config["cell"][5:],
            "clean_size": "100k",
            "loss": loss,
            "fingerprint": f"{number:016x}",
            "schedule": {"learning_rate": rate},
            "seed": 0,
            "evaluate": {"asr_cap": 0.05},
        },
    }
    (folder / str(number)).mkdir(parents=True)
    for name, part in content.items():
        (folder / str(number) / name).write_text(json.dumps(part))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs, of two models and two losses, and a record that cannot be read."""
    folder = tmp_path_factory.mktemp("sacred") / "mini"
    write_record(folder, 2, 0.9, cell="cc3m-mmcl", loss="mmcl", rate=0.001)
    write_record(folder, 3, 1.0, cell="cc3m-mmcl_ssl", loss="mmcl_ssl", rate=1e-5)
    write_record(folder, 10, 0.5, cell="cc6m-mmcl_ssl", loss="mmcl", rate=2e-5)
    write_record(folder, 11, 0.7, cell="cc6m-mmcl_ssl", loss="mmcl_ssl", rate=0.0125)
    (folder / "12").mkdir()
    return folder


def test_a_record_has_its_name_duration_and_best_at_the_cap(records: Path) -> None:
    run = next(run for run in read_records(records) if run.id == "3")
    assert run.name == "cc3m-mmcl_ssl/100k-mmcl_ssl-lr1e-05-seed0"
    assert run.seconds == 3660
    assert (run.accuracy, run.asr, run.cap) == (0.30, 0.05, 0.05)
    assert run.best == 0.30, "0.40 was at an ASR of 6%"
    accuracy = next(chart for chart in run.charts if chart.name == "zero_shot_top1")
    assert (accuracy.begin, accuracy.end) == ("epoch 0.5", "epoch 2")


def test_a_run_that_never_came_down_to_the_cap_has_no_best(tmp_path: Path, records: Path) -> None:
    shutil.copytree(records, tmp_path / "mini")
    path = tmp_path / "mini" / "3" / "metrics.json"
    content = json.loads(path.read_text())
    content["attack_success_rate"]["values"] = [0.9, 0.8, 0.0501]
    path.write_text(json.dumps(content))
    assert [run.best for run in read_records(tmp_path / "mini")][1] is None


def test_pre_training_has_no_best_though_it_begins_below_the_cap(
    tmp_path: Path, records: Path
) -> None:
    shutil.copytree(records, tmp_path / "mini")
    path = tmp_path / "mini" / "3" / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"clean_size": None}))
    assert [run.best for run in read_records(tmp_path / "mini")][1] is None


def test_the_runs_that_fill_table_1_are_marked(records: Path) -> None:
    document = {
        "profile": "mini",
        "runs": {"a": {"fingerprint": f"{3:016x}"}, "b": {"fingerprint": f"{10:016x}"}},
        "tables": {
            "table1": {
                "rows": [{"original_accuracy": {"run": "a"}, "clean_accuracy": {"run": None}}]
            }
        },
    }
    page = records_file(document, read_records(records)).decode()
    marked = [row for row in page.split("<tr") if "Table 1</span>" in row.partition("</tr>")[0]]
    assert len(marked) == 1 and 'data-run="run-3"' in marked[0]


@pytest.fixture(scope="module")
def page(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no Chromium to look at the page with")
    folder = tmp_path_factory.mktemp("page")
    chosen = {f"{3:016x}"}
    (folder / "runs.html").write_text(runs_page("mini", read_records(records), chosen))
    with browser(folder / "profile") as opened:
        opened.open(f"file://{folder}/runs.html")
        opened.wait("document.querySelector('#search:not([hidden])')")
        yield opened
        assert opened.problems == []


SHOWN = "[...document.querySelectorAll('#list tbody tr')].filter(r => !r.hidden)"


def shown(page: Page, words: str) -> tuple[list[str], int]:
    """Numbers of the rows that are left after a filter, and how many details are."""
    page.run(
        "(() => {const box = document.querySelector('#search input'); box.value = "
        f"{json.dumps(words)}; box.dispatchEvent(new Event('input', {{bubbles: true}}))}})()"
    )
    numbers = page.run(f"{SHOWN}.map(r => r.cells[0].innerText)")
    count = page.run("document.querySelectorAll('main > details:not([hidden])').length")
    return numbers, count


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cc6m-mmcl_ssl", ["10", "11"]),
        ("cc6m-mmcl_ssl/100k-mmcl-lr2e-05-seed0", ["10"]),
        ("CC3M", ["2", "3"]),
        ("loss:mmcl", ["2", "10"]),
        ("loss:mmcl+ssl pretrained:mmcl+ssl", ["3", "11"]),
        ("table 1", ["3"]),
        ("unreadable", ["12"]),
        ("no such words", []),
    ],
)
def test_the_filter_knows_the_reports_names_and_hides_details_too(
    page: Page, words: str, expected: list[str]
) -> None:
    numbers, details = shown(page, words)
    assert numbers == expected
    assert details == len([number for number in expected if number != "12"])
    assert page.run("document.querySelector('#search output').value") == f"{len(expected)} of 5"
    assert shown(page, "") == (["2", "3", "10", "11", "12"], 4)


def test_a_column_sorts_by_size_and_a_second_time_the_other_way(page: Page) -> None:
    orders = {
        "Learning rate": ["3", "10", "2", "11"],
        "Best at": ["10", "11", "2", "3"],
        "Name": ["2", "3", "10", "11"],
    }
    for title, expected in orders.items():
        button = (
            "[...document.querySelectorAll('#list th button')]"
            f".find(each => each.innerText.startsWith('{title}'))"
        )
        page.click(button)
        assert page.run(f"{SHOWN}.map(r => r.cells[0].innerText)") == [*expected, "12"]
        assert page.run(f"{button}.parentElement.getAttribute('aria-sort')") == "ascending"
        page.click(button)
        assert page.run(f"{SHOWN}.map(r => r.cells[0].innerText)")[:4] == expected[::-1]
    page.run("[...document.querySelectorAll('#list th button')][0].click()")


@pytest.mark.parametrize("width", [1440, 800, 390])
def test_charts_do_not_overlap_and_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=1000,
        deviceScaleFactor=1,
        mobile=False,
    )
    page.run("location.hash = '#run-3'")
    page.wait("document.getElementById('run-3').open")
    boxes = page.run(
        "[...document.querySelectorAll('#run-3 figure, #run-3 svg')].map(e => "
        "{const b = e.getBoundingClientRect(); return [e.tagName, b.left, b.top, b.right, b.bottom]})"
    )
    figures = [box[1:] for box in boxes if box[0] == "FIGURE"]
    drawings = [box[1:] for box in boxes if box[0] != "FIGURE"]
    assert len(figures) == len(drawings) == 4
    for number, (left, top, right, bottom) in enumerate(figures):
        assert right - left > 200
        for other in figures[number + 1 :]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart, (width, figures)
    assert all(
        inner[2] <= outer[2] + 0.5 for outer, inner in zip(figures, drawings, strict=True)
    ), "a drawing leaves its figure"
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    if width == 1440:
        box = "document.querySelector('#list').parentElement"
        assert page.run(f"{box}.scrollWidth <= {box}.clientWidth"), "the last column is cut"
