"""What a run is: its specification, the content of its inputs and the code that computes it, in one
fingerprint.

Everything about a run that is not published yet lies in `work/<fingerprint>/`. Two runs that differ
in anything that can change their outcome never share a folder, so a changed learning rate cannot
continue from stale state.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from repro.files import read_sealed, replace_file, sealed
from repro.ledger import Input, LedgerError, RunOutcome, RunRecord
from repro.runs.layout import WORK, content_hash, results_dir
from repro.runs.machine import commit_state, environment
from repro.runs.published import read_record
from repro.spec import RunSpec, digest

ACCEPT_CODE = "REPRO_ACCEPT_CODE"
"""Environment variable: hashes of older code, by commas; runs that began under it go on under
today's."""


class LaunchError(RuntimeError):
    """Runs that cannot start or did not end well; the message says which, why and what to do."""


@dataclass(frozen=True)
class Run:
    """One training run, ready to start."""

    spec: RunSpec
    fingerprint: str
    inputs: dict[str, Input]
    code: str
    accepted_code: str = ""
    """The older code that the fingerprint stands for, where the user accepted that `code` goes on
    with it."""

    @property
    def name(self) -> str:
        """Stage, cell and run id, for people."""
        return f"{self.spec.stage} {self.spec.cell} {self.spec.run_id}"

    @property
    def work_dir(self) -> Path:
        """Folder of the run's checkpoints and pending results."""
        return WORK / self.fingerprint

    def save(self, work: Path | None = None) -> None:
        """Write `spec.json` into the run's folder below `work`, by default WORK."""
        folder = (work or WORK) / self.fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "spec": self.spec.model_dump(mode="json"),
            "fingerprint": self.fingerprint,
            "inputs": self.inputs,
            "code": self.code,
            "accepted_code": self.accepted_code,
        }
        replace_file(folder / "spec.json", sealed(content))

    @classmethod
    def load(cls, fingerprint: str) -> Run:
        """Read back what `save` wrote; LaunchError if it is not there or damaged."""
        path = WORK / fingerprint / "spec.json"
        content = read_sealed(path)
        if content is None:
            raise LaunchError(f"{path}: missing or damaged; run the stage again, which writes it")
        return cls(
            RunSpec.model_validate(content["spec"]),
            content["fingerprint"],
            content["inputs"],
            content["code"],
            content["accepted_code"],
        )

    def outcome(self) -> RunOutcome | None:
        """The worker's account of the run, once it has ended it; None if there is none or it is
        damaged.
        """
        content = read_sealed(self.work_dir / "outcome.json")
        return None if content is None else cast(RunOutcome, content)

    def record(self, outcome: RunOutcome, sacred: str | None) -> RunRecord:
        """The run's record from the worker's `outcome.json`; whatever a dead worker could not tell
        is zero.
        """
        # What stays of these where the worker died before it could tell.
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
            accepted_code=self.accepted_code,
            commit=commit,
            dirty=dirty,
            environment=environment(),
            sacred=sacred,
            **told,
        )

    def finished(self) -> RunRecord | None:
        """The record in the work folder once the run has ended, however it ended; a damaged one
        counts as absent.
        """
        path = self.work_dir / "record.json"
        if not path.exists():
            return None
        try:
            return read_record(path)
        except LedgerError as error:
            print(f"warning: {error}; the record counts as absent", flush=True)
            path.unlink(missing_ok=True)
            return None


def identify(spec: RunSpec, inputs: dict[str, Path], code: str, results: Path | None = None) -> Run:
    """Hash the inputs and compute the fingerprint.

    Where the user accepted older code (ACCEPT_CODE) and a run of that code lies in the work folder,
    or is published below `results`, this is that run. LaunchError names an input that is not there,
    or a start model that its record does not know.
    """
    hashed: dict[str, Input] = {}
    for name, path in sorted(inputs.items()):
        if not path.exists():
            raise LaunchError(
                f"{path}: missing (input `{name}` of {spec.stage} {spec.cell}); "
                "run the stage that makes it first"
            )
        hashed[name] = {"path": path.as_posix(), "hash": content_hash(path)}
    if "model" in inputs:
        check_model(spec, inputs["model"], hashed["model"]["hash"])

    # Only contents count: the same input in another folder is the same run.
    hashes = {name: item["hash"] for name, item in hashed.items()}
    for older in accepted_codes():
        # Under the older hash, so that it finds the folder in which the run began.
        run = Run(spec, fingerprint_of(spec, hashes, older), hashed, code, older)
        if older != code and _is_known(run, results):
            return run
    return Run(spec, fingerprint_of(spec, hashes, code), hashed, code)


def fingerprint_of(spec: RunSpec, inputs: dict[str, str], code: str) -> str:
    """Identity of a run: a study's run is that of the graph if nothing but its name differs."""
    return digest({"spec": spec.computed(), "inputs": inputs, "code": code})


def _is_known(run: Run, results: Path | None) -> bool:
    """Whether the run has begun here, or is published."""
    if (run.work_dir / "spec.json").exists():
        return True

    if results is None:
        return False
    try:
        record = read_record(results_dir(run.spec, results) / run.spec.run_id / "run.json")
    except LedgerError:
        return False
    return record.fingerprint == run.fingerprint


def accepted_codes() -> list[str]:
    """Hashes of older code whose runs may go on; LaunchError if one is no hash."""
    hashes = [part.strip() for part in os.environ.get(ACCEPT_CODE, "").split(",") if part.strip()]
    for text in hashes:
        if not re.fullmatch(r"[0-9a-f]{16}", text):
            raise LaunchError(
                f"{ACCEPT_CODE}: {text!r} (allowed: hashes of 16 hex digits, `code` in a run.json)"
            )
    return hashes


def check_model(spec: RunSpec, folder: Path, found: str) -> None:
    """LaunchError unless the model in `folder` is the one that its record tells, and one that
    `spec` may clean.

    `found` is the content hash of the folder.
    """
    again = "run the stage `pretrain` again, which publishes it anew"
    try:
        record = read_record(folder / "run.json")
    except LedgerError as error:
        raise LaunchError(f"{error}; {again}") from None
    if record.model_hash != found:
        raise LaunchError(
            f"{folder}: its weights are not those of the run in its run.json "
            f"(content {found}, allowed: {record.model_hash or 'none is recorded'}); {again}"
        )

    # Whole, but perhaps of another dataset, objective or seed.
    of, wanted = record.spec, spec
    if (of.cell, of.seed, of.poisoned) != (wanted.cell, wanted.seed, wanted.poisoned):
        raise LaunchError(
            f"{folder}: holds the model of {of.cell} {of.run_id} "
            f"(allowed: {wanted.cell}, seed {wanted.seed}); {again}"
        )
