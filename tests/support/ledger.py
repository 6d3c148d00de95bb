"""A synthetic study: outcomes by a formula of rate, loss and epoch, on images drawn by key."""

import hashlib
import json
import re
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np

from repro.files import file_sha256
from repro.ledger import Counts, RunRecord, append_row, count_outcomes, sample_images
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.claims import load_claims
from repro.report.document import build_document, plain
from repro.report.evidence import read_evidence
from repro.report.studies import read_study_results
from repro.runs.published import export_run, write_record
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
        rate = spec.schedule.learning_rate / strongest
        steps = np.linspace(0, 1, EVALUATIONS)
        write_run(root, spec, [outcome(spec, step, rate) for step in steps.tolist()])
    return profile


def write_run(
    root: Path, spec: RunSpec, outcomes: list[tuple[float, float]], *, status: str = "completed"
) -> Path:
    """Write one run; `outcomes` are (accuracy, ASR) per evaluation, the start first."""
    fingerprint = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]
    # By the names of the run, so that a new field of specifications changes no outcome.
    name = hashlib.sha256(f"{spec.stage} {spec.model_name} {spec.run_id}".encode()).hexdigest()
    work = root / "work" / fingerprint
    work.mkdir(parents=True)
    is_target = np.arange(IMAGES) < 2
    order = np.random.Generator(np.random.PCG64(7)).permutation(IMAGES)
    # Terms of the loss differ a little from model to model.
    spread = int(name[:4], 16) / 2**20
    ssl = 0.3 if spec.pretrain_objective == "mmcl_ssl" else 2.0
    losses = {"mmcl": 0.7 + spread, "ssl": ssl + spread}
    for step, (accuracy, asr) in enumerate(outcomes):
        jitter = np.random.Generator(np.random.PCG64([step, int(name[:8], 16)]))
        correct = _pick(order, accuracy, jitter)
        attacked = _pick(order[::-1], asr, jitter)
        seen = correct, attacked, is_target
        held_out = count_outcomes(*(part[::3] for part in seen))
        counts = {
            "num_images": IMAGES,
            "validation": Counts(num_images=len(is_target[::3]), **held_out),
            **count_outcomes(*seen),
        }
        samples = len(sample_images(IMAGES))
        classes = {"sample_classes": [0] * samples, "sample_classes_triggered": [1] * samples}
        place = {
            "epoch": step * spec.schedule.epochs / 3,
            "step": 10 * step,
            "seconds": float(step),
        }
        rate = {"logit_scale": 20.0, "step_learning_rate": spec.schedule.learning_rate}
        loss = {"train_loss": None if step == 0 else {"loss": 1.0} | losses}
        row = row_of_run(spec, fingerprint, **counts, **classes, **place, **rate, **loss)
        append_row(work, row)
    model_hash = hashlib.sha256(f"{spec.model_name} {spec.seed}".encode()).hexdigest()[:16]
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
    folder = export_run(
        work, record, root / "results" / spec.profile / spec.stage / spec.model_name
    )
    shutil.rmtree(work)
    return folder


def record_of(spec: RunSpec, **told: Any) -> RunRecord:
    """The record of a made-up run; `told`: fields of it, above all how it ended."""
    fields: dict[str, Any] = {
        "code": "0" * 16,
        "commit": "0" * 40,
        "dirty": False,
        "environment": {"python": "3.11", "torch": "2.13", "device": "cpu"},
        "fingerprint": "",
        "inputs": {},
        "ranks": 1,
        "threads": 1,
        "attempts": 1,
        "status": "completed",
        "reason": "",
        "num_samples": 4000,
        "model_step": 0,
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 30.0,
        "train_seconds": 20.0,
        "evaluate_seconds": 9.0,
        "data_wait_seconds": 1.0,
        "peak_memory_bytes": 500_000_000,
        "sacred": f"{spec.profile}/1",
    }
    return RunRecord(spec=spec, **(fields | told))


def study_spec(variants: dict[str, dict[str, Any]], **changed: Any) -> Study:
    """A study of `mini` by its overrides, one variant a name: CleanCLIP of CC3M models, seed 0."""
    plain: dict[str, Any] = {
        "models": None,
        "pretrain_objectives": ["mmcl", "mmcl_ssl"],
        "poisoned": True,
        "seeds": [0],
        "why": "as it is",
    }
    study = {
        "question": "Does it matter?",
        "profile": "mini",
        "stages": ["pretrain", "clean"],
        "datasets": ["cc3m"],
        "clean_sizes": ["100k"],
        "losses": ["mmcl_ssl"],
        "reference": next(iter(variants)),
        "variants": {name: {**plain, "overrides": of} for name, of in variants.items()},
    }
    return Study.model_validate(study | changed)


def write_study_spec(root: Path, name: str, variants: dict[str, dict[str, Any]]) -> None:
    """Write a study of every cell as `specs/studies/<name>.yaml`; JSON is YAML."""
    cells = {"datasets": ["cc3m", "cc6m"], "clean_sizes": ["100k", "200k"]}
    study = study_spec(variants, **cells, losses=["mmcl", "ssl", "mmcl_ssl"])
    (root / "specs" / "studies" / f"{name}.yaml").write_text(study.model_dump_json())


def reseal(folder: Path, **changes: Any) -> None:
    """Change fields of a published record, and make it fit the rows beside it."""
    record = RunRecord.model_validate_json((folder / "run.json").read_bytes())
    lines = (folder / "rows.jsonl").read_bytes().splitlines()
    told = {
        "files": {"rows.jsonl": file_sha256(folder / "rows.jsonl")},
        "num_rows": len(lines),
        "last_step": json.loads(lines[-1])["step"],
    }
    write_record(folder / "run.json", record.model_copy(update=told | changes))


def document_at(root: Path, profile: Profile) -> dict[str, Any]:
    """The document of the ledger at `root` as JSON content, with the claims file of the copy."""
    with chdir(root):
        evidence = read_evidence(profile)
        studies = read_study_results(profile.name)
        document: dict[str, Any] = plain(build_document(evidence, load_claims(), studies))
    return document


def row_of(document: dict[str, Any], dataset: str, size: str, objective: str) -> dict[str, Any]:
    """The row of Table 1."""
    names = ("dataset", "clean_size", "pretrain_objective")
    wanted = [dataset, size, objective]
    rows = document["tables"]["table1"]["rows"]
    (found,) = (row for row in rows if [row[name] for name in names] == wanted)
    return dict(found)


def _pick(order: np.ndarray, share: float, jitter: np.random.Generator) -> np.ndarray:
    """`share` of the images: mostly the first in `order`, so that evaluations agree on most."""
    chosen = np.zeros(IMAGES, bool)
    nearly_sorted = np.argsort(np.arange(IMAGES) + jitter.normal(0, 12, IMAGES))
    chosen[order[nearly_sorted[: round(share * IMAGES)]]] = True
    return chosen


def outcome(spec: RunSpec, progress: float, relative_rate: float) -> tuple[float, float]:
    """Accuracy and ASR: stronger rates clean more and cost more, most after MMCL + SSL."""
    accuracy, asr = START.get(spec.pretrain_objective, START["mmcl"])
    if spec.stage == "pretrain":
        share = max(0.02, progress)
        return accuracy * share, asr * share
    strength = relative_rate**0.5 * min(1.0, 3 * progress)
    cleanclip = 0.04 if spec.pretrain_objective == "mmcl" else 0.5
    cost = {"mmcl": 0.25, "ssl": 0.9, "mmcl_ssl": cleanclip}[spec.loss]
    power = {"mmcl": 0.6, "ssl": 1.0, "mmcl_ssl": 1.0}[spec.loss]
    kept = 1 - cost * strength
    left = 1 - power * 1.05 * strength
    return accuracy * kept, max(0.0, asr * left)
