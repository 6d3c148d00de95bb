"""Where runs, models and their inputs lie, relative to the repository."""

from collections.abc import Callable
from pathlib import Path

from repro.data.stages import DATA as DATA
from repro.data.stages import POISONED as POISONED
from repro.files import file_sha256
from repro.spec import RunSpec, digest

MODELS, RESULTS, WORK = Path("models"), Path("results"), Path("work")
WEIGHTS = ("model.safetensors", "optimizer.safetensors")
STATUS = "status.json"
"""File of a work folder: how far the run is, for those who watch."""
InputsOf = Callable[[RunSpec], dict[str, Path]]
"""Where the inputs of a run lie, by name."""


def standard_inputs(
    spec: RunSpec, data: Path | None = None, poisoned: Path | None = None
) -> dict[str, Path]:
    """Where the inputs of a run lie; `data` and `poisoned` are the profile's folders if None."""
    data = data or DATA / spec.profile
    # The cleaning sets lie in the poisoned store; the control is only pre-trained on other pairs.
    from_poisoned = spec.poisoned or spec.stage == "clean"
    inputs = {
        "pairs": (poisoned or POISONED / spec.profile if from_poisoned else data) / spec.dataset,
        "evaluation": data / "evaluation",
        "synonyms": data / "synonyms.json",
    }
    if spec.stage == "clean":
        inputs["model"] = model_dir(spec)
    return inputs


def model_dir(spec: RunSpec) -> Path:
    """Folder of the pre-trained model that this run makes or cleans:
    `models/<profile>/<model name>/seed<k>`.

    Models of studies lie apart, in `models/studies/`, for the main ones are an output of the graph.
    """
    apart = spec.variant or not spec.poisoned
    root = MODELS / "studies" if apart else MODELS
    return root / spec.profile / spec.model_name / spec.model_id


def cleaned_file(spec: RunSpec) -> Path:
    """The best cleaned model of the run's setting and seed (`Row.rank`)."""
    name = f"{spec.clean_size}-seed{spec.seed}.safetensors"
    return MODELS / spec.profile / "cleaned" / spec.model_name / name


def results_dir(spec: RunSpec, results: Path) -> Path:
    """Folder that holds the published runs of the spec's stage and model name."""
    return results / spec.profile / spec.stage / spec.model_name


def content_hash(path: Path) -> str:
    """Hash of a file's bytes, or of the weights in a model's folder, 16 hex digits."""
    if path.is_file():
        return file_sha256(path)[:16]
    return folder_hash({file.name: file_sha256(file) for file in path.glob("*.safetensors")})


def folder_hash(files: dict[str, str]) -> str:
    """Hash of a folder with these files, name to SHA-256."""
    return digest([[name, files[name]] for name in sorted(files)])
