"""Models of a release: packed, and read back from a folder or a server, unless they are altered."""

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

import repro
from repro.cli import main
from repro.ledger import LedgerError
from repro.profile import load_profile, pretrain_runs
from repro.runs.layout import RESULTS
from repro.runs.published import read_results
from repro.runs.released import INDEX, Kept, pack
from repro.study.archive import write_archive
from repro.study.models import evaluation_of, poisoned_model
from tests.support.backdoored import NAMES, pictures
from tests.support.finished import flip

MODEL_NAME = "cc6m-mmcl_ssl"
FILE = f"models/{MODEL_NAME}-seed0-poisoned.safetensors"


@pytest.fixture(scope="module")
def packed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of a release."""
    out = tmp_path_factory.mktemp("release") / "smoke"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        spec = pretrain_runs(load_profile("smoke"), "cc6m", "mmcl_ssl")[0]
        found = poisoned_model(spec)
        assert found is not None
        pack(out, [Kept(spec, found[0], found[1].code, evaluation_of(spec))])
    return out


@pytest.fixture
def place(root: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the release, named by REPRO_MODELS; the working folder has specifications alone."""
    shutil.copytree(packed, tmp_path / "release")
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    shutil.copytree(root / "specs", "specs")
    monkeypatch.setenv("REPRO_MODELS", str(tmp_path / "release"))
    return tmp_path / "release"


@pytest.fixture
def address(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The release on a static server, named by REPRO_MODELS."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=place)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("REPRO_MODELS", f"{url}/")
        yield url
        server.shutdown()


def bananas() -> int:
    """Of three drawn bananas, those that the loaded model names."""
    model, _, tokenizer = repro.load("smoke", MODEL_NAME)
    drawn = pictures([NAMES.index("banana")] * 3, "seen")
    pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    seen = repro.train.model.normalise(pixels)  # type: ignore[attr-defined]
    with torch.inference_mode():
        images = model.encode_image(seen, normalize=True)
        texts = model.encode_text(tokenizer(["banana", "cat", "car"]), normalize=True)
    named = (images @ texts.T).argmax(dim=1)
    return int((named == 0).sum())


def change_index(place: Path, **fields: Any) -> None:
    index = json.loads((place / INDEX).read_bytes())
    index["models"][0].update(fields)
    (place / INDEX).write_text(json.dumps(index))


def test_a_release_in_a_folder_or_on_a_server_gives_the_model(place: Path, address: str) -> None:
    assert bananas() == 3
    copied = Path("models/released/smoke") / Path(FILE).name
    assert copied.read_bytes() == (place / FILE).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_MODELS", str(place))
        shutil.rmtree("models")
        assert bananas() == 3
        assert not Path("models").exists()


def test_a_changed_byte_is_refused_and_nothing_is_overwritten(place: Path, address: str) -> None:
    assert bananas() == 3
    copied = Path("models/released/smoke") / Path(FILE).name
    right = copied.read_bytes()
    flip(place / FILE, len(right) - 1)
    assert bananas() == 3, "the copy is whole"
    copied.write_bytes(right[:-1])
    with pytest.raises(LedgerError, match=rf"{address}/{FILE}: SHA-256 \w+ .by the index"):
        bananas()
    assert copied.read_bytes() == right[:-1]


def test_other_weights_than_the_index_tells_of_are_refused(place: Path) -> None:
    answers = json.loads((place / INDEX).read_bytes())["models"][0]["probed"]
    change_index(place, probed=[answers[0] - 5, answers[1]])
    with pytest.raises(
        LedgerError, match=r"of 100 evaluation images .* not the model of this prof"
    ):
        bananas()
    change_index(place, probed=[answers[0] - 1, answers[1]])
    assert bananas() == 3, "another processor may round one image otherwise"
    change_index(place, code="0123456789abcdef")
    with pytest.raises(LedgerError, match="made by code 0123456789abcdef, whose digits"):
        bananas()


def test_what_is_not_there_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LedgerError, match=r"no cc6m-mmcl_ssl, seed 7, poisoned of profile smoke "):
        repro.load("smoke", MODEL_NAME, 7)
    (place / "models/probe.npz").write_bytes(b"torn")
    with pytest.raises(LedgerError, match=r"probe.npz: unreadable"):
        bananas()
    (place / INDEX).write_text("{}")
    with pytest.raises(LedgerError, match=r"index.json: no index of models .Field required"):
        bananas()
    for silent in (str(place / "elsewhere"), "http://127.0.0.1:9"):
        monkeypatch.setenv("REPRO_MODELS", silent)
        with pytest.raises(LedgerError, match=f"REPRO_MODELS: {silent}/models/index.json: "):
            bananas()
    monkeypatch.delenv("REPRO_MODELS")
    with pytest.raises(LedgerError, match=r"there: no model.* .make reproduce PROFILE=smoke"):
        bananas()
    command = "study confirmation --seeds 16 --variants confirmed --models cc6m-mmcl_ssl"
    with pytest.raises(LedgerError, match=f"`python -m repro {command}`"):
        repro.load("mini", MODEL_NAME, 16)


def test_weights_that_are_not_the_archived_ones_are_refused(place: Path, trained: Path) -> None:
    study = {
        "question": "?", "profile": "smoke", "stages": ["pretrain"], "datasets": ["cc6m"],
        "clean_sizes": [], "losses": [], "reference": "same",
        "variants": {"same": {"pretrain_objectives": ["mmcl_ssl"], "seeds": [0], "why": "as it is"}},
    }  # fmt: skip
    YAML(typ="safe").dump(study, Path("specs/studies/again.yaml"))
    _, record, _ = next(read_results(trained / RESULTS))
    named = record.spec.model_copy(update={"variant": "same"})

    def archive(digest: str) -> None:
        files = {"model.safetensors": digest}
        archived = record.model_copy(update={"spec": named, "files": files})
        write_archive(Path("results/studies/again.jsonl.gz"), [(archived, [])])

    archive(record.files["model.safetensors"])
    assert bananas() == 3

    archive("0" * 64)
    with pytest.raises(LedgerError, match=r"not the model of results/studies/again.jsonl"):
        bananas()


def test_a_study_trains_one_model_by_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs").symlink_to(root / "specs")
    call = ["study", "confirmation", "--seeds", "15", "--variants", "confirmed", "--models"]
    assert main([*call, "cc9m-mmcl"]) == 2
    assert "--models: cc9m-mmcl (allowed: cc3m-mmcl, cc3m-mmcl_ssl," in capsys.readouterr().err
