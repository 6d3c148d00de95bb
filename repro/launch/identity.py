"""What a run is: its specification, the content of its inputs and the code that computes it, in one fingerprint.

Everything about a run that is not published yet lies in `work/<fingerprint>/`. Two runs that differ in anything that
can change their outcome never share a folder, so a changed learning rate cannot continue from stale state.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import repro
from repro.ledger import RunRecord, replace_file
from repro.profile import SPECS
from repro.spec import RunSpec, digest

WORK = Path("work")
ENTRY = "repro.worker"
"""The module whose code, with all it imports of the package, determines results; how inputs were made shows in their hashes."""
METRIC_FIELDS = {"evaluate": {"asr_cap", "confidence"}, "switches": {"asr_denominator"}}
"""Fields of a RunSpec that only the reading of the ledger depends on: changing them retrains nothing."""
ACCOUNTS = {"run.json", "accounting.json"}
"""Files that tell how a folder was made and may differ between two makings of the same content."""
LIBRARIES = ("torch", "torchvision", "open_clip_torch", "transformers", "numpy", "pillow", "sacred")


class LaunchError(RuntimeError):
    """Runs that cannot start or did not end well; the message says which, why and what to do."""


@dataclass(frozen=True)
class Run:
    """One training run, ready to start."""

    spec: RunSpec
    fingerprint: str
    inputs: dict[str, dict[str, str]]
    """Input name to `{"path": relative path, "hash": content hash}`."""
    code: str

    @property
    def name(self) -> str:
        """Stage, cell and run id, for people."""
        return f"{self.spec.stage} {self.spec.cell} {self.spec.run_id}"

    @property
    def work_dir(self) -> Path:
        """Folder of the run's checkpoints and pending results."""
        return WORK / self.fingerprint

    def save(self) -> None:
        """Write `spec.json` into the work folder."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        content = {"spec": self.spec.model_dump(mode="json"), "fingerprint": self.fingerprint, "inputs": self.inputs, "code": self.code}
        replace_file(self.work_dir / "spec.json", json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, fingerprint: str) -> Run:
        """Read back what `save` wrote."""
        content = json.loads((WORK / fingerprint / "spec.json").read_bytes())
        return cls(RunSpec.model_validate(content["spec"]), content["fingerprint"], content["inputs"], content["code"])

    def record(self, outcome: dict[str, Any], sacred: str | None) -> RunRecord:
        """The run's record from the worker's `outcome.json`; whatever a dead worker could not tell is zero."""
        commit, dirty = commit_state()
        told: dict[str, Any] = {
            "reason": "", "ranks": 1, "threads": 1, "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0, "train_seconds": 0.0, "evaluate_seconds": 0.0, "data_wait_seconds": 0.0,
            "peak_memory_bytes": 0, "num_samples": 0, "model_step": 0, "attempts": 1,
        }  # fmt: skip
        told |= {name: value for name, value in outcome.items() if name in RunRecord.model_fields}
        return RunRecord(
            spec=self.spec, fingerprint=self.fingerprint, inputs={name: item["hash"] for name, item in self.inputs.items()},
            code=self.code, commit=commit, dirty=dirty, environment=environment(), sacred=sacred, **told,
        )  # fmt: skip

    def finished(self) -> RunRecord | None:
        """The record in the work folder once the run has ended, however it ended."""
        path = self.work_dir / "record.json"
        return RunRecord.model_validate_json(path.read_bytes()) if path.exists() else None


def identify(spec: RunSpec, inputs: dict[str, Path], code: str) -> Run:
    """Hash the inputs and compute the fingerprint; LaunchError names an input that is not there."""
    hashed = {}
    for name, path in sorted(inputs.items()):
        if not path.exists():
            raise LaunchError(f"{path}: missing (input `{name}` of {spec.stage} {spec.cell}); run the stage that makes it first")
        hashed[name] = {"path": path.as_posix(), "hash": content_hash(path)}
    unnamed = spec.model_copy(update={"variant": ""})  # a study's run is that of the graph if nothing but its name differs
    computed = unnamed.model_dump(mode="json", exclude=METRIC_FIELDS)
    content = {"spec": computed, "inputs": {name: item["hash"] for name, item in hashed.items()}, "code": code}
    return Run(spec, digest(content), hashed, code)


def standard_inputs(spec: RunSpec) -> dict[str, Path]:
    """Where the inputs of a run lie, relative to the repository."""
    data = Path("data") / spec.profile
    # The cleaning sets lie in the poisoned store; the control is only pre-trained on other pairs.
    pairs = Path("poisoned") / spec.profile / spec.dataset if spec.poisoned or spec.stage == "clean" else data / spec.dataset
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
        kept = [name for name in names if name.name not in ACCOUNTS and not any(part.startswith(".") for part in name.parts)]
        result = digest([[name.as_posix(), file_hash(path / name)] for name in kept])
    if len(memory) != known:
        WORK.mkdir(exist_ok=True)
        replace_file(memory_path, json.dumps(memory).encode())
    return result


def code_version() -> str:
    """Hash of the code that determines results; comments, docstrings and formatting do not count."""
    root = Path(repro.__file__).parent.parent
    trees: dict[str, ast.AST] = {}
    todo = [ENTRY]
    while todo:
        module = todo.pop()
        path = root / (module.replace(".", "/") + ".py")
        if module not in trees and path.is_file():
            trees[module] = ast.parse(path.read_bytes())
            todo += _imports(trees[module])
    return digest([[module, syntax(tree)] for module, tree in sorted(trees.items())])


def _imports(tree: ast.AST) -> list[str]:
    """Modules of the package that a module imports, `from repro import x` as `repro.x`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "repro":
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def syntax(node: Any) -> Any:
    """A syntax tree as nested lists, without empty fields and bare strings; equal across Python versions."""
    if isinstance(node, list):
        return [syntax(item) for item in node if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))]
    if isinstance(node, ast.AST):
        fields = [[name, syntax(value)] for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *fields]
    return repr(node)


def spec_hash(profile: str) -> str:
    """Hash of every file that a profile is read from: DVC hashes them after a stage, so the stage must notice edits."""
    files = [file for folder in (profile, "protocols", "classnames") for file in sorted((SPECS / folder).glob("*")) if file.is_file()]
    return digest([[file.as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()] for file in files])


def commit_state() -> tuple[str | None, bool]:
    """Commit of the checkout and whether tracked files differ from it; (None, False) outside a git checkout."""
    git = ["git", "-C", str(Path(repro.__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None, False
    return commit, bool(changes.strip())


def environment() -> dict[str, str]:
    """Versions and device, without host name or path."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}", "device": _device()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _device() -> str:
    """Model name of the first GPU, else of the processor."""
    for pattern, field in (("/proc/driver/nvidia/gpus/*/information", "Model:"), ("/proc/cpuinfo", "model name")):
        for path in sorted(Path("/").glob(pattern[1:])):
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith(field):
                    return line.split(":", 1)[1].strip()
    return f"{platform.machine()} with {os.cpu_count()} cores"
