"""A small synthetic study for tests of the report: specifications and a ledger written through
repro.ledger.

Outcomes follow a formula of learning rate, loss and epoch, and a keyed generator draws the images
they fall on, so that the numbers are the same everywhere. Nothing here is a result.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from repro.files import file_sha256
from repro.ledger import RunRecord, append_row, sample_images
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.document import build_document, claims_of, plain
from repro.report.numbers.evidence import read_evidence
from repro.runs.published import export_run, write_record
from repro.runs.version import accepted_codes
from repro.spec import Profile, RunSpec
from repro.study.spec import Study
from tests.support.stub_worker import row_of_run

ROOT = Path(__file__).parents[2]
IMAGES = 400
EVALUATIONS = 4
START = {"mmcl": (0.40, 0.97), "mmcl_ssl": (0.45, 0.96)}


def write_specs(root: Path) -> Profile:
    """Copy specs/ to `root`; the profile `mini` of the copy, of seed 0, without any result."""
    shutil.copytree(ROOT / "specs", root / "specs")

    # Which seeds the project reports on is no matter of these tests.
    path = root / "specs/mini.yaml"
    path.write_text(re.sub(r"^  seeds: .*$", "  seeds: [0]", path.read_text(), flags=re.MULTILINE))
    return load_profile("mini", root / "specs")


def write_study(root: Path) -> Profile:
    """Specifications and a ledger of every run that the profile `mini` asks for."""
    profile = write_specs(root)
    runs = [*pretrain_runs(profile), *clean_runs(profile)]
    strongest = max(spec.schedule.learning_rate for spec in runs if spec.stage == "clean")
    for spec in runs:
        relative_rate = spec.schedule.learning_rate / strongest
        write_run(
            root,
            spec,
            [outcome(spec, step / (EVALUATIONS - 1), relative_rate) for step in range(EVALUATIONS)],
        )
    return profile


def write_run(
    root: Path, spec: RunSpec, outcomes: list[tuple[float, float]], *, status: str = "completed"
) -> Path:
    """Write one run; `outcomes` are (accuracy, ASR) per evaluation, the start first."""
    fingerprint = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]
    # By the names of the run, so that a new field of specifications changes no outcome.
    name = hashlib.sha256(f"{spec.stage} {spec.cell} {spec.run_id}".encode()).hexdigest()
    work = root / "work" / fingerprint
    work.mkdir(parents=True)
    is_target = np.arange(IMAGES) < 2
    order = np.random.Generator(np.random.PCG64(7)).permutation(IMAGES)
    # Terms of the loss differ a little from model to model.
    spread = int(name[:4], 16) / 2**20
    losses = {
        "mmcl": 0.7 + spread,
        "ssl": (0.3 if spec.pretrain_objective == "mmcl_ssl" else 2.0) + spread,
    }
    for step, (accuracy, asr) in enumerate(outcomes):
        jitter = np.random.Generator(np.random.PCG64([step, int(name[:8], 16)]))
        correct = _pick(order, accuracy, jitter)
        attacked = _pick(order[::-1], asr, jitter)
        row = row_of_run(
            spec,
            fingerprint,
            epoch=step * spec.schedule.epochs / 3,
            step=10 * step,
            num_images=IMAGES,
            num_correct=int(correct.sum()),
            num_attacked=int(attacked.sum()),
            num_target=2,
            num_target_attacked=int((attacked & is_target).sum()),
            sample_classes=[0] * len(sample_images(IMAGES)),
            sample_classes_triggered=[1] * len(sample_images(IMAGES)),
            train_loss=None if step == 0 else {"loss": 1.0} | losses,
            logit_scale=20.0,
            step_learning_rate=spec.schedule.learning_rate,
            seconds=float(step),
        )
        append_row(work, row, correct, attacked, is_target, np.arange(IMAGES) % 3 == 0)
    model_hash = hashlib.sha256(f"{spec.cell} {spec.seed}".encode()).hexdigest()[:16]
    model = {"model": model_hash} if spec.stage == "clean" else {}
    record = record_of(
        spec,
        fingerprint=fingerprint,
        inputs={"pairs": "0123456789abcdef", "evaluation": "fedcba9876543210", **model},
        status=status,
        reason="" if status == "completed" else "loss is not finite at step 3",
        model_step=10 * (len(outcomes) - 1),
        model_hash=model_hash if spec.stage == "pretrain" else "",
    )
    folder = export_run(work, record, root / "results" / spec.profile / spec.stage / spec.cell)
    shutil.rmtree(work)
    return folder


def record_of(spec: RunSpec, **told: Any) -> RunRecord:
    """The record of a made-up run; `told`: fields of it, above all how it ended."""
    fields: dict[str, Any] = {
        "fingerprint": "",
        "inputs": {},
        "code": next(iter(accepted_codes())),
        "commit": "0" * 40,
        "dirty": False,
        "status": "completed",
        "reason": "",
        "environment": {"python": "3.11", "torch": "2.13", "device": "cpu"},
        "ranks": 1,
        "threads": 1,
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 30.0,
        "train_seconds": 20.0,
        "evaluate_seconds": 9.0,
        "data_wait_seconds": 1.0,
        "peak_memory_bytes": 500_000_000,
        "num_samples": 4000,
        "model_step": 0,
        "attempts": 1,
        "sacred": f"{spec.profile}/1",
    }
    return RunRecord(spec=spec, **(fields | told))


def study_spec(variants: dict[str, dict[str, Any]], **changed: Any) -> Study:
    """A study of `mini` by its overrides, one variant a name: CleanCLIP of CC3M models, seed 0."""
    whole = {
        name: {
            "overrides": overrides,
            "models": None,
            "poisoned": True,
            "pretrain_objectives": ["mmcl", "mmcl_ssl"],
            "seeds": [0],
            "why": "as it is",
        }
        for name, overrides in variants.items()
    }
    fields: dict[str, Any] = {
        "question": "Does it matter?",
        "profile": "mini",
        "stages": ["pretrain", "clean"],
        "datasets": ["cc3m"],
        "clean_sizes": ["100k"],
        "losses": ["mmcl_ssl"],
        "reference": next(iter(whole)),
        "variants": whole,
    }
    return Study.model_validate({**fields, **changed})


def write_study_spec(root: Path, name: str, variants: dict[str, dict[str, Any]]) -> None:
    """Write a study of every cell as `specs/studies/<name>.yaml`; JSON is YAML."""
    path = root / "specs" / "studies" / f"{name}.yaml"
    study = study_spec(
        variants,
        datasets=["cc3m", "cc6m"],
        clean_sizes=["100k", "200k"],
        losses=["mmcl", "ssl", "mmcl_ssl"],
    )
    path.write_text(study.model_dump_json())


def reseal(folder: Path, **changes: Any) -> None:
    """Change fields of a published run's record, and make it tell the rows and bits that lie beside
    it.
    """
    record = RunRecord.model_validate_json((folder / "run.json").read_bytes())
    lines = (folder / "rows.jsonl").read_bytes().splitlines()
    told = {
        "files": {name: file_sha256(folder / name) for name in ("rows.jsonl", "bits.npz")},
        "num_rows": len(lines),
        "last_step": json.loads(lines[-1])["step"],
    }
    write_record(folder / "run.json", record.model_copy(update=told | changes))


def document_at(root: Path, profile: Profile) -> dict[str, Any]:
    """The document of the ledger at `root` as JSON content, with the claims file of the copy."""
    document: dict[str, Any] = plain(build_document(read_evidence(profile, root), claims_of(root)))
    return document


def row_of(document: dict[str, Any], dataset: str, size: str, objective: str) -> dict[str, Any]:
    """The row of Table 1."""
    names, wanted = ("dataset", "clean_size", "pretrain_objective"), [dataset, size, objective]
    rows = document["tables"]["table1"]["rows"]
    (found,) = (row for row in rows if [row[name] for name in names] == wanted)
    return dict(found)


def _pick(order: np.ndarray, share: float, jitter: np.random.Generator) -> np.ndarray:
    """`share` of the images: mostly the first in `order`, so that evaluations of one model agree on
    most images.
    """
    chosen = np.zeros(IMAGES, bool)
    chosen[
        order[np.argsort(np.arange(IMAGES) + jitter.normal(0, 12, IMAGES))[: round(share * IMAGES)]]
    ] = True
    return chosen


def outcome(spec: RunSpec, progress: float, relative_rate: float) -> tuple[float, float]:
    """Accuracy and ASR: stronger rates clean more and cost more, and cost more after MMCL + SSL
    pre-training.
    """
    accuracy, asr = START.get(spec.pretrain_objective, START["mmcl"])
    if spec.stage == "pretrain":
        return accuracy * max(0.02, progress), asr * max(0.02, progress)
    strength = relative_rate**0.5 * min(1.0, 3 * progress)
    cost = {
        "mmcl": 0.25,
        "ssl": 0.9,
        "mmcl_ssl": 0.04 if spec.pretrain_objective == "mmcl" else 0.5,
    }[spec.loss]
    power = {"mmcl": 0.6, "ssl": 1.0, "mmcl_ssl": 1.0}[spec.loss]
    return accuracy * (1 - cost * strength), max(0.0, asr * (1 - power * 1.05 * strength))
