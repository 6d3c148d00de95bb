"""report.json: every number of the report in one document, computed from evidence and claims alone.

Pages render this document and nothing else, and `verify` computes it again.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from repro.files import file_sha256
from repro.profile import SPECS
from repro.report.judging.claims import Claims, load_claims
from repro.report.judging.paper_claims import judged_claims
from repro.report.measures import Context, Evaluations
from repro.report.numbers import compute, scatter, tables
from repro.report.numbers.authors import authors_notices
from repro.report.numbers.cells import cells
from repro.report.numbers.evaluations import FinishedRun
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.mechanism import mechanism
from repro.report.numbers.resistance import resistance
from repro.report.own_run import OwnValue, own_values
from repro.report.points import authors_evaluations, evaluations
from repro.report.scales.settings import settings_table
from repro.report.scales.table import scale_rows
from repro.report.studies.results import (
    StudyResults,
    read_study_results,
    studied,
    variants_of,
)
from repro.report.verdicts import verdicts


@dataclass(frozen=True, slots=True)
class RunProvenance:
    """A run that the report counts."""

    sha256: str
    """Over the hashes of its files."""
    status: str
    reason: str
    diverged: bool
    """Whether its loss was no finite number at some step."""
    fingerprint: str
    commit: str | None
    dirty: bool
    code: str
    inputs: dict[str, str]
    sacred: str | None
    seed: int
    started: str
    seconds: float
    attempts: int


def build_document(evidence: Evidence, claims: Claims) -> dict[str, Any]:
    """The parts of report.json, dataclasses or plain JSON, from the evidence and the claims file.

    The caller adds `context`, which holds no results.
    """
    settings, paper, rules = evidence.settings, claims.paper, claims.rules
    context = Context(rules.rate.get(settings.name), rules.hull_cap)
    studies = read_study_results(settings.name, evidence.root)
    frame = _frame(evidence, studies, claims)
    by_arm = Evaluations(frame, settings.cap)
    judged = verdicts(by_arm, claims, settings.name)
    arms = claims.comparisons.exploratory.get(settings.name)

    # The archived seeds, beside which the authors' points stand.
    archived = evidence
    beside_archive: list[OwnValue] = []
    if arms is not None and judged.source is not None:
        beside_archive = list(own_values(by_arm, arms, rules, context))
        archived = replace(
            variants_of(studies, settings)[arms.mmcl_ssl],
            authors=evidence.authors,
            files=evidence.files,
        )
    about = studied(studies, settings, context.rate, evidence.root)

    # Every run that any number here rests on, for provenance, cost and the hash of the ledger.
    own = [*evidence.runs, *evidence.controls]
    of_studies = [run for study in studies for run in study.runs]
    runs = [*own, *of_studies]
    commits = Counter(run.record.commit for run in evidence.runs if run.record.commit)
    return {
        "schema": 2,
        "profile": settings.name,
        "protocol": settings.protocol,
        "stand_in": settings.stand_in,
        # The commit of most runs stands for the report.
        "commit": commits.most_common(1)[0][0] if commits else None,
        "commits": sorted(commits),
        "settings": {
            "asr_cap": settings.cap,
            "confidence": settings.confidence,
            "asr_denominator": settings.denominator,
            "seeds": list(settings.seeds),
            "kept_share": claims.kept_share,
            "target_class": settings.target_class,
        },
        "scales": scale_rows(settings.name, about.studies, paper, evidence.root),
        "settings_table": settings_table(settings.name, evidence.root),
        "paper": {
            **paper.model_dump(exclude={"table1_printed", "table1", "table2"}),
            "table1": {"printed": paper.table1_printed, "corrected": paper.table1},
        },
        "verdicts": judged,
        "own_run": beside_archive,
        "claims": judged_claims(
            by_arm, claims, judged, context, settings.name, stand_in=bool(settings.stand_in)
        ),
        "tables": {
            "table1": {"rows": tables.table1(evidence, paper)},
            "table2": {"rows": tables.table2(evidence, paper)},
            "by_loss": {"rows": tables.loss_rows(evidence)},
        },
        "figures": scatter.figures(evidence, paper),
        "resistance": resistance(archived, paper, judged.source),
        "mechanism": mechanism(frame, context.rate, judged.seeds),
        "errata": [erratum.model_dump() | {"result": erratum.result} for erratum in claims.errata],
        "studies": about.studies,
        "responses": about.responses,
        "equal_starts": about.equal_starts,
        "effects_family": about.effects_family,
        "replicates": about.replicates,
        "runs": {run.folder: _provenance(run) for run in runs},
        "missing": evidence.missing,
        "notices": [*evidence.notices, *authors_notices(evidence.files)],
        "authors_files": evidence.files,
        "compute": compute.compute_rows(own),
        "archived_compute": compute.archived_compute(own, of_studies),
        "sources": {
            "ledger": _ledger_hash(runs),
            "claims": file_sha256(SPECS / "claims.yaml"),
        },
    }


def claims_of(root: Path = Path()) -> Claims:
    """The checked claims file below `root`."""
    return load_claims(root / SPECS / "claims.yaml")


def plain(content: Any) -> Any:
    """Results as JSON content: dataclasses and models as objects, NaN and infinity as null."""
    if is_dataclass(content) and not isinstance(content, type):
        return {field.name: plain(getattr(content, field.name)) for field in fields(content)}
    if hasattr(content, "model_dump"):
        return plain(content.model_dump())
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    if isinstance(content, np.generic):
        return plain(content.item())
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _frame(evidence: Evidence, studies: Sequence[StudyResults], claims: Claims) -> pd.DataFrame:
    """Evaluations of the own runs, of all studies and of the authors."""
    denominator = evidence.settings.denominator
    starts = [
        start
        for cell in cells()
        if (start := tables.authors_or_printed_start(evidence, claims.paper, cell)) is not None
    ]
    frames = [
        # Runs of an archive that stand for the profile's own are a study of their own.
        evaluations([] if evidence.archived else evidence.runs, denominator),
        *(evaluations(study.runs, denominator, study.name) for study in studies),
        authors_evaluations(evidence.authors, starts),
    ]
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _provenance(run: FinishedRun) -> RunProvenance:
    record = run.record
    return RunProvenance(
        sha256=run.sha256,
        status=record.status,
        reason=record.reason,
        diverged=run.diverged,
        fingerprint=record.fingerprint,
        commit=record.commit,
        dirty=record.dirty,
        code=record.code,
        inputs=record.inputs,
        sacred=record.sacred,
        seed=record.spec.seed,
        started=record.started,
        seconds=record.seconds,
        attempts=record.attempts,
    )


def _ledger_hash(runs: Iterable[FinishedRun]) -> str:
    """SHA-256 over names and hashes of all runs that the report is built from."""
    lines = sorted(f"{run.folder} {run.sha256}\n" for run in runs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
