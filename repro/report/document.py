"""report.json: every number of the report in one document, computed from evidence and claims alone.

Pages render this document and nothing else, and `verify` recomputes it; so a number cannot reach a
page by another way. Its shape is `repro.report.schema`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from repro.files import file_sha256
from repro.intervals import wilson
from repro.profile import SPECS
from repro.report.judging.claims import Claims, load_claims
from repro.report.judging.verdicts import headline, judged_claims
from repro.report.numbers import compute, selection, tables
from repro.report.numbers.authors import authors_notices
from repro.report.numbers.cells import PANELS, Cell
from repro.report.numbers.cleaned import authors_or_printed_start
from repro.report.numbers.evaluations import FinishedRun, Point
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.paper import Erratum, Paper, paper_entry
from repro.report.numbers.predictions import predictions
from repro.report.numbers.resistance import resistance
from repro.report.scales.ladder import MeasuredScale, ladder, larger_study
from repro.report.scales.settings import settings_table
from repro.report.schema.base import Denominator
from repro.report.schema.document import ReportNumbers
from repro.report.schema.judged import ErratumResult
from repro.report.schema.provenance import DocumentSettings, RunProvenance
from repro.report.schema.results import (
    ControlRow,
    FigureDot,
    FigurePanel,
    ScatterFigure,
    Trajectory,
)
from repro.report.studies.effects import most_repeated, study_entry
from repro.report.studies.responses import equal_starts, responses
from repro.report.studies.results import StudyResults, read_study_results, variants_of


def build_document(evidence: Evidence, claims: Claims) -> ReportNumbers:
    """Assemble report.json from the evidence and the claims file.

    The caller adds `context`, which holds no results.
    """
    # Studies first: a claim may name one of their variants as what decides it.
    settings = evidence.settings
    studies = read_study_results(settings.name, evidence.root)
    variants = variants_of(studies, settings)
    judged = judged_claims(evidence, claims, claims.claims, variants)
    study_of_most, repeated = _most_seeds(evidence, studies, variants)
    resisted = resistance(repeated, claims.paper, study_of_most)
    entries = [study_entry(study, claims, settings, variants) for study in studies]

    # Every run that any number here rests on, for provenance, cost and the hash of the ledger.
    own = [*evidence.runs, *evidence.controls]
    larger = larger_study(settings.name, evidence.root)
    quoted = [*studies, *([larger] if larger else [])]
    archived = [run for study in quoted for run in study.runs]
    runs = [*own, *archived]
    commits = Counter(run.record.commit for run in evidence.runs if run.record.commit)
    return {
        "schema": 1,
        "profile": settings.name,
        "protocol": settings.protocol,
        "stand_in": settings.stand_in,
        # The commit of most runs stands for the report; `commits` tells of all.
        "commit": commits.most_common(1)[0][0] if commits else None,
        "commits": sorted(commits),
        "settings": _settings(evidence, claims),
        "settings_table": settings_table(settings.name, evidence.root),
        "ladder": ladder(MeasuredScale(repeated, resisted), larger, claims, evidence.root),
        "paper": paper_entry(claims.paper),
        "tables": {
            "table1": {"rows": tables.table1(evidence, claims.paper, claims.control_rule)},
            "table2": {"rows": tables.table2(evidence, claims.paper)},
            "by_loss": {"rows": tables.loss_rows(evidence)},
        },
        "figures": {name: _figure(evidence, claims.paper, name) for name in PANELS},
        "claims": judged,
        "own_claims": judged_claims(repeated, claims, claims.own_claims, variants),
        "resistance": resisted,
        "headline": headline(evidence, judged, claims.main_claims),
        "errata": [_erratum(erratum) for erratum in claims.errata],
        "statistics": {
            "honest_selection": selection.honest_selection(evidence),
            "best_of_n": selection.budget_curves(evidence),
            "threshold_sweep": selection.cap_sweeps(evidence, claims.paper),
        },
        "trajectories": _trajectories(evidence),
        "controls": _controls(evidence),
        "predictions": predictions(evidence),
        "studies": entries,
        "responses": [
            entry for study in studies for entry in responses(study, variants, resisted, settings)
        ],
        "equal_starts": [
            entry
            for study in studies
            for entry in equal_starts(study, variants, resisted, settings)
        ],
        "runs": {run.folder: _provenance(run) for run in runs},
        "missing": list(evidence.missing),
        "notices": [*evidence.notices, *authors_notices(evidence.files)],
        "authors_files": list(evidence.files),
        "compute": compute.compute_rows(own),
        "archived_compute": compute.archived_compute(own, archived),
        "forecast": compute.forecast(evidence),
        "sources": {
            "ledger": _ledger_hash(runs),
            "claims": file_sha256(SPECS / "claims.yaml"),
        },
    }


def _most_seeds(
    evidence: Evidence, studies: Sequence[StudyResults], variants: Mapping[str, Evidence]
) -> tuple[str | None, Evidence]:
    """Runs of all cells over the most seeds: those of a study, by its name, or our own."""
    name, most = most_repeated(studies, variants)
    seeds = len(evidence.settings.seeds) if evidence.runs else 0
    if most is None or len(most.settings.seeds) <= seeds:
        return None, evidence

    # The authors' points stand beside whichever runs of ours are taken.
    return name, replace(most, authors=evidence.authors, files=evidence.files)


def claims_of(root: Path = Path()) -> Claims:
    """The checked claims file below `root`."""
    return load_claims(root / SPECS / "claims.yaml")


def _settings(evidence: Evidence, claims: Claims) -> DocumentSettings:
    settings = evidence.settings
    return {
        "asr_cap": settings.cap,
        "confidence": settings.confidence,
        "asr_denominator": settings.denominator,
        "seeds": list(settings.seeds),
        "attack_taken": claims.attack_taken,
        "kept_share": claims.kept_share,
        "target_class": settings.target_class,
    }


def _erratum(erratum: Erratum) -> ErratumResult:
    return {
        "id": erratum.id,
        "place": erratum.place,
        "says": erratum.says,
        "finding": erratum.finding,
        "operation": erratum.operation,
        "terms": [
            {"name": term.name, "value": term.value, "source": term.source}
            for term in erratum.terms
        ],
        "unit": erratum.unit,
        "result": erratum.result,
    }


def _figure(evidence: Evidence, paper: Paper, name: str) -> ScatterFigure:
    # All seeds and losses: the page can hide what a reader does not want to see.
    points: list[Point] = []
    for cell in PANELS[name]:
        for source in ("ledger", "authors"):
            points += evidence.cleaning(
                cell.dataset, cell.objective, cell.clean_size, source=source
            )
    return {
        "panels": [_panel(evidence, paper, cell) for cell in PANELS[name]],
        "points": [_dot(point, _start_of(evidence, paper, point)) for point in points],
    }


def _start_of(evidence: Evidence, paper: Paper, point: Point) -> Point | None:
    """The model that was cleaned: of the same seed, or the authors', who tell none."""
    if point.source == "ledger":
        assert point.seed is not None
        return evidence.start(point.dataset, point.objective, point.seed)
    assert point.clean_size is not None
    cell = Cell(point.dataset, point.clean_size, point.objective)
    return authors_or_printed_start(evidence, paper, cell)


def _panel(evidence: Evidence, paper: Paper, cell: Cell) -> FigurePanel:
    start = evidence.start(cell.dataset, cell.objective, evidence.settings.seeds[0])

    # The star of our start model, and what the paper prints for the same panel.
    started = paper.start(cell.dataset, cell.objective)
    cleaned = paper.cleaned(*cell)
    return {
        **cell.keys,
        "start": start and {"accuracy": start.accuracy, "asr": start.asr, "run": start.run},
        "paper": {
            "start_accuracy": started and started.accuracy,
            "start_asr": started and started.asr,
            "clean_accuracy": cleaned and cleaned.clean_accuracy,
        },
    }


def _dot(point: Point, start: Point | None) -> FigureDot:
    # The points of a figure are those of its cells, and so have their size.
    assert point.clean_size is not None
    return {
        "source": point.source,
        "dataset": point.dataset,
        "clean_size": point.clean_size,
        "pretrain_objective": point.objective,
        "loss": point.loss,
        # None where the authors' files do not tell it.
        "learning_rate": point.learning_rate,
        "seed": point.seed,
        "epoch": point.epoch,
        "step": point.step,
        # Shares, with the counts that they are of: the page computes intervals from both.
        "accuracy": point.accuracy,
        "kept": point.accuracy / start.accuracy if start and start.accuracy else None,
        "asr": point.asr,
        "images": point.images,
        "attackable": point.attackable,
        "run": point.run,
    }


def _trajectories(evidence: Evidence) -> list[Trajectory]:
    """Accuracy and ASR over epochs of every run of the first seed."""
    settings = evidence.settings
    return [
        _trajectory(run, settings.denominator)
        for run in evidence.runs
        if run.record.spec.seed == settings.seeds[0]
    ]


def _trajectory(run: FinishedRun, denominator: Denominator) -> Trajectory:
    spec = run.record.spec
    return {
        "run": run.folder,
        "stage": spec.stage,
        "dataset": spec.dataset,
        "pretrain_objective": spec.pretrain_objective,
        "clean_size": spec.clean_size,
        "loss": spec.loss,
        "learning_rate": spec.schedule.learning_rate,
        # Three lists of one length, an entry an evaluation.
        "epochs": [row.epoch for row in run.rows],
        "accuracy": [row.accuracy for row in run.rows],
        "asr": [row.asr(denominator) for row in run.rows],
    }


def _controls(evidence: Evidence) -> list[ControlRow]:
    """Pre-training runs beside the tables."""
    return [
        _control(run, evidence.settings.denominator)
        for run in evidence.controls
        if run.rows and run.record.spec.stage == "pretrain"
    ]


def _control(run: FinishedRun, denominator: Denominator) -> ControlRow:
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


def _provenance(run: FinishedRun) -> RunProvenance:
    record = run.record
    return {
        "sha256": run.sha256,
        "status": record.status,
        "reason": record.reason,
        "diverged": run.diverged,
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


def _ledger_hash(runs: Iterable[FinishedRun]) -> str:
    """SHA-256 over names and hashes of all runs that the report is built from."""
    # Sorted, so that the order in which runs were read does not matter.
    lines = sorted(f"{run.folder} {run.sha256}\n" for run in runs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
