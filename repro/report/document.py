"""report.json: every number of the report in one document, computed from a study and the claims file alone.

Pages render this document and nothing else, and `verify` recomputes it; so a number cannot reach a page by another way.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.intervals import wilson
from repro.profile import SPECS, load_profile
from repro.report.numbers import compute, tables, verdicts
from repro.report.numbers.claims import Claims, combine, load_claims, paper_values
from repro.report.numbers.evaluations import PANELS, Evidence, FinishedRun, Point
from repro.report.studies.doses import doses
from repro.report.studies.effects import read_study_results, study_entry, variants_of

SCHEMA = 1


def build_document(study: Evidence, claims: Claims) -> dict[str, Any]:
    """Assemble report.json from the ledger and the claims file; the caller adds `context`, which holds no results."""
    settings = study.settings
    side = read_study_results(settings.name, study.root)
    runs = (*study.runs, *study.controls, *(run for item in side for run in item.runs))
    variants = variants_of(side, settings)
    judged = verdicts.verdicts(study, claims, variants)
    studies = [study_entry(item, claims, settings, variants) for item in side]
    profile = (
        load_profile(settings.name, study.root / SPECS).model_dump(mode="json") if side else {}
    )
    commits = Counter(run.record.commit for run in study.runs if run.record.commit)
    return {
        "schema": SCHEMA,
        "profile": settings.name,
        "protocol": settings.protocol,
        "stand_in": settings.stand_in,
        "commit": commits.most_common(1)[0][0] if commits else None,
        "commits": sorted(commits),
        "settings": {
            "asr_cap": settings.cap,
            "confidence": settings.confidence,
            "asr_denominator": settings.denominator,
            "seeds": list(settings.seeds),
            "attack_taken": claims.attack_taken,
            "target_class": settings.target_class,
        },
        "paper": {
            "title": claims.paper.title,
            "reference": claims.paper.reference,
            "url": claims.paper.url,
            "table1": paper_values(claims),
        },
        "tables": {
            "table1": {"rows": tables.table1(study, claims.paper)},
            "table2": {"rows": tables.table2(study, claims.paper)},
            "by_loss": {"rows": tables.by_loss(study)},
        },
        "figures": {name: _figure(study, claims, name) for name in PANELS},
        "claims": judged,
        "headline": _headline(
            judged,
            claims.main_claims,
            "verdict" if study.runs or not study.authors else "authors_verdict",
        ),
        "errata": [{**erratum.model_dump(), "result": erratum.result} for erratum in claims.errata],
        "statistics": {
            "honest_selection": tables.honest_selection(study),
            "best_of_n": tables.budgets(study),
            "threshold_sweep": tables.sweep(study),
        },
        "trajectories": _trajectories(study),
        "controls": [
            _control(run, settings.denominator)
            for run in study.controls
            if run.rows and run.record.spec.stage == "pretrain"
        ],
        "predictions": tables.predictions(study),
        "studies": studies,
        "doses": [
            curve
            for item, shown in zip(side, studies, strict=True)
            for curve in doses(
                item, shown["rows"], lambda path: lookup(profile, path.replace(".", "/"))
            )
        ],
        "runs": {run.folder: _provenance(run) for run in runs},
        "missing": list(study.missing),
        "notices": list(study.notices),
        "authors_files": list(study.files),
        "compute": _compute(runs),
        "forecast": compute.forecast(study),
        "sources": {"ledger": _ledger_hash(runs), "claims": file_hash(SPECS / "claims.yaml")},
    }


def claims_of(root: Path = Path()) -> Claims:
    """The checked claims file below `root`."""
    return load_claims(root / SPECS / "claims.yaml")


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def finite(content: Any) -> Any:
    """Copy of JSON content in which tuples are lists and numbers that are not finite are None: JSON has none of them."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def lookup(document: dict[str, Any], path: str) -> Any:
    """The value at a path such as `tables/table1/rows/0/clean_accuracy/reproduced`."""
    node: Any = document
    for part in path.split("/"):
        node = node[int(part)] if isinstance(node, list) else node[part]
    return node


def _ledger_hash(runs: Sequence[FinishedRun]) -> str:
    """SHA-256 over names and hashes of all runs that the report is built from."""
    lines = sorted(f"{run.folder} {run.sha256}\n" for run in runs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _headline(judged: list[dict[str, Any]], main: list[str], field: str) -> dict[str, Any]:
    """The paper's answer: its main claims, and what they say together."""
    chosen = [
        {
            "id": claim["id"],
            "dataset": claim["datasets"][0],
            "clean_size": claim["clean_sizes"][0],
            "verdict": claim[field],
        }
        for claim in judged
        if claim["id"] in main
    ]
    return {"verdict": combine([claim["verdict"] for claim in chosen]), "claims": chosen}


def _figure(study: Evidence, claims: Claims, name: str) -> dict[str, Any]:
    panels, points = [], []
    for dataset, size, objective in PANELS[name]:
        start = study.start(dataset, objective, study.settings.seeds[0])
        started, cleaned = (
            claims.paper.start(dataset, objective),
            claims.paper.cleaned(dataset, size, objective),
        )
        panels.append(
            {
                "dataset": dataset,
                "clean_size": size,
                "pretrain_objective": objective,
                "start": start and {"accuracy": start.accuracy, "asr": start.asr, "run": start.run},
                "paper": {
                    "start_accuracy": started and started.accuracy,
                    "start_asr": started and started.asr,
                    "clean_accuracy": cleaned and cleaned.clean_accuracy,
                },
            }
        )
        for source in ("ledger", "authors"):
            points += [
                _dot(point) for point in study.cleaning(dataset, objective, size, source=source)
            ]
    return {"panels": panels, "points": points}


def _dot(point: Point) -> dict[str, Any]:
    return {
        "source": point.source,
        "dataset": point.dataset,
        "clean_size": point.clean_size,
        "pretrain_objective": point.objective,
        "loss": point.loss,
        "learning_rate": point.learning_rate,
        "seed": point.seed,
        "epoch": point.epoch,
        "step": point.step,
        "accuracy": point.accuracy,
        "asr": point.asr,
        "images": point.images,
        "attackable": point.attackable,
        "run": point.run,
    }


def _trajectories(study: Evidence) -> list[dict[str, Any]]:
    """Accuracy and ASR over epochs of every run of the first seed."""
    return [
        {
            "run": run.folder,
            "stage": s.stage,
            "dataset": s.dataset,
            "pretrain_objective": s.pretrain_objective,
            "clean_size": s.clean_size,
            "loss": s.loss,
            "learning_rate": s.schedule.learning_rate,
            "epochs": [row.epoch for row in run.rows],
            "accuracy": [row.accuracy for row in run.rows],
            "asr": [row.asr(study.settings.denominator) for row in run.rows],
        }
        for run in study.runs
        if (s := run.record.spec).seed == study.settings.seeds[0]
    ]


def _control(run: FinishedRun, denominator: Any) -> dict[str, Any]:
    point, spec = run.handed_on(denominator), run.record.spec
    return {
        "run": run.folder,
        "dataset": spec.dataset,
        "pretrain_objective": spec.pretrain_objective,
        "variant": spec.variant,
        "poisoned": spec.poisoned,
        "seed": spec.seed,
        "accuracy": point.accuracy,
        "asr": point.asr,
        "accuracy_ci95": wilson(point.correct, point.images),
        "asr_ci95": wilson(point.attacked, point.attackable),
    }


def _provenance(run: FinishedRun) -> dict[str, Any]:
    record = run.record
    return {
        "sha256": run.sha256,
        "status": record.status,
        "reason": record.reason,
        "fingerprint": record.fingerprint,
        "commit": record.commit,
        "dirty": record.dirty,
        "code": record.code,
        "inputs": record.inputs,
        "sacred": record.sacred,
        "seed": record.spec.seed,
        "started": record.started,
        "seconds": record.seconds,
        "attempts": record.attempts,
    }


def _compute(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    """Cost of every stage and cell: runs, hours, samples, peak memory, share of waiting for data."""
    groups: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault((run.record.spec.stage, run.record.spec.cell), []).append(run)
    return [
        {
            "stage": stage,
            "cell": cell,
            "runs": len(group),
            "seconds": sum(r.record.seconds for r in group),
            "train_seconds": sum(r.record.train_seconds for r in group),
            "evaluate_seconds": sum(r.record.evaluate_seconds for r in group),
            "data_wait_seconds": sum(r.record.data_wait_seconds for r in group),
            "samples": sum(r.record.num_samples for r in group),
            "peak_memory_bytes": max(r.record.peak_memory_bytes for r in group),
            "attempts": sum(r.record.attempts for r in group),
        }
        for (stage, cell), group in sorted(groups.items(), reverse=True)
    ]
