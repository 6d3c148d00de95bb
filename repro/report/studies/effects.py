"""Studies beside the main graph (specs/studies): what a change does, seed by seed against the study's reference.

A variant and the reference are trained from the same seeds, so effects are paired differences, with a Student interval
over seeds. An effect whose interval holds zero lies below the spread of training and is called undecided. Whether it
matters is read off the claims file: each claim about the cell is judged once on the reference and once on the
variant. Of a study that repeats the whole graph, every claim gets its verdict over the seeds.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from repro.intervals import Interval
from repro.ledger import check_unique
from repro.profile import read_yaml
from repro.report.numbers import intervals
from repro.report.numbers.claims import Claim, Claims, Entry, judge
from repro.report.numbers.evaluations import (
    CLEANCLIP,
    LOSSES,
    OBJECTIVES,
    TABLE1_ROWS,
    Evidence,
    FinishedRun,
    Settings,
)
from repro.report.numbers.verdicts import verdicts
from repro.report.studies.outcomes import MEASURES, Model, Outcomes, VariantOutcome, outcomes
from repro.spec import SpecError
from repro.study.archive import read_archive


class Variant(Entry):
    """What the report shows of a variant in specs/studies/<name>.yaml."""

    model_config = Entry.model_config | {"extra": "ignore"}

    overrides: dict[str, Any]
    poisoned: bool
    why: str


class Outline(Entry):
    """What the report needs of specs/studies/<name>.yaml; the study itself is checked by whoever runs it."""

    model_config = Entry.model_config | {"extra": "ignore"}

    question: str
    profile: str
    reference: str
    variants: dict[str, Variant]


@dataclass(frozen=True, slots=True)
class StudyResults:
    """A study of this profile that has results."""

    name: str
    outline: Outline
    runs: tuple[FinishedRun, ...]

    def by_variant(self, settings: Settings) -> dict[str, Evidence]:
        """The runs of each variant, as `<study>/<variant>`, with the seeds that they have."""
        found: dict[str, list[FinishedRun]] = defaultdict(list)
        for run in self.runs:
            found[f"{self.name}/{run.record.spec.variant}"].append(run)
        return {
            name: Evidence(
                settings=replace(
                    settings, seeds=tuple(sorted({run.record.spec.seed for run in runs}))
                ),
                runs=tuple(runs),
                archived=True,
            )
            for name, runs in found.items()
        }


def read_study_results(profile: str, root: Path) -> tuple[StudyResults, ...]:
    """Studies of the profile below `root` that have results; SpecError or LedgerError for a file that cannot be used."""
    found = []
    for path in sorted((root / "specs" / "studies").glob("*.yaml")):
        archive = root / "results" / "studies" / f"{path.stem}.jsonl.gz"
        if archive.is_file():
            try:
                outline = Outline.model_validate(read_yaml(path))
            except ValidationError as error:
                first = error.errors()[0]
                raise SpecError(
                    f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
                ) from None
            if outline.profile == profile and (
                runs := tuple(run for run in _runs(archive, root) if run.rows)
            ):
                found.append(StudyResults(path.stem, outline, runs))
    return tuple(found)


def _runs(archive: Path, root: Path) -> Iterator[FinishedRun]:
    """The archive's runs, each named as a path below the archive, and hashed by its content there."""
    for record, rows in read_archive(archive):
        check_unique(rows)
        spec = record.spec
        content = json.dumps(
            [record.model_dump(mode="json"), [row.model_dump(mode="json") for row in rows]]
        )
        name = "/".join((archive.relative_to(root).as_posix(), spec.stage, spec.cell, spec.run_id))
        yield FinishedRun(name, record, tuple(rows), hashlib.sha256(content.encode()).hexdigest())


def variants_of(studies: Sequence[StudyResults], settings: Settings) -> dict[str, Evidence]:
    """The runs of every variant of every study, as `<study>/<variant>`."""
    return {name: part for study in studies for name, part in study.by_variant(settings).items()}


def study_entry(
    study: StudyResults, claims: Claims, settings: Settings, variants: Mapping[str, Evidence]
) -> dict[str, Any]:
    """A study in the shape of report.json; `variants` are those of all studies, for the claims that one of them decides."""
    reference = study.outline.reference
    ranks = {
        label: rank
        for rank, label in enumerate(dict.fromkeys([reference, *study.outline.variants]))
    }
    found = dict(
        sorted(
            outcomes(study.runs, settings).items(),
            key=lambda item: ranks.get(item[0][0], len(ranks)),
        )
    )
    return {
        "name": study.name,
        "question": study.outline.question,
        "reference": reference,
        "variants": [
            {
                "variant": label,
                "changed": {k: str(v) for k, v in variant.overrides.items()},
                "poisoned": variant.poisoned,
                "why": variant.why,
            }
            for label, variant in study.outline.variants.items()
        ],
        "rows": effects(found, reference, claims, settings),
        "sizes": size_effects(found, reference, settings.confidence),
        "interactions": interactions(found, reference, settings.confidence),
        "claims": repeated_claims(study, claims, settings, variants),
        "code": sorted({run.record.code for run in study.runs}),
        "commits": sorted({run.record.commit or "" for run in study.runs}),
        "machines": sorted({run.machine for run in study.runs}),
        "runs": [run.folder for run in study.runs],
    }


def effects(
    found: Outcomes, reference: str, claims: Claims, settings: Settings
) -> list[dict[str, Any]]:
    """Outcomes of every variant and model, and their differences from the reference: one row a variant, model and cleaning size."""
    rows: list[dict[str, Any]] = []
    for (variant, dataset, objective, size), by_seed in found.items():
        compared = found.get((reference, dataset, objective, size), {})
        seeds = sorted(by_seed.keys() & compared.keys())
        rows.append(
            {
                "variant": variant,
                "dataset": dataset,
                "pretrain_objective": objective,
                "clean_size": size,
                "seeds": sorted(by_seed),
                "values": {
                    name: [getattr(by_seed[seed], name) for seed in sorted(by_seed)]
                    for name in MEASURES
                },
                "means": {
                    name: _mean([getattr(o, name) for o in by_seed.values()]) for name in MEASURES
                },
                "effects": None
                if variant == reference or not seeds
                else {
                    name: _effect(
                        [(getattr(by_seed[s], name), getattr(compared[s], name)) for s in seeds],
                        settings.confidence,
                    )
                    for name in MEASURES
                },
                "verdicts": []
                if variant == reference or not seeds
                else _verdicts(
                    claims,
                    settings,
                    (dataset, objective, size),
                    [by_seed[s] for s in seeds],
                    [compared[s] for s in seeds],
                ),
            }
        )
    return [row | {"could_change": _could_change(row["verdicts"])} for row in rows]


def interactions(found: Outcomes, reference: str, confidence: float) -> list[dict[str, Any]]:
    """How much more a variant changes the best accuracy at the cap of MMCL + SSL models than of MMCL models, paired over seeds.

    This is how far the variant could account for a difference between the objectives: one row a variant, dataset and cleaning
    size that has both.
    """
    rows = []
    for variant, dataset, objective, size in found:
        if variant != reference and objective == OBJECTIVES[1]:
            groups = [
                found.get((of, dataset, model, size), {})
                for model in OBJECTIVES[::-1]
                for of in (variant, reference)
            ]
            pairs: list[tuple[float | None, float | None]] = []
            for seed in sorted(set[int].intersection(*map(set, groups))):
                values = [
                    best for group in groups if (best := group[seed].cleaned_accuracy) is not None
                ]
                if len(values) == len(groups):
                    pairs.append((values[0] - values[1], values[2] - values[3]))
            if effect := _effect(pairs, confidence):
                rows.append(
                    {"variant": variant, "dataset": dataset, "clean_size": size, "effect": effect}
                )
    return rows


def size_effects(found: Outcomes, reference: str, confidence: float) -> list[dict[str, Any]]:
    """What the larger cleaning set does to the best accuracy at the cap: one row a variant and model that were cleaned with both.

    `effect` is the larger set's less the smaller one's, paired over seeds; `against_reference` is how much the variant changes
    that. `looks_worse` answers whether more data looks worse by itself and because of the variant: yes if both intervals
    lie below zero, no if the first one does not reach below it or the second lies above, else undecided.
    """
    gains: dict[Model, dict[int, float]] = {}
    for (variant, dataset, objective, size), by_seed in found.items():
        smaller = found.get((variant, dataset, objective, "100k"), {})
        if size == "200k" and smaller:
            pairs = (
                (seed, o.cleaned_accuracy, smaller[seed].cleaned_accuracy)
                for seed, o in by_seed.items()
                if seed in smaller
            )
            gains[variant, dataset, objective] = {
                s: large - small
                for s, large, small in pairs
                if large is not None and small is not None
            }
    rows = []
    for (variant, dataset, objective), gain in gains.items():
        effect = _effect([(value, 0.0) for value in gain.values()], confidence)
        compared = gains.get((reference, dataset, objective), {})
        both: list[tuple[float | None, float | None]] = [
            (gain[s], compared[s]) for s in sorted(gain.keys() & compared.keys())
        ]
        change = _effect(both, confidence) if variant != reference else None
        rows.append(
            {
                "variant": variant,
                "dataset": dataset,
                "pretrain_objective": objective,
                "seeds": sorted(gain),
                "effect": effect,
                "against_reference": change,
                "looks_worse": effect and change and _worse(effect["ci"], change["ci"]),
            }
        )
    return rows


def _worse(effect: Interval | None, change: Interval | None) -> str:
    if effect and change and effect[1] < 0 and change[1] < 0:
        return "yes"
    return "no" if effect and change and (effect[0] >= 0 or change[0] >= 0) else "undecided"


def repeated_claims(
    study: StudyResults, claims: Claims, settings: Settings, variants: Mapping[str, Evidence]
) -> list[dict[str, Any]]:
    """Verdicts over the seeds of a study whose reference covers every cell and loss of the main graph; none of another."""
    whole = variants.get(f"{study.name}/{study.outline.reference}", Evidence(settings=settings))
    covered = {
        (s.dataset, s.clean_size, s.pretrain_objective, s.loss)
        for run in whole.runs
        if (s := run.record.spec).stage == "clean"
    }
    if not all(
        (*row, objective, loss) in covered
        for row in TABLE1_ROWS
        for objective in OBJECTIVES
        for loss in LOSSES
    ):
        return []
    return [
        {name: claim[name] for name in ("id", "verdict", "evidence")}
        for claim in verdicts(whole, claims, variants)
    ]


def _effect(
    pairs: list[tuple[float | None, float | None]], confidence: float
) -> dict[str, Any] | None:
    """Mean difference over seeds; `undecided` unless its interval leaves zero out."""
    differences = [
        variant - default
        for variant, default in pairs
        if variant is not None and default is not None
    ]
    if not differences:
        return None
    interval = intervals.student(differences, confidence)
    return {
        "value": _mean(differences),
        "ci": interval,
        "n": len(differences),
        "undecided": interval is None or interval[0] <= 0 <= interval[1],
    }


METRICS: dict[str, Callable[[VariantOutcome], float | None]] = {
    "start_accuracy": lambda o: o.accuracy,
    "start_asr": lambda o: o.asr,
    "cleaned_accuracy": lambda o: o.cleaned_accuracy,
    "lowest_asr": lambda o: o.lowest_asr,
    "relative_drop": lambda o: o.relative_drop,
}
"""Metrics of the claims file that concern one model and can be read off an outcome."""


def _verdicts(
    claims: Claims,
    settings: Settings,
    cell: tuple[str, str, str | None],
    variant: list[VariantOutcome],
    reference: list[VariantOutcome],
) -> list[dict[str, Any]]:
    """Each claim about the cell, judged on the intervals over seeds of reference and variant."""
    found = []
    for claim in claims.claims:
        if (
            claim.expect is not None
            and claim.study is None
            and claim.metric in METRICS
            and _about(claim, cell)
        ):
            capped = claim.absolute and bool(settings.stand_in)
            metric = METRICS[claim.metric]
            effect = _effect(
                [
                    (metric(after), metric(before))
                    for after, before in zip(variant, reference, strict=True)
                ],
                settings.confidence,
            )
            over_seeds = [
                intervals.student(
                    [value for outcome in group if (value := metric(outcome)) is not None],
                    settings.confidence,
                )
                for group in (reference, variant)
            ]
            before, after = (
                judge(claim.expect, claim.direction, i, capped) if i else "undecided"
                for i in over_seeds
            )
            changes = (
                before != after
                and "undecided" not in (before, after)
                and effect is not None
                and not effect["undecided"]
            )
            found.append(
                {"id": claim.id, "reference": before, "variant": after, "changes": changes}
            )
    return found


def _about(claim: Claim, cell: tuple[str, str, str | None]) -> bool:
    dataset, objective, size = cell
    return (
        dataset in claim.datasets
        and objective in claim.objectives
        and claim.loss in (None, CLEANCLIP)
        and (not claim.clean_sizes or size in claim.clean_sizes)
    )


def _could_change(verdicts: list[dict[str, Any]]) -> str | None:
    """`yes` if a decided verdict becomes another decided one and the effect on the claim's metric is decided too.

    `no` if every verdict is decided and stays, else `undecided`: intervals over few seeds end near a claim's bound by chance.
    """
    if not verdicts:
        return None
    if any(verdict["changes"] for verdict in verdicts):
        return "yes"
    stays = all(v["reference"] == v["variant"] != "undecided" for v in verdicts)
    return "no" if stays else "undecided"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
