"""Models of a release: the folder `models/` that `make publish` packs, and how they are read back.

REPRO_MODELS names an unpacked release, a folder or the http address of a static server. Its index
has the hash of every model, and what the model answers on a hundred evaluation images that lie
beside it, with and without the trigger: weights that were trained well and are loaded wrong show.
"""

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file

from repro.data.templates import templates_of
from repro.evaluate.images import EvaluationSet
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import evaluating, predict
from repro.files import file_sha256, replace_file
from repro.ledger import Counts, LedgerError, Row
from repro.profile import load_classnames, load_profile
from repro.runs.layout import DATA, MODELS, WORK
from repro.runs.version import accepted_codes
from repro.spec import CleanSize, RunSpec
from repro.train.build import build_model

PLACE = "REPRO_MODELS"
"""Environment variable: folder or http address of an unpacked release."""
INDEX, PROBE = "models/index.json", "models/probe.npz"
PROBED = 100
"""Images in PROBE, spread evenly over the evaluation images."""
ROUNDING = 2
"""Images on which processors may differ: sums are rounded in different orders."""
SECONDS = 30.0
"""Wait for a server."""


class Released(BaseModel):
    """A model of a release."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=r"^[\w-]+\.safetensors$")
    model_name: str
    seed: int
    clean: CleanSize | None
    """None for the poisoned model."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    code: str
    """Digest of the code that made it."""
    counts: Counts
    """Over all evaluation images."""
    probed: tuple[int, int]
    """Of the images of PROBE: those classified right, and those attacked with success."""


class Index(BaseModel):
    """`models/index.json` of a release."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    profile: str
    models: list[Released]


class Probe:
    """Images of PROBE, their twins with the trigger, and the classes, in words."""

    def __init__(self, profile: str, arrays: dict[str, NDArray[np.generic]]) -> None:
        """`arrays`: `images` and `triggered` (n, H, W, 3) uint8, `labels` (n,), `target` ()."""
        loaded = load_profile(profile)
        names = load_classnames(loaded)
        templates = templates_of(loaded.evaluate)
        self.arrays = arrays
        self.prompts = PromptSet(names, templates, loaded.switches.truncation)

    @classmethod
    def of(cls, spec: RunSpec) -> "Probe":
        """From the evaluation images of the profile, which must be there."""
        target = load_classnames(load_profile(spec.profile)).index(spec.target_class)
        folder = DATA / spec.profile / "evaluation"
        images = EvaluationSet.of_run(spec, folder, target, WORK / "cache")
        chosen = np.unique(np.linspace(0, len(images) - 1, PROBED).astype(int))
        one_by_one = [range(number, number + 1) for number in chosen.tolist()]
        pairs = [*images.batches(one_by_one, 0, torch.device("cpu"))]
        arrays = {
            "images": torch.cat([clean for clean, _ in pairs]).numpy(),
            "triggered": torch.cat([twin for _, twin in pairs]).numpy(),
            "labels": images.labels[chosen],
            "target": np.array(target),
        }
        return cls(spec.profile, arrays)

    def answers(self, model: CLIP, spec: RunSpec) -> tuple[int, int]:
        """Images that the model classifies right, and those whose twins it takes for the target."""
        device = torch.device("cpu")
        images = torch.from_numpy(self.arrays["images"])
        twins = torch.from_numpy(self.arrays["triggered"])
        with evaluating(model, spec.evaluation_precision, device):
            classifier = self.prompts.classifier(model, device)
            clean = predict(model, images, classifier).numpy()
            triggered = predict(model, twins, classifier).numpy()
        right = clean == self.arrays["labels"]
        attacked = triggered == self.arrays["target"]
        return int(right.sum()), int(attacked.sum())

    def content(self) -> bytes:
        """As a file."""
        stream = io.BytesIO()
        np.savez_compressed(stream, **self.arrays)  # type: ignore[arg-type]  # as in write_store
        return stream.getvalue()


def released(spec: RunSpec) -> tuple[Path, Released] | None:
    """The file of a model in the release that PLACE names, and its entry; None without PLACE.

    A file of a server is copied to `models/released/<profile>/`. LedgerError for a place that does
    not answer, a model that it lacks, or one that is not as its index says.
    """
    place = os.environ.get(PLACE, "").rstrip("/")
    if not place:
        return None
    try:
        index = Index.model_validate_json(_read(place, INDEX))
    except ValidationError as error:
        raise LedgerError(
            f"{place}/{INDEX}: no index of models ({error.errors()[0]['msg']})"
        ) from None
    wanted = (spec.model_name, spec.seed, spec.clean_size)
    names = [(of.model_name, of.seed, of.clean) for of in index.models]
    if index.profile != spec.profile or wanted not in names:
        listed = "; ".join(f"{name}, seed {seed}, {of or 'poisoned'}" for name, seed, of in names)
        raise LedgerError(
            f"{place}: has no {spec.model_name}, seed {spec.seed}, "
            f"{spec.clean_size or 'poisoned'} of profile {spec.profile} "
            f"(there, of {index.profile}: {listed})"
        )
    entry = index.models[names.index(wanted)]
    if entry.code not in accepted_codes():
        raise LedgerError(
            f"{place}/models/{entry.file}: made by code {entry.code}, whose digits were not found "
            "equal to those of this version"
        )

    name = f"models/{entry.file}"
    if not _is_address(place):
        path = Path(place, name)
        _check_hash(file_sha256(path) if path.is_file() else "missing", entry, path.as_posix())
        return path, entry
    path = MODELS / "released" / spec.profile / entry.file
    if not (path.is_file() and file_sha256(path) == entry.sha256):
        content = _read(place, name)
        _check_hash(hashlib.sha256(content).hexdigest(), entry, f"{place}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    return path, entry


def check_answers(model: CLIP, spec: RunSpec, entry: Released) -> None:
    """LedgerError if the model answers otherwise than its entry in the index says."""
    place = os.environ[PLACE].rstrip("/")
    try:
        with np.load(io.BytesIO(_read(place, PROBE)), allow_pickle=False) as file:
            probe = Probe(spec.profile, dict(file))
        right, attacked = probe.answers(model, spec)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise LedgerError(f"{place}/{PROBE}: unreadable ({error})") from None
    listed_right, listed_attacked = entry.probed
    off = max(abs(right - listed_right), abs(attacked - listed_attacked))
    if off > ROUNDING:
        images = len(probe.arrays["labels"])
        raise LedgerError(
            f"{place}/models/{entry.file}: of {images} evaluation images {right} are classified "
            f"right and {attacked} attacked (by its index: {listed_right} and {listed_attacked}): "
            "not the model of this profile"
        )


class Kept(NamedTuple):
    """A model that a release takes."""

    spec: RunSpec
    """Of its pre-training, or of a cleaning of its setting."""
    path: Path
    code: str
    row: Row
    """Its evaluation."""


def pack(folder: Path, kept: Sequence[Kept]) -> list[Released]:
    """Copy models into the folder of a release, with index and probe; returns the index."""
    if not kept:
        return []
    (folder / INDEX).parent.mkdir(parents=True)
    probe = Probe.of(kept[0].spec)
    entries = []
    for spec, path, code, row in kept:
        kind = f"cleaned-{spec.clean_size}" if spec.clean_size else "poisoned"
        name = f"{spec.model_name}-seed{spec.seed}-{kind}.safetensors"
        shutil.copy2(path, folder / "models" / name)
        entry = Released(
            file=name,
            model_name=spec.model_name,
            seed=spec.seed,
            clean=spec.clean_size,
            sha256=file_sha256(path),
            code=code,
            counts=Counts.model_validate(row.model_dump(include={*Counts.model_fields})),
            probed=probe.answers(load_model(spec, path), spec),
        )
        entries.append(entry)
    index = Index(profile=kept[0].spec.profile, models=entries)
    replace_file(folder / INDEX, (index.model_dump_json(indent=1) + "\n").encode())
    replace_file(folder / PROBE, probe.content())
    return entries


def load_model(spec: RunSpec, path: Path) -> CLIP:
    """The model with the weights of a file, in eval mode."""
    model = build_model(spec.model, spec.seed, spec.switches.initialisation)
    model.load_state_dict(load_file(path))
    return model.eval()


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _read(place: str, name: str) -> bytes:
    """A file of a release; LedgerError if it cannot be had."""
    try:
        if not _is_address(place):
            return Path(place, name).read_bytes()
        with urlopen(f"{place}/{quote(name)}", timeout=SECONDS) as answer:  # noqa: S310 (http alone)
            content: bytes = answer.read()
            return content
    except (URLError, OSError, ValueError) as error:
        raise LedgerError(f"{PLACE}: {place}/{name}: {error}") from None


def _check_hash(found: str, entry: Released, shown: str) -> None:
    if found != entry.sha256:
        raise LedgerError(f"{shown}: SHA-256 {found} (by the index of the release: {entry.sha256})")
