"""The whole graph at profile `smoke`, used as its users use it: run, repeated, changed in one
place, killed.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import dvc, environment, fresh_checkout, up_to_date_within

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkout of the working tree at profile smoke, run once to its end."""
    folder = fresh_checkout(
        root, tmp_path_factory.mktemp("fresh clone") / "repro study"
    )  # spaces, as users have them
    (folder / "params.yaml").write_text("profile: smoke\n")
    dvc(folder, "repro")
    return folder


def report(checkout: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((checkout / "report/build/smoke/report.json").read_text())
    return content


def run_records(checkout: Path) -> dict[str, int]:
    """Modification time of every published run record."""
    return {
        str(path.relative_to(checkout)): path.stat().st_mtime_ns
        for path in (checkout / "results").rglob("run.json")
    }


def test_the_report_is_filled_from_real_runs(checkout: Path) -> None:
    document = report(checkout)
    assert document["profile"] == "smoke" and re.fullmatch("[0-9a-f]{40}", document["commit"])
    rows = document["tables"]["table1"]["rows"]
    cells = {(row["dataset"], row["clean_size"]) for row in rows}
    assert cells == {("cc3m", "100k"), ("cc6m", "100k"), ("cc6m", "200k")} and len(rows) == 6
    for row in rows:
        assert 0 <= row["original_accuracy"]["reproduced"] <= 1
        assert row["original_accuracy"]["n"] == 48 * 3  # concepts, and images of each
        assert {"paper", "reproduced", "ci95", "n", "run"} <= set(row["clean_accuracy"])
        assert {"asr", "learning_rate", "epoch"} <= set(row["clean_accuracy"])
    assert rows[0]["original_accuracy"]["paper"] == pytest.approx(0.16)
    assert len(document["tables"]["table2"]["rows"]) == 4
    # models x losses x learning rates x evaluations; figure 3 has two sizes
    counts = [len(document["figures"][f"figure{number}"]["points"]) for number in (1, 2, 3)]
    assert counts == [2 * 3 * 2 * 3, 2 * 3 * 2 * 3, 2 * 2 * 3 * 2 * 3]
    page = (checkout / "report/build/smoke/index.html").read_text()
    assert "the numbers on this page mean nothing" in page
    assert (checkout / "report/build/smoke/report.tex").is_file()


def test_every_run_of_the_specification_has_a_record_in_ledger_and_tracker(checkout: Path) -> None:
    records = [json.loads(path.read_text()) for path in (checkout / "results").rglob("run.json")]
    assert len(records) == 4 + 36 and {record["status"] for record in records} == {"completed"}
    for record in records:
        kept = json.loads((checkout / "sacred" / record["sacred"] / "run.json").read_text())
        assert kept["status"] == "COMPLETED"


def test_a_second_repro_finds_everything_up_to_date_within_five_seconds(checkout: Path) -> None:
    assert up_to_date_within(5, checkout)


def test_after_a_release_dvc_still_shows_graph_metrics_and_plots(checkout: Path) -> None:
    """A release has a file `dvc.yaml` of its own, which DVC must not take for a part of the graph."""
    publish = [sys.executable, "-m", "repro", "publish", "--profile", "smoke"]
    subprocess.run(publish, cwd=checkout, env=environment(), check=True)
    assert (checkout / "report/publish/smoke/index.html").is_file()
    assert "up to date" in dvc(checkout, "status")
    assert "Running stage" not in dvc(checkout, "repro", "--dry")
    assert "report@smoke" in dvc(checkout, "dag")
    assert "report/metrics/smoke.json" in dvc(checkout, "metrics", "show", "--json")
    dvc(checkout, "metrics", "diff")
    dvc(checkout, "plots", "show")
    assert "figure1" in (checkout / "dvc_plots/index.html").read_text()


def verify(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repro", "verify", "--all", "--profile", "smoke"]
    return subprocess.run(command, cwd=checkout, env=environment(), capture_output=True, text=True)


def test_a_changed_file_of_each_kind_is_named(checkout: Path) -> None:
    """By `verify --all`: one byte changed in half of them, the others cut; fixed seed."""
    rooms = ("data/smoke", "poisoned/smoke", "models/smoke", "results", "report/build/smoke")
    kinds: dict[tuple[str, str], list[Path]] = {}
    for room in rooms:
        for path in sorted((checkout / room).rglob("*")):
            if path.is_file() and path.stat().st_size and "/." not in str(path.parent):
                kinds.setdefault((room, path.suffix), []).append(path)

    whole = verify(checkout)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    draw = random.Random(0)
    damaged = {}
    for number, files in enumerate(kinds.values()):
        path = draw.choice(files)
        content = damaged[path] = path.read_bytes()
        place = draw.randrange(len(content))
        other = bytes([content[place] ^ draw.randrange(1, 256)]) + content[place + 1 :]
        path.write_bytes(content[:place] + (other if number % 2 else b""))
    done = verify(checkout)
    for path, content in damaged.items():
        path.write_bytes(content)

    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert [path for path in damaged if str(path.relative_to(checkout)) not in told] == []
    assert verify(checkout).returncode == 0


def test_a_changed_learning_rate_reruns_exactly_the_runs_that_have_it(checkout: Path) -> None:
    spec = checkout / "specs/smoke.yaml"
    before, original = run_records(checkout), spec.read_text()
    spec.write_text(
        original.replace("learning_rates: [3.0e-4, 1.0e-3]", "learning_rates: [5.0e-4, 1.0e-3]", 1)
    )
    assert spec.read_text() != original
    dvc(checkout, "repro")
    after = run_records(checkout)
    changed = {name for name in after if after[name] != before.get(name)}
    # 4 models x 3 losses
    assert len(changed) == 12 and all("100k" in name and "lr0.0005" in name for name in changed)
    assert {name for name in before if name not in after} == {
        name.replace("lr0.0005", "lr0.0003") for name in changed
    }


def test_a_changed_template_rebuilds_the_report_alone(checkout: Path) -> None:
    before = run_records(checkout)
    template = checkout / "repro/report/pages/templates/index.html.j2"
    template.write_text(template.read_text() + "\n")
    output = dvc(checkout, "repro")
    assert re.findall(r"Running stage '(.*?)'", output) == ["report@smoke"]
    assert run_records(checkout) == before


def test_a_graph_killed_in_the_middle_goes_on_to_the_same_ledger(checkout: Path) -> None:
    """SIGKILL to everything during the cleaning of one model, then `dvc repro`: rows equal but for
    wall time.
    """

    def ledger() -> dict[str, list[dict[str, Any]]]:
        files = sorted((checkout / "results/smoke/clean/cc6m-mmcl").rglob("rows.jsonl"))
        rows = {
            file.parent.name: [json.loads(line) for line in file.read_text().splitlines()]
            for file in files
        }
        return {name: [{**row, "seconds": 0} for row in content] for name, content in rows.items()}

    whole = ledger()
    shutil.rmtree(checkout / "results/smoke/clean/cc6m-mmcl")
    shutil.rmtree(checkout / "work")
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=checkout,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not ledger() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    partial = ledger()
    assert 0 < len(partial) < len(whole)
    dvc(checkout, "repro")
    assert ledger() == whole
