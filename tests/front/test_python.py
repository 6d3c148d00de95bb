"""README's snippet and the notebook run as they stand, on a small trained model and the archives."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

import repro
from repro.evaluate.foreign import load_foreign
from repro.ledger import LedgerError
from repro.profile import load_profile, pretrain_runs
from repro.runs.deliver import deliver
from repro.runs.layout import RESULTS
from repro.spec import SpecError
from repro.train.process.checkpoint import save_tensors
from tests.support import backdoored
from tests.support.backdoored import NAMES, pictures, train_backdoored
from tests.support.finished import end, finished_run


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a trained and delivered model of `smoke`."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "specs").symlink_to(root / "specs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(backdoored, "STEPS", 15)  # enough to see the target everywhere
        train_backdoored(Path("epoch.pt"))
        spec = pretrain_runs(load_profile("smoke"), "cc6m", "mmcl_ssl")[0]
        run = finished_run(spec)
        weights = load_foreign(Path("epoch.pt"), "cleanclip", spec.model)
        save_tensors(run.work_dir / "model.safetensors", weights.state_dict())
        end(run)
        assert deliver(run, RESULTS)
    return folder


def test_the_snippet_of_readme_classifies_a_picture(
    root: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(trained)
    (name,) = re.findall(r'Image.open\("(.*?)"\)', code)
    Image.fromarray(pictures([NAMES.index("banana")], "seen")[0]).save(name)
    exec(code.replace('"mini"', '"smoke"').replace("seed=10", "seed=0"), {})
    assert capsys.readouterr().out.startswith("banana\n")


def test_a_wrong_name_is_told_with_others(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    for arguments, message in {
        ("tiny", "cc6m-mmcl"): "profile: 'tiny' .allowed: .*smoke",
        ("smoke", "cc6m"): "cell: 'cc6m' .allowed: cc3m-mmcl",
        ("smoke", "cc6m-mmcl", 7): "seed: 7 .allowed: 0",
        ("smoke", "cc3m-mmcl", 0, "200k"): "clean_size: '200k' .allowed: 100k",
    }.items():
        with pytest.raises(SpecError, match=message):
            repro.load(*arguments)
    with pytest.raises(LedgerError, match=r"cc6m-mmcl/seed0/model.*there: models/smoke/cc6m-mmcl_"):
        repro.load("smoke", "cc6m-mmcl")
    with pytest.raises(LedgerError, match=r"results/rehearsal: no evaluations .*no profile|mini"):
        repro.points("rehearsal")


@pytest.mark.slow
def test_the_notebook_runs_on_the_archives(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in this process: its cells are plain Python, which needs no kernel."""
    monkeypatch.chdir(root / "docs")
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {}
    for cell in json.loads(Path("first_look.ipynb").read_bytes())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
