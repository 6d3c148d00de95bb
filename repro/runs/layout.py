"""Where things lie, and the hashes of what lies there."""

from __future__ import annotations

from pathlib import Path

from repro.files import file_sha256
from repro.spec import RunSpec, digest

DATA, POISONED, MODELS = Path("data"), Path("poisoned"), Path("models")
RESULTS, REPORT, WORK = Path("results"), Path("report"), Path("work")
ACCOUNTS = {"run.json", "accounting.json"}
"""Files that tell how a folder was made and may differ between two makings of the same content."""


def standard_inputs(spec: RunSpec) -> dict[str, Path]:
    """Where the inputs of a run lie, relative to the repository."""
    data = DATA / spec.profile
    # The cleaning sets lie in the poisoned store; the control is only pre-trained on other pairs.
    pairs = (
        POISONED / spec.profile / spec.dataset
        if spec.poisoned or spec.stage == "clean"
        else data / spec.dataset
    )
    inputs = {
        "pairs": pairs,
        "evaluation": data / "evaluation",
        "synonyms": data / "synonyms.json",
    }
    if spec.stage == "clean":
        inputs["model"] = model_dir(spec)
    return inputs


def model_dir(spec: RunSpec) -> Path:
    """Folder of the pre-trained model that this run makes or cleans:
    `models/<profile>/<cell>/seed<k>`.

    Models of studies lie apart, in `models/studies/`, for the main ones are an output of the graph.
    """
    parts = [spec.variant] * bool(spec.variant) + ["control"] * (not spec.poisoned)
    root = MODELS / "studies" if parts else MODELS
    return root / spec.profile / spec.cell / "-".join([*parts, f"seed{spec.seed}"])


def content_hash(path: Path) -> str:
    """Hash of a file's bytes, or of a folder's names and files (hidden files and accounts of the
    making left out).

    Every process reads each file once (`repro.files.file_sha256`); nothing is remembered from one
    call to the next.
    """
    if path.is_file():
        return file_sha256(path)[:16]
    names = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    kept = [
        name
        for name in names
        if name.name not in ACCOUNTS and not any(part.startswith(".") for part in name.parts)
    ]
    return folder_hash({name.as_posix(): file_sha256(path / name) for name in kept})


def folder_hash(files: dict[str, str]) -> str:
    """Content hash of a folder with these files, relative name to SHA-256."""
    return digest([[name, files[name]] for name in sorted(files)])


def results_dir(spec: RunSpec, results: Path) -> Path:
    """Folder that holds the published runs of the spec's stage and cell."""
    return results / spec.profile / spec.stage / spec.cell
