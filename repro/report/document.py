"""report.json: every number of the report in one document, computed from evidence and claims alone.

Pages render this document and nothing else, and `verify` computes it again.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from repro.files import file_sha256
from repro.report import paper_tables
from repro.report.answer import answer
from repro.report.authors import authors_notices
from repro.report.bench import bench
from repro.report.cells import CELLS
from repro.report.claims import CLAIMS, Claims, Paper
from repro.report.draws import draws
from repro.report.evidence import Evidence
from repro.report.judgements import (
    experimental_seeds,
    judged_claims,
    own_values,
    stated_hypotheses,
)
from repro.report.measures import Context, Evaluations
from repro.report.resistance import mechanism, resistance
from repro.report.scales import larger_scale, scale_rows, settings_table
from repro.report.studies import (
    StudyResults,
    rank_notices,
    studied,
    whole_seeds,
)
from repro.report.verdicts import scope_of, verdicts

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
    context = Context.of(claims, profile)
    frame = joined(
        # Runs of an archive that stand for the profile's own are a study of their own, and those of
        # another profile than the one that is named are of none.
        evidence.frame[:0] if evidence.archived or evidence.departures else evidence.frame,
        *(study.frame for study in studies),
        authors_rows(evidence, paper),
    )
    by_arm = Evaluations(frame, context)
    scope = scope_of(profile)
    judged = verdicts(by_arm, claims, profile.name, whole_seeds(studies), scope)

    # The archived seeds, beside which the authors' points stand; without them the own runs.
    arms, archived = judged.arms, bool(judged.arms.study)
    # Nothing of the confirmation is told before it is whole.
    confirmed = judged.confirmed_seeds if judged.confirmed else []
    about = studied(studies, by_arm, profile.evaluate.confidence)
    of_draws = draws(studies, by_arm, claims.comparisons.confirmed.get(profile.name))
    hypotheses = stated_hypotheses(studies, by_arm)
    larger = larger_scale(profile.name, claims)

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
        "scales": scale_rows(profile.name, by_arm, larger.evaluations, claims, arms),
        "settings_table": settings_table(profile.name),
        "paper": paper.model_dump(exclude={"table1_printed", "table1", "table2"}),
        "answer": answer(judged, of_draws, context.rate, hypotheses, larger),
        "verdicts": judged,
        "larger": {
            "measures": larger.measures if archived else [],
            "predicted": larger.predicted if archived else "",
        },
        # The report's own run, drawn beside the archived seeds.
        "own_cells": resistance(by_arm, "/").cells if archived and evidence.runs else [],
        "own_run": list(own_values(by_arm, arms, claims.rules)) if archived else [],
        "claims": judged_claims(by_arm, claims, judged, scope),
        "tables": {
            "table1": {"rows": paper_tables.table1(evidence, paper)},
            "table2": {"rows": paper_tables.table2(evidence, paper)},
        },
        "figures": paper_tables.figures(paper),
        "resistance": resistance(by_arm, arms.mmcl_ssl),
        "mechanism": mechanism(
            frame,
            context.rate,
            {*judged.seeds, *confirmed, *experimental_seeds(studies)},
        ),
        "errata": [erratum.model_dump() | {"result": erratum.result} for erratum in claims.errata],
        **vars(about),
        "hypotheses": hypotheses,
        "draws": of_draws,
        "bench": bench(studies, by_arm),
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
            *rank_notices(evidence.runs, [*studies, *(larger.studies if archived else ())]),
            *authors_notices(evidence.files),
        ],
        "authors_files": evidence.files,
        "sources": {
            "ledger": hashlib.sha256(ledger.encode()).hexdigest(),
            "claims": file_sha256(CLAIMS),
        },
    }


def plain(content: Any) -> Any:
    """Results as JSON content: dataclasses and models as objects, NaN and infinity as null."""
    return TypeAdapter(Any).dump_python(content, mode="json", fallback=np.generic.item)


def authors_rows(evidence: Evidence, paper: Paper) -> pd.DataFrame:
    """The authors' points as one seed, each cell with its start model.

    Steps are not in the files, so that `step` counts the points of a series.
    """
    points = evidence.authors_frame
    starts = [paper_tables.authors_start(evidence, paper, cell) for cell in CELLS]
    before = pd.DataFrame([start for start in starts if start], columns=points.columns)
    after = points[points.step != 0]
    both = joined(before.assign(step=0), after.assign(step=after["index"] + 1))
    return both.assign(seed=0, epoch=0.0).astype({"learning_rate": float})


def joined(*frames: pd.DataFrame) -> pd.DataFrame:
    """Tables one after the other; columns of an empty one would lose their types."""
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
