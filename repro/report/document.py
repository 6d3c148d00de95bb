"""report.json: every number of the report in one document, computed from evidence and claims alone.

Pages render this document and nothing else, and `verify` computes it again.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from repro.files import file_sha256
from repro.profile import SPECS
from repro.report.bench import bench
from repro.report.hypotheses import judged_hypotheses
from repro.report.judging.claims import Claims, Paper, load_claims
from repro.report.judging.paper_claims import judged_claims
from repro.report.measures import Context, Evaluations
from repro.report.numbers import tables
from repro.report.numbers.authors import authors_notices
from repro.report.numbers.cells import CELLS
from repro.report.numbers.evidence import Evidence
from repro.report.numbers.mechanism import mechanism
from repro.report.numbers.resistance import resistance
from repro.report.own_run import own_values
from repro.report.points import FinishedRun
from repro.report.scales import scale_rows, settings_table
from repro.report.studies.results import read_study_results, studied
from repro.report.verdicts import verdicts

PROVENANCE = {
    *("status", "reason", "fingerprint", "commit", "dirty", "code", "inputs", "sacred"),
    *("started", "seconds", "attempts"),
}
"""Fields of a run's record in `runs`."""


def build_document(evidence: Evidence, claims: Claims) -> dict[str, Any]:
    """The parts of report.json, dataclasses or plain JSON, from the evidence and the claims file.

    The caller adds `context`, which holds no results.
    """
    settings, paper = evidence.settings, claims.paper
    context = Context.of(claims, settings.name)
    studies = read_study_results(settings.name, evidence.root)
    frame = _joined(
        # Runs of an archive that stand for the profile's own are a study of their own.
        evidence.frame[:0] if evidence.archived else evidence.frame,
        *(study.frame for study in studies),
        _authors(evidence, paper),
    )
    by_arm = Evaluations(frame, settings.cap)
    judged = verdicts(by_arm, claims, settings.name)

    # The archived seeds, beside which the authors' points stand; without them the own runs.
    arms = claims.comparisons.exploratory.get(settings.name) if judged.source else None
    arm, seeds = (arms.mmcl_ssl, by_arm.seeds(arms.mmcl_ssl)) if arms else ("/", settings.seeds)
    about = studied(studies, settings, context.rate, evidence.root)

    # Every run that any number here rests on, for provenance and the hash of the ledger.
    runs = [*evidence.runs, *evidence.controls, *(run for study in studies for run in study.runs)]
    commits = Counter(run.record.commit for run in evidence.runs if run.record.commit)
    return {
        "schema": 2,
        "profile": settings.name,
        "protocol": settings.protocol,
        "stand_in": settings.stand_in,
        # The commit of most runs stands for the report.
        "commit": commits.most_common(1)[0][0] if commits else None,
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
        "paper": paper.model_dump(exclude={"table1_printed", "table1", "table2"}),
        "verdicts": judged,
        "own_run": list(own_values(by_arm, arms, claims.rules, context)) if arms else [],
        "claims": judged_claims(
            by_arm, claims, judged, context, settings.name, stand_in=bool(settings.stand_in)
        ),
        "tables": {
            "table1": {"rows": tables.table1(evidence, paper)},
            "table2": {"rows": tables.table2(evidence, paper)},
        },
        "figures": tables.figures(evidence, paper),
        "resistance": resistance(by_arm, arm, seeds),
        "mechanism": mechanism(frame, context.rate, judged.seeds),
        "errata": [erratum.model_dump() | {"result": erratum.result} for erratum in claims.errata],
        "studies": about.studies,
        "hypotheses": {
            study.name: judged_hypotheses(study.name, study.spec, by_arm, context)
            for study in studies
            if study.spec.hypotheses
        },
        "bench": bench(studies, by_arm, context),
        "responses": about.responses,
        "equal_starts": about.equal_starts,
        "effects_family": about.effects_family,
        "replicates": about.replicates,
        "runs": {
            run.folder: run.record.model_dump(include=PROVENANCE)
            | {"sha256": run.sha256, "diverged": run.diverged, "seed": run.record.spec.seed}
            for run in runs
        },
        "missing": [
            {**key._asdict(), "reason": reason} for key, reason in evidence.missing.items()
        ],
        "notices": [*evidence.notices, *authors_notices(evidence.files)],
        "authors_files": evidence.files,
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
    if isinstance(content, Mapping):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    if isinstance(content, np.generic):
        return plain(content.item())
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _authors(evidence: Evidence, paper: Paper) -> pd.DataFrame:
    """The authors' points as one seed, each cell with its start model.

    Steps are not in the files, so that `step` counts the points of a series.
    """
    points = evidence.authors_frame
    starts = [tables.authors_start(evidence, paper, cell) for cell in CELLS]
    before = pd.DataFrame([start for start in starts if start], columns=points.columns)
    after = points[points.step != 0]
    both = _joined(before.assign(step=0), after.assign(step=after["index"] + 1))
    return both.assign(seed=0, epoch=0.0).astype({"learning_rate": float})


def _joined(*frames: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _ledger_hash(runs: Iterable[FinishedRun]) -> str:
    """SHA-256 over names and hashes of all runs that the report is built from."""
    lines = sorted(f"{run.folder} {run.sha256}\n" for run in runs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
