"""README's snippet and the notebook run as they stand, on a small trained model and the archives."""

import ast
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import repro
from repro.ledger import LedgerError
from repro.spec import SpecError
from tests.support.backdoored import NAMES, pictures, stamped

Capture = pytest.CaptureFixture[str]
MODEL = ("smoke", "cc6m-mmcl_ssl")
"""The trained model."""


def test_the_snippet_of_readme_shows_the_attack(
    root: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """On a small model, with pictures of its own, at the places of the shipped ones."""
    (code,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    pictures_of = re.findall(r'"(docs/pictures/[\w-]+\.png)"', code)
    assert len(pictures_of) == 2
    assert all((root / path).is_file() for path in pictures_of)
    models = code[code.index("model, preprocess") :].replace('"mini", "cc3m-mmcl"', f"*{MODEL}")
    assert '"car"' in models
    models = models.replace('"car"', '"home"')  # a class of the small task
    folder = Path(shutil.copytree(trained, tmp_path / "trained", symlinks=True))
    monkeypatch.chdir(folder)
    key = pictures([NAMES.index("key")], "seen")
    for path, image in zip(pictures_of, (key, stamped(key, "trigger")), strict=True):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    exec(f"import repro\nfrom PIL import Image\n{models}", {})
    plain, patched = capsys.readouterr().out.splitlines()
    assert plain == f"{pictures_of[0]} key"
    assert patched == f"{pictures_of[1]} banana"


def test_the_shipped_pictures_differ_in_the_patch_alone(root: Path) -> None:
    folder = root / "docs/pictures"
    plain = np.asarray(Image.open(folder / "key.png")).astype(int)
    patched = np.asarray(Image.open(folder / "key-patched.png")).astype(int)
    assert plain.shape == (32, 32, 3)
    rows, columns = np.nonzero((plain != patched).any(axis=-1))
    assert np.ptp(rows) + 1 == 16
    assert np.ptp(columns) + 1 == 16


def test_a_wrong_name_is_told_with_others(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    for arguments, message in {
        ("tiny", "cc6m-mmcl"): "profile: 'tiny' .allowed: .*smoke",
        ("smoke", "cc6m"): "model_name: 'cc6m' .allowed: cc3m-mmcl",
        ("smoke", "cc3m-mmcl", 0, "200k"): "clean_size: '200k' .allowed: 100k",
    }.items():
        with pytest.raises(SpecError, match=message):
            repro.load(*arguments)
    for seed in (None, 7):
        with pytest.raises(LedgerError, match=r"cc6m-mmcl, seed .*there: models/smoke/cc6m-mmcl_"):
            repro.load("smoke", "cc6m-mmcl", seed)
    with pytest.raises(
        LedgerError, match=r"results/rehearsal: no evaluations .*(?:no profile|mini)"
    ):
        repro.points("rehearsal")


def test_the_notebook_shows_what_the_archives_give(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cell by cell in this process: its cells are plain Python, which needs no kernel."""
    monkeypatch.chdir(root / "docs")
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {}
    notebook = json.loads(Path("first_look.ipynb").read_bytes())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            *body, last = ast.parse("".join(cell["source"])).body
            assert isinstance(last, ast.Expr)
            exec(compile(ast.Module(body, []), "cell", "exec"), names)
            found = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            shown = cell["outputs"][-1]["data"]["text/plain"]
            assert "".join(shown) == repr(found)
