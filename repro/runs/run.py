"""What a run is: its specification, the content of its inputs and the code that computes it, in one fingerprint.

Everything about a run that is not published yet lies in `work/<fingerprint>/`. Two runs that differ in anything that
can change their outcome never share a folder, so a changed learning rate cannot continue from stale state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repro.files import replace_file
from repro.ledger import RunRecord
from repro.runs.layout import WORK, content_hash
from repro.runs.machine import commit_state, environment
from repro.spec import RunSpec, digest

METRIC_FIELDS = {"evaluate": {"asr_cap", "confidence"}, "switches": {"asr_denominator"}}
"""Fields of a RunSpec that only the reading of the ledger depends on: changing them retrains nothing."""


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
        content = {
            "spec": self.spec.model_dump(mode="json"),
            "fingerprint": self.fingerprint,
            "inputs": self.inputs,
            "code": self.code,
        }
        replace_file(self.work_dir / "spec.json", json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, fingerprint: str) -> Run:
        """Read back what `save` wrote."""
        content = json.loads((WORK / fingerprint / "spec.json").read_bytes())
        return cls(
            RunSpec.model_validate(content["spec"]),
            content["fingerprint"],
            content["inputs"],
            content["code"],
        )

    def record(self, outcome: dict[str, Any], sacred: str | None) -> RunRecord:
        """The run's record from the worker's `outcome.json`; whatever a dead worker could not tell is zero."""
        commit, dirty = commit_state()
        told: dict[str, Any] = {
            "reason": "",
            "ranks": 1,
            "threads": 1,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "train_seconds": 0.0,
            "evaluate_seconds": 0.0,
            "data_wait_seconds": 0.0,
            "peak_memory_bytes": 0,
            "num_samples": 0,
            "model_step": 0,
            "attempts": 1,
        }
        told |= {name: value for name, value in outcome.items() if name in RunRecord.model_fields}
        return RunRecord(
            spec=self.spec,
            fingerprint=self.fingerprint,
            inputs={name: item["hash"] for name, item in self.inputs.items()},
            code=self.code,
            commit=commit,
            dirty=dirty,
            environment=environment(),
            sacred=sacred,
            **told,
        )

    def finished(self) -> RunRecord | None:
        """The record in the work folder once the run has ended, however it ended."""
        path = self.work_dir / "record.json"
        return RunRecord.model_validate_json(path.read_bytes()) if path.exists() else None


def identify(spec: RunSpec, inputs: dict[str, Path], code: str) -> Run:
    """Hash the inputs and compute the fingerprint; LaunchError names an input that is not there."""
    hashed = {}
    for name, path in sorted(inputs.items()):
        if not path.exists():
            raise LaunchError(
                f"{path}: missing (input `{name}` of {spec.stage} {spec.cell}); run the stage that makes it first"
            )
        hashed[name] = {"path": path.as_posix(), "hash": content_hash(path)}
    unnamed = spec.model_copy(
        update={"variant": ""}
    )  # a study's run is that of the graph if nothing but its name differs
    computed = unnamed.model_dump(mode="json", exclude=METRIC_FIELDS)
    content = {
        "spec": computed,
        "inputs": {name: item["hash"] for name, item in hashed.items()},
        "code": code,
    }
    return Run(spec, digest(content), hashed, code)
