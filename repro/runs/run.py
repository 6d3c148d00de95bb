"""What a run is: its specification, what it reads of its inputs and the version of the results, in
one fingerprint.

Everything about a run that is not published yet lies in `work/<fingerprint>/`. Two runs that differ
in anything that can change their outcome never share a folder.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from repro.files import file_sha256, read_json, replace_json
from repro.ledger import CLEANED, Input, LedgerError, RunOutcome, RunRecord
from repro.runs.inputs import input_hash
from repro.runs.layout import WEIGHTS, WORK
from repro.runs.machine import commit_state, environment
from repro.runs.published import read_record
from repro.spec import RunSpec, digest

VERSION = 1
"""Raised when a change of the code is meant to change results: every run is then made again."""


class LaunchError(RuntimeError):
    """Runs that cannot start or did not end well; the message says which, why and what to do."""


@dataclass(frozen=True)
class Run:
    """One training run, ready to start."""

    spec: RunSpec
    fingerprint: str
    inputs: dict[str, Input]
    code: str
    """Digest of the code at the launch (`repro.edits.code_digest`)."""

    @property
    def name(self) -> str:
        """Stage, model name and run id, for people."""
        return f"{self.spec.stage} {self.spec.model_name} {self.spec.run_id}"

    @property
    def work_dir(self) -> Path:
        """Folder of the run's checkpoints and pending results."""
        return WORK / self.fingerprint

    @property
    def has_ended(self) -> bool:
        """Whether the work folder has a record of the run, however it ended."""
        return (self.work_dir / "record.json").exists()

    def save(self, work: Path = WORK) -> None:
        """Write `spec.json` into the run's folder below `work`."""
        folder = work / self.fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        content = asdict(self) | {"spec": self.spec.model_dump(mode="json")}
        replace_json(folder / "spec.json", content)

    @classmethod
    def load(cls, fingerprint: str, work: Path = WORK) -> Self:
        """Read back what `save` wrote; LaunchError if it is not there or torn."""
        path = work / fingerprint / "spec.json"
        content = read_json(path)
        if content is None:
            raise LaunchError(f"{path}: missing or damaged; run the stage again, which writes it")
        return cls(RunSpec.model_validate(content.pop("spec")), **content)

    def outcome(self) -> RunOutcome | None:
        """The worker's account of an ended run; None if there is none or it is torn."""
        return read_json(self.work_dir / "outcome.json")

    def record(self, outcome: RunOutcome, sacred: str | None) -> RunRecord:
        """The run's record from the worker's `outcome.json`; what that leaves out is zero."""
        commit, dirty = commit_state()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        content: RunOutcome = {"code": self.code, "started": now} | outcome
        return RunRecord(
            spec=self.spec,
            fingerprint=self.fingerprint,
            inputs={name: item["hash"] for name, item in self.inputs.items()},
            commit=commit,
            dirty=dirty,
            environment=environment(),
            sacred=sacred,
            **content,
        )

    def finished(self) -> RunRecord | None:
        """The record in the work folder once the run has ended, however it ended.

        A line names what is damaged of the record, or of the files whose hashes it has; the run
        then begins again.
        """
        if not self.has_ended:
            return None
        try:
            record = read_record(self.work_dir / "record.json")
            left = ("rows.jsonl", *(WEIGHTS if self.spec.stage == "pretrain" else ()))
            for name in left if record.status != "failed" else ():
                if file_sha256(self.work_dir / name) != record.files.get(name):
                    raise LedgerError(f"{self.work_dir / name}: not the file that the run left")
            return record
        except (LedgerError, OSError) as error:
            print(f"{self.name}: {error}; it is made again", flush=True)
            self.discard()
            return None

    def discard(self) -> None:
        """Remove what the ended run left in the work folder: it begins again."""
        names = ("record.json", "outcome.json", "rows.jsonl", CLEANED, *WEIGHTS)
        # One that was killed at its very end has left checkpoints.
        checkpoints = self.work_dir.glob("checkpoint-*")
        for path in (*(self.work_dir / name for name in names), *checkpoints):
            path.unlink(missing_ok=True)


def place_of(spec: RunSpec) -> str:
    """What names a run within its profile or study: stage, model name and run id."""
    return f"{spec.stage}/{spec.model_name}/{spec.run_id}"


def identify(spec: RunSpec, inputs: dict[str, Path], code: str) -> Run:
    """Hash the inputs and compute the fingerprint.

    LaunchError names an input that is not there, or a start model that its record does not know.
    """
    hashed: dict[str, Input] = {}
    for name, path in sorted(inputs.items()):
        if not path.exists():
            raise LaunchError(
                f"{path}: missing (input `{name}` of {spec.stage} {spec.model_name}); "
                "run the stage that makes it first"
            )
        hashed[name] = {"path": path.as_posix(), "hash": input_hash(path, spec)}
    if "model" in inputs:
        check_model(spec, inputs["model"], hashed["model"]["hash"])
    hashes = {name: item["hash"] for name, item in hashed.items()}
    return Run(spec, fingerprint_of(spec, hashes), hashed, code)


def fingerprint_of(spec: RunSpec, inputs: dict[str, str]) -> str:
    """Identity of a run, 16 hex digits; its names and the variant's are no part of it."""
    return digest({"spec": spec.computed(), "inputs": inputs, "results": VERSION})


def check_model(spec: RunSpec, folder: Path, content: str) -> None:
    """LaunchError unless the model, whose hash is `content`, is that of its record and name."""
    again = "run the stage `pretrain` again, which publishes it anew"
    try:
        record = read_record(folder / "run.json")
    except LedgerError as error:
        raise LaunchError(f"{error}; {again}") from None
    if record.model_hash != content or record.spec.model_name != spec.model_name:
        raise LaunchError(
            f"{folder}: its weights are not those of the run of {spec.model_name} in its run.json "
            f"(content {content}, allowed: {record.model_hash or 'none is recorded'}); {again}"
        )
