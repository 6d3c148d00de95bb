"""Studies beside the main graph (specs/studies): what a change does, seed by seed against the
reference.

A variant and the reference are trained from the same seeds, so effects are paired differences, with
a Student interval over seeds. An effect whose interval holds zero lies below the spread of training
and is called undecided. Of a study that cleans every cell of Table 1, claims get their verdict over
the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from repro.intervals import Interval
from repro.report.judging.claims import Claims
from repro.report.judging.verdicts import judged_claims
from repro.report.numbers import intervals
from repro.report.numbers.cells import CLEANCLIP, cells
from repro.report.numbers.evidence import Evidence, Settings
from repro.report.schema.base import Effect
from repro.report.schema.studies import (
    Answer,
    EffectRow,
    InteractionRow,
    RepeatedClaim,
    SizeRow,
    StudyEntry,
    StudyVariant,
)
from repro.report.studies.comparison import (
    Judged,
    compared_verdicts,
    could_change,
)
from repro.report.studies.outcomes import (
    MEASURES,
    Outcomes,
    VariantCell,
    VariantModel,
    VariantOutcome,
    outcomes,
)
from repro.report.studies.results import StudyResults


def study_entry(
    study: StudyResults, claims: Claims, settings: Settings, variants: Mapping[str, Evidence]
) -> StudyEntry:
    """A study in the shape of report.json.

    `variants` are those of all studies, for the claims that one of them decides.
    """
    reference = study.spec.reference

    # The reference comes first, then the variants as their file has them.
    found = _in_order(outcomes(study.runs, settings), [reference, *study.spec.variants])
    return {
        "name": study.name,
        "question": study.spec.question,
        "reference": reference,
        "variants": _variants(study),
        "rows": effects(found, reference, claims, settings),
        "sizes": size_effects(found, reference, settings.confidence),
        "interactions": interactions(found, reference, settings.confidence),
        "claims": repeated_claims(study, claims, variants),
        "code": sorted({run.record.code for run in study.runs}),
        "commits": sorted({run.record.commit or "" for run in study.runs}),
        "machines": sorted({run.machine for run in study.runs}),
        "runs": [run.folder for run in study.runs],
    }


def effects(found: Outcomes, reference: str, claims: Claims, settings: Settings) -> list[EffectRow]:
    """Outcomes of every variant and model, and their differences from the reference: one row a
    cell.

    A seed on which nothing was cleaned has no best accuracy, so it is in no mean and no effect of
    it; the row counts such seeds, and its verdicts take them as not cleaned.
    """
    return [_effect_row(found, cell, reference, claims, settings) for cell in found]


def _effect_row(
    found: Outcomes, cell: VariantCell, reference: str, claims: Claims, settings: Settings
) -> EffectRow:
    # The same model and cleaning size under the reference, with the seeds that it has.
    by_seed = found[cell]
    compared = found.get(cell._replace(variant=reference), {})
    own = [by_seed[seed] for seed in sorted(by_seed)]
    row: EffectRow = {
        "variant": cell.variant,
        "dataset": cell.dataset,
        "pretrain_objective": cell.objective,
        "clean_size": cell.clean_size,
        "seeds": sorted(by_seed),
        "values": {name: [of.measure(name) for of in own] for name in MEASURES},
        "means": {name: _mean([of.measure(name) for of in own]) for name in MEASURES},
        "tried": sum(of.tried for of in own),
        "not_cleaned": sum(of.not_cleaned for of in own),
        "effects": None,
        "verdicts": [],
        "could_change": None,
    }

    # The reference is not compared with itself, nor a variant that shares no seed with it.
    seeds = sorted(by_seed.keys() & compared.keys())
    if cell.variant == reference or not seeds:
        return row

    # Over the shared seeds only, so that every difference is of one seed.
    after, before = [by_seed[seed] for seed in seeds], [compared[seed] for seed in seeds]
    row["effects"] = _effects(after, before, settings.confidence)

    # The MMCL model beside each side is its positive control.
    control = cell._replace(objective="mmcl")
    row["verdicts"] = compared_verdicts(
        claims,
        settings,
        cell,
        Judged(after, found.get(control, {}).values()),
        Judged(before, found.get(control._replace(variant=reference), {}).values()),
    )
    row["could_change"] = could_change(row["verdicts"])
    return row


def _effects(
    after: Sequence[VariantOutcome], before: Sequence[VariantOutcome], confidence: float
) -> dict[str, Effect | None]:
    """The effect on every measure, paired over seeds."""
    found = {}
    for name in MEASURES:
        pairs = [
            (of.measure(name), reference.measure(name))
            for of, reference in zip(after, before, strict=True)
        ]
        found[name] = intervals.paired_effect(pairs, confidence)
    return found


def interactions(found: Outcomes, reference: str, confidence: float) -> list[InteractionRow]:
    """How much more a variant changes the best accuracy at the cap of MMCL + SSL than of MMCL
    models.

    This is how far the variant could account for a difference between the objectives, paired over
    seeds: one row a variant, dataset and cleaning size that has both.
    """
    # One row a pair of models: the MMCL + SSL cell stands for both.
    rows: list[InteractionRow] = []
    for cell in found:
        if cell.variant == reference or cell.objective != "mmcl_ssl":
            continue

        # None where no seed has all four trainings that it takes.
        effect = intervals.paired_effect(_changes(found, cell, reference), confidence)
        if effect is None:
            continue
        rows.append(
            {
                "variant": cell.variant,
                "dataset": cell.dataset,
                "clean_size": cell.clean_size,
                "effect": effect,
            }
        )
    return rows


def _changes(found: Outcomes, cell: VariantCell, reference: str) -> list[intervals.Pair]:
    """By seed: what the variant changes of an MMCL + SSL model, and of the MMCL model beside it."""
    with_ssl, without = cell, cell._replace(objective="mmcl")

    # Four outcomes a seed: variant and reference of the one objective, then of the other.
    groups = [
        found.get(of._replace(variant=variant), {})
        for of in (with_ssl, without)
        for variant in (cell.variant, reference)
    ]
    pairs: list[intervals.Pair] = []
    for seed in sorted(set[int].intersection(*map(set, groups))):
        best = [group[seed].cleaned_accuracy for group in groups]

        # The pair of changes takes all four; its difference is a difference of differences.
        known = [value for value in best if value is not None]
        if len(known) == len(groups):
            pairs.append((known[0] - known[1], known[2] - known[3]))
    return pairs


def size_effects(found: Outcomes, reference: str, confidence: float) -> list[SizeRow]:
    """What the larger cleaning set does to the best accuracy at the cap.

    One row a variant and model that were cleaned with both. `effect` is the larger set's less the
    smaller one's, paired over seeds; `against_reference` is how much the variant changes that.
    `looks_worse` answers whether more data looks worse by itself and because of the variant.
    """
    gains = _gains(found)
    return [_size_row(gains, model, reference, confidence) for model in gains]


def _gains(found: Outcomes) -> dict[VariantModel, dict[int, float]]:
    """By model and seed: what the larger cleaning set gains."""
    # Each 200K cell is compared with the 100K cell of the same model.
    gains: dict[VariantModel, dict[int, float]] = {}
    for cell, by_seed in found.items():
        smaller = found.get(cell._replace(clean_size="100k"), {})
        if cell.clean_size != "200k" or not smaller:
            continue

        # Seeds that were cleaned with both sets.
        gain = {}
        for seed in by_seed.keys() & smaller.keys():
            large = by_seed[seed].cleaned_accuracy
            small = smaller[seed].cleaned_accuracy
            if large is not None and small is not None:
                gain[seed] = large - small
        gains[cell.model] = dict(sorted(gain.items()))
    return gains


def _size_row(
    gains: Mapping[VariantModel, Mapping[int, float]],
    model: VariantModel,
    reference: str,
    confidence: float,
) -> SizeRow:
    # A gain is a difference already, so it is paired with zero.
    gain = gains[model]
    effect = intervals.paired_effect([(value, 0.0) for value in gain.values()], confidence)

    # And how much of it is the variant's doing: the gain here less the gain under the reference.
    change = None
    if model.variant != reference:
        compared = gains.get(model._replace(variant=reference), {})
        shared = sorted(gain.keys() & compared.keys())
        pairs = [(gain[seed], compared[seed]) for seed in shared]
        change = intervals.paired_effect(pairs, confidence)
    return {
        "variant": model.variant,
        "dataset": model.dataset,
        "pretrain_objective": model.objective,
        "seeds": sorted(gain),
        "effect": effect,
        "against_reference": change,
        "looks_worse": _worse(effect["ci"], change["ci"]) if effect and change else None,
    }


def _worse(effect: Interval | None, change: Interval | None) -> Answer:
    """Yes if both intervals lie below zero, no if one of them does not reach below it, else
    undecided.
    """
    if effect is None or change is None:
        return "undecided"
    if effect[1] < 0 and change[1] < 0:
        return "yes"
    return "no" if effect[0] >= 0 or change[0] >= 0 else "undecided"


def repeated_claims(
    study: StudyResults, claims: Claims, variants: Mapping[str, Evidence]
) -> list[RepeatedClaim]:
    """Verdicts over the seeds of a study whose reference covers every cell of Table 1, on claims
    about models before cleaning and about the losses that it cleans with.

    None of another.
    """
    # Only such a study can answer the main claims; one of a part would leave most of them open.
    whole = whole_graph(study, variants)
    if whole is None:
        return []
    specs = [run.record.spec for run in whole.runs]
    cleaned_with = {spec.loss for spec in specs if spec.stage == "clean"}
    asked = [claim for claim in claims.claims if not claim.loss or claim.loss in cleaned_with]
    return [
        {"id": claim["id"], "verdict": claim["verdict"], "evidence": claim["evidence"]}
        for claim in judged_claims(whole, claims, asked, variants)
    ]


def whole_graph(study: StudyResults, variants: Mapping[str, Evidence]) -> Evidence | None:
    """The runs of a study's reference, if they clean every cell of Table 1 by CleanCLIP."""
    whole = variants.get(f"{study.name}/{study.spec.reference}")
    if whole is None:
        return None

    # What the reference cleaned, against all that Table 1 is made of.
    specs = [run.record.spec for run in whole.runs if run.record.spec.loss == CLEANCLIP]
    covered = {(spec.dataset, spec.clean_size, spec.pretrain_objective) for spec in specs}
    return whole if {tuple(cell) for cell in cells()} <= covered else None


def most_repeated(
    studies: Sequence[StudyResults], variants: Mapping[str, Evidence]
) -> tuple[str | None, Evidence | None]:
    """Of the studies whose reference covers every cell of Table 1, the one with the most seeds."""
    name, most = None, None
    for study in studies:
        whole = whole_graph(study, variants)
        if whole is None:
            continue
        if most is None or len(whole.settings.seeds) > len(most.settings.seeds):
            name, most = study.name, whole
    return name, most


def _in_order(found: Outcomes, variants: Sequence[str]) -> Outcomes:
    """Outcomes in the order of the variants; those of others come last."""
    # The reference is named twice, first and among the variants: its first place counts.
    ranks = {variant: rank for rank, variant in enumerate(dict.fromkeys(variants))}
    ordered = sorted(found, key=lambda cell: ranks.get(cell.variant, len(ranks)))
    return {cell: found[cell] for cell in ordered}


def _variants(study: StudyResults) -> list[StudyVariant]:
    return [
        {
            "variant": name,
            "changed": {path: str(value) for path, value in variant.overrides.items()},
            "poisoned": variant.poisoned,
            "why": variant.why,
        }
        for name, variant in study.spec.variants.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
