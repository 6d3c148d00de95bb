"""report.json: every number of the report in one document, computed from evidence and claims alone.

Pages render this document and nothing else, and `verify` computes it again.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from repro.files import file_sha256
from repro.report import paper_tables
from repro.report.authors import authors_notices
from repro.report.claims import CLAIMS, Claims
from repro.report.comparisons import Judged, Scope
from repro.report.evidence import Evidence
from repro.report.measures import BY_NAME
from repro.report.prose import answer, written_tables
from repro.report.resistance import resistance
from repro.report.results import Results, results_of
from repro.report.scales import scale_rows, settings_table
from repro.report.seeds import Verdict
from repro.report.statements import JudgedClaim, JudgedHypothesis
from repro.report.studies import StudyResults, rank_notices, studied
from repro.report.tables import conditions

PROVENANCE = {
    "status",
    "reason",
    "fingerprint",
    "commit",
    "dirty",
    "code",
    "inputs",
    "sacred",
    "started",
    "seconds",
    "attempts",
}
"""Fields of a run's record in `runs`."""


def build_document(
    evidence: Evidence, claims: Claims, studies: Sequence[StudyResults]
) -> dict[str, Any]:
    """The parts of report.json, dataclasses or plain JSON, from the evidence, the claims file and
    the studies of the profile.

    The caller adds `context`, which holds no results.
    """
    profile, paper = evidence.profile, claims.paper
    results = results_of(evidence, claims, studies)
    judged, by_arm = results.verdicts, results.evaluations

    # The archived seeds, beside which the authors' points stand; without them the own runs.
    arms, archived = judged.arms, bool(judged.arms.study)
    said = answer(results)

    # Every run that any number here rests on, for provenance and the hash of the ledger.
    runs = [*evidence.runs, *(run for study in studies for run in study.runs)]
    ledger = "".join(sorted(f"{run.folder} {run.sha256}\n" for run in runs))
    commits = Counter(run.record.commit for run in evidence.runs if run.record.commit)
    return {
        "schema": 2,
        "profile": profile.name,
        "protocol": profile.protocol,
        "stand_in": profile.data.stand_in,
        # The commit of most runs stands for the report.
        "commit": max(commits, key=commits.__getitem__, default=None),
        "settings": {
            "asr_cap": profile.evaluate.asr_cap,
            "confidence": profile.evaluate.confidence,
            "asr_denominator": profile.switches.asr_denominator,
            "seeds": profile.pretrain.seeds,
            "kept_share": claims.kept_share,
            "target_class": profile.data.poison.target_class,
        },
        "scales": scale_rows(profile.name, by_arm, claims, arms),
        "settings_table": settings_table(profile.name),
        "paper": paper.model_dump(exclude={"table1_printed", "table1", "table2"}),
        "answer": said and {"headline": said[0], "lines": said[1]},
        "conditions": conditions(results).content,
        "written": [table.content for table in written_tables(results)],
        "verdicts": {
            "arms": arms,
            "seeds": judged.seeds,
            "exploratory": measures_of(judged.exploratory, results),
            "confirmed": measures_of(judged.confirmed, results) if judged.confirmed else None,
            "confirmed_seeds": judged.confirmed_seeds,
            "planned_seeds": judged.planned_seeds,
            "secondary": [
                {
                    "name": name,
                    "why": claims.rules.secondary[name].why,
                    "measures": measures_of(cells, results),
                }
                for name, cells in judged.secondary.items()
            ],
        },
        "larger": {
            "measures": measures_of(results.of_larger, results) if archived else [],
            "predicted": results.predicted_of_larger if archived else "",
        },
        # The report's own run, drawn beside the archived seeds.
        "own_cells": resistance(by_arm, "/").cells if archived and evidence.runs else [],
        "own_run": results.own if archived else [],
        "claims": [_claim(of, results.scope) for of in results.judged_claims],
        "tables": {
            "table1": {"rows": paper_tables.table1(evidence, paper)},
            "table2": {"rows": paper_tables.table2(evidence, paper)},
        },
        "figures": paper_tables.figures(paper),
        "resistance": resistance(by_arm, arms.mmcl_ssl),
        "errata": [erratum.model_dump() | {"result": erratum.result} for erratum in claims.errata],
        **vars(studied(studies, by_arm, profile.evaluate.confidence)),
        "hypotheses": {
            name: [_hypothesis(of) for of in rows] for name, rows in results.hypotheses.items()
        },
        "runs": {
            run.folder: run.record.model_dump(include=PROVENANCE)
            | {"sha256": run.sha256, "diverged": run.diverged, "seed": run.record.spec.seed}
            for run in runs
        },
        "missing": [
            dict(
                zip(("stage", "model_name", "run"), folder.split("/")[2:], strict=True),
                reason=reason,
            )
            for folder, reason in evidence.missing.items()
        ],
        "notices": [
            *evidence.notices,
            *rank_notices(evidence.runs, [*studies, *(results.larger if archived else ())]),
            *authors_notices(evidence.files),
        ],
        "authors_files": evidence.files,
        "sources": {
            "ledger": hashlib.sha256(ledger.encode()).hexdigest(),
            "claims": file_sha256(CLAIMS),
        },
    }


def measures_of(
    cells: Sequence[Judged], results: Results, scope: Scope | None = None
) -> list[dict[str, Any]]:
    """Verdicts as objects of report.json, one a measure; `scope` by default that of the report."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        rule = results.claims.rules.measures[cell.measure.name]
        measure = found.setdefault(
            cell.measure.name,
            {
                "measure": cell.measure.name,
                "title": cell.measure.title,
                "unit": cell.measure.unit,
                "negligible": rule.negligible,
                "paper": rule.paper,
                "fixed": cell.fixed,
                "scope": scope or results.scope,
                "cells": [],
                "pooled": None,
                "verdict": Verdict.UNDECIDED,
            },
        )
        if cell.of.setting:
            measure["cells"].append(_cell(cell))
        else:
            measure |= {"pooled": _cell(cell), "verdict": cell.verdict}
    return list(found.values())


def _cell(cell: Judged) -> dict[str, Any]:
    dataset, size = cell.of.setting or (None, None)
    names = ("marks", "mmcl", "mmcl_ssl", "difference", "p", "p_holm", "alone", "verdict", "reason")
    return {
        "dataset": dataset,
        "clean_size": size,
        "comparator": cell.of.comparator,
        "control": cell.of.controls.get("mmcl"),
        "control_ssl": cell.of.controls.get("mmcl_ssl"),
        "start_accuracy": cell.of.start_accuracy,
        "start_asr": cell.of.start_asr,
        **{name: getattr(cell, name) for name in names},
    }


def _claim(of: JudgedClaim, scope: Scope) -> dict[str, Any]:
    stated = {"id", "quote", "place", "metric", "study", "absolute", "reason", "refuted_by"}
    claim = of.claim
    names = ("fixed", "verdict", "evidence")
    return {
        **claim.model_dump(include=stated),
        "measured": of.words,
        "expect": claim.expect.words,
        "direction": claim.direction.words if claim.direction else None,
        "scope": scope,
        **{name: getattr(of, name) for name in names},
    }


def _hypothesis(of: JudgedHypothesis) -> dict[str, Any]:
    names = ("setting", "means", "weak", "sum", "p", "verdict", "seeds_needed")
    unit = BY_NAME[of.hypothesis.measure].unit
    return of.hypothesis.model_dump() | {name: getattr(of, name) for name in names} | {"unit": unit}


def plain(content: Any) -> Any:
    """Results as JSON content: dataclasses and models as objects, NaN and infinity as null."""
    return TypeAdapter(Any).dump_python(content, mode="json", fallback=np.generic.item)
