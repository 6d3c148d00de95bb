"""Entries of another package: listed, trained, in the fingerprint, refused when not as specified."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from repro import plugins
from repro.__main__ import main
from repro.profile import load_profile
from repro.spec import SpecError
from tests.plugins.trained import NAMED, OVERRIDES

PACKAGE = Path(__file__).parent / "package"


def install(folder: Path, version: str = "0.2") -> Path:
    """What an installation of the example package leaves for `importlib.metadata`."""
    project: dict[str, Any] = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    about = folder / f"repro_toys-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {version}\n")
    groups = project["entry-points"].items()
    lines = [
        line
        for group, entries in groups
        for line in (f"[{group}]", *(f"{name} = {place}" for name, place in entries.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (folder / "repro_toys").symlink_to(PACKAGE / "repro_toys")
    return folder


def said(root: Path, installed: Path, out: Path) -> dict[str, Any]:
    """What `tests.plugins.trained` prints."""
    path = os.pathsep.join(map(str, (root, installed)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.trained", str(out)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_entries_of_another_package_train_and_are_in_the_fingerprint(
    root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    found = said(root, install(tmp_path / "site"), out)
    assert found["labels"] == ["white square", "distance of pairs", "a part of every step"]
    assert found["white"] == 12 * 12
    assert found["store"] == "repro-toys==0.2"
    assert found["again"] is True

    # Each run has those that it names.
    version = "repro-toys==0.2"
    assert found["pretraining"]["plugins"] == {"white": version, "pairwise": version}
    assert found["pretraining"]["losses"] == ["distance", "loss"]
    assert found["cleaning"]["plugins"] == dict.fromkeys(
        ("white", "pairwise", "half_step"), version
    )
    assert found["cleaning"]["losses"] == ["loss", "mmcl"]
    assert found["pretraining"]["fingerprint"] != found["cleaning"]["fingerprint"]


NAMES = """
import sys
from repro.data.triggers import TRIGGERS
from repro.profile import load_profile

load_profile("smoke", overrides={"plugins": dict.fromkeys(sys.argv[1:], "repro-toys==0.2")})
assert "white" in TRIGGERS
from repro.train.defences import DEFENCES
from repro.train.objectives import OBJECTIVES
assert "half_step" in DEFENCES
assert "pairwise" in OBJECTIVES
"""


def test_plug_ins_may_be_named_in_any_order(root: Path, tmp_path: Path) -> None:
    """Whichever list is there first: the import of one implementation brings other lists."""
    path = os.pathsep.join(map(str, (root, install(tmp_path / "site"))))
    done = subprocess.run(
        [sys.executable, "-c", NAMES, *reversed(NAMED)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_missing_package_another_version_and_a_taken_name_are_refused(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = "plugins.white: 'repro-toys==0.2' is not installed (allowed: none, because no"
    with pytest.raises(SpecError) as caught:
        load_profile("smoke", overrides=OVERRIDES)
    assert missing in str(caught.value)

    monkeypatch.syspath_prepend(str(install(tmp_path, "0.3")))
    with pytest.raises(SpecError) as caught:
        load_profile("smoke", overrides=OVERRIDES)
    other = "plugins.white: 'repro-toys==0.2' is not installed (allowed: repro-toys==0.3)"
    assert other in str(caught.value)
    listed = [(group, entry.name, made) for group, entry, made in plugins.offered()]
    assert ("repro.defences", "half_step", "repro-toys==0.3") in listed

    # `list` shows it with what a specification has to say; a package's code is not run for that.
    for kind, name in (
        ("triggers", "white"),
        ("objectives", "pairwise"),
        ("defences", "half_step"),
    ):
        assert main(["list", kind]) == 0
        lines = capsys.readouterr().out.splitlines()
        [line] = [line for line in lines if line.split()[0] == name]
        assert "under `plugins`: repro-toys==0.3" in line
    assert "repro_toys" not in sys.modules

    # A name that no list has is refused as before.
    with pytest.raises(SpecError, match="Input should be a defence: 'cleanclip', "):
        load_profile("smoke", overrides={"clean.defence": {"name": "half_step"}})

    monkeypatch.setitem(plugins.GROUPS["repro.triggers"], "white", "another white")
    with pytest.raises(ValueError, match=r"plugins\.white: .* has the name of another entry"):
        plugins.use("white", "repro-toys==0.3")
