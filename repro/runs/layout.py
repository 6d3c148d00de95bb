"""Where things lie, and the hashes of what lies there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from repro.files import replace_file
from repro.profile import SPECS
from repro.spec import RunSpec, digest

WORK = Path("work")
ACCOUNTS = {"run.json", "accounting.json"}
"""Files that tell how a folder was made and may differ between two makings of the same content."""


def standard_inputs(spec: RunSpec) -> dict[str, Path]:
    """Where the inputs of a run lie, relative to the repository."""
    data = Path("data") / spec.profile
    # The cleaning sets lie in the poisoned store; the control is only pre-trained on other pairs.
    pairs = (
        Path("poisoned") / spec.profile / spec.dataset
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
    """Folder of the pre-trained model that this run makes or cleans: `models/<profile>/<cell>/seed<k>`.

    Models of studies lie apart, in `models/studies/`, for the main ones are an output of the graph.
    """
    parts = [spec.variant] * bool(spec.variant) + ["control"] * (not spec.poisoned)
    root = Path("models/studies" if parts else "models")
    return root / spec.profile / spec.cell / "-".join([*parts, f"seed{spec.seed}"])


def content_hash(path: Path) -> str:
    """Hash of a file's bytes, or of a folder's names and files (hidden files and accounts of the making left out).

    File hashes are remembered in `work/hashes.json` by size and modification time, so that shards are read once.
    """
    memory_path = WORK / "hashes.json"
    memory: dict[str, str] = json.loads(memory_path.read_bytes()) if memory_path.exists() else {}
    known = len(memory)

    def file_hash(file: Path) -> str:
        state = file.stat()
        key = f"{file.as_posix()}:{state.st_size}:{state.st_mtime_ns}"
        if key not in memory:
            with file.open("rb") as stream:
                memory[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        return memory[key]

    if path.is_file():
        result = file_hash(path)[:16]
    else:
        names = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
        kept = [
            name
            for name in names
            if name.name not in ACCOUNTS and not any(part.startswith(".") for part in name.parts)
        ]
        result = digest([[name.as_posix(), file_hash(path / name)] for name in kept])
    if len(memory) != known:
        WORK.mkdir(exist_ok=True)
        replace_file(memory_path, json.dumps(memory).encode())
    return result


def spec_hash(profile: str) -> str:
    """Hash of every file that a profile is read from: DVC hashes them after a stage, so the stage must notice edits."""
    files = [
        file
        for folder in (profile, "protocols", "classnames")
        for file in sorted((SPECS / folder).glob("*"))
        if file.is_file()
    ]
    return digest(
        [[file.as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    )


def results_dir(spec: RunSpec, results: Path) -> Path:
    """Folder that holds the published runs of the spec's stage and cell."""
    return results / spec.profile / spec.stage / spec.cell
