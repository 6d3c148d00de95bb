"""Surroundings that differ: hash seed, locale, time zone, cores, network, and secrets in the
environment.
"""

# ruff: noqa: F811  (fixtures are imported, and named again where they are used)

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repro.profile import clean_runs
from repro.spec import Profile
from tests.support.launch import (  # noqa: F401
    Launch,
    launch,
    processes,
    profile,
    published,
    start_driver,
    wait_for,
)

ROOT = Path(__file__).parents[2]
KEPT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
OFFLINE = ["unshare", "--map-root-user", "--net"]
CAN_UNSHARE = (
    subprocess.run([*OFFLINE, "true"], capture_output=True).returncode == 0
    if shutil.which("unshare")
    else False
)


def hashes(folder: Path, environment: dict[str, str], *prefix: str) -> dict[str, str]:
    """What tests/support/everything.py makes in `folder`, under `environment` alone and the
    commands in `prefix`.
    """
    folder.mkdir()
    command = [*prefix, sys.executable, "-m", "tests.support.everything", str(folder)]
    done = subprocess.run(
        command,
        env=KEPT | {"HOME": str(folder.parent)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_poison_captions_and_pixels_are_the_same_bytes_everywhere(tmp_path: Path) -> None:
    """Hash seed, locale, encoding, time zone, threads, cores, folder name and network varied; a
    Turkish locale where there is one.
    """
    installed = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout.split()
    turkish = next((name for name in installed if name.lower().startswith("tr_tr.utf")), "")
    plain = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC", "OMP_NUM_THREADS": "1"}
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    language = {"LC_ALL": turkish} if turkish else ascii_only
    odd = {"PYTHONHASHSEED": "4242", "TZ": "Pacific/Apia", "OMP_NUM_THREADS": "2"} | language
    one_core = (
        ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
        if shutil.which("taskset")
        else []
    )
    first = hashes(tmp_path / "a", plain)
    assert {"views.json", "poisoned/mini/cc3m/manifest.jsonl", "pixels.bin"} <= first.keys()
    assert hashes(tmp_path / "zwei ü", odd, *(OFFLINE if CAN_UNSHARE else []), *one_core) == first


PLANTED = {
    "WANDB_API_KEY": "pl4nted-wandb",
    "HF_TOKEN": "hf_pl4nted",
    "AWS_SECRET_ACCESS_KEY": "pl4nted/aws",
    "PIP_INDEX_URL": "https://me:pl4nted@host/",
    "MONGO_URL": "mongodb://me:pl4nted-mongo@127.0.0.1:1/sacred",
    "DVC_STUDIO_TOKEN": "pl4nted-dvc",
    "GITHUB_TOKEN": "ghp_pl4nted",
}


def test_no_secret_of_the_environment_reaches_a_record_or_log(
    profile: Profile,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even of a run whose worker fails with the address in its hands."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    specs = clean_runs(profile)[:2]
    with pytest.raises(RuntimeError, match="1 of 2 runs failed"):
        launch(specs, {specs[1].run_id: "raise"})
    written = [path for path in Path().rglob("*") if path.is_file()]
    assert any(path.name == "cout.txt" for path in written) and any(
        path.suffix == ".log" for path in written
    )
    assert [path for path in written if b"pl4nted" in path.read_bytes()] == []
