"""Generated tables of docs/findings.md and docs/mini.md, from the archives of studies alone.

The archives are in git, so the tables are the same for everybody. The prose around them is by hand.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from repro.ledger import LedgerError
from repro.markdown import block_in, differences, fill, table_lines
from repro.profile import SPECS, load_profile
from repro.report.format import label, markdown_percent
from repro.report.judging.claims import load_claims
from repro.report.measures import Evaluations
from repro.report.numbers.evidence import Settings
from repro.report.points import evaluations
from repro.report.studies.estimates import DECIDED_Q, Effect, Measured
from repro.report.studies.frames import archive_frame, outcomes
from repro.report.studies.replicates import REPLICATES
from repro.report.studies.results import Studied, archive_problems, read_study_results, studied
from repro.report.studies.tables import MEASURES
from repro.report.verdicts import CellVerdict, MeasureVerdict, verdicts
from repro.spec import SpecError

DOCUMENTED = "mini"
"""The profile that the two pages are about."""
FINDINGS, TRIES = Path("docs/findings.md"), Path("docs/mini.md")
UNITS = {"fraction": 100.0}
"""Factor from a measure's unit to what is printed; shares are printed in points."""
FIRST = "first_setting.jsonl.gz"
"""Archive of the cleanings of `mini`'s first setting."""
CLEANING = ("cleaned_accuracy", "asr_left")
"""Measures whose decided effects stand in docs/findings.md."""


def write_findings(profile: str) -> None:
    """Write the generated tables of docs/findings.md and docs/mini.md.

    SpecError for another profile than the one that these pages are about, LedgerError for an
    archive that is not the one of dvc.lock or git.
    """
    if profile != DOCUMENTED:
        raise SpecError(f"findings: profile {profile!r} (allowed: {DOCUMENTED})")
    if problems := archive_problems(profile):
        raise LedgerError("\n".join(problems))
    for (path, name), block in blocks().items():
        fill(path, name, block)
        print(f"{path}: {name}")


def stale_findings(profile: str, root: Path = Path()) -> list[str]:
    """Lines of the generated tables that the archives do not give, each with its file and line.

    None for another profile, and where the pages are not there.
    """
    if profile != DOCUMENTED or not all((root / path).is_file() for path in (FINDINGS, TRIES)):
        return []

    found = []
    for (path, name), block in blocks(root).items():
        table = block_in((root / path).read_text(encoding="utf-8"), name)
        if table is None:
            found.append(f"{path}: the marks of the block {name!r} are missing")
        else:
            found += differences(path, table, block)
    return found


def blocks(root: Path = Path()) -> dict[tuple[Path, str], str]:
    """Markdown by file and name of the block; LedgerError for an archive that cannot be used."""
    claims = load_claims(root / SPECS / "claims.yaml")
    settings = Settings.of(load_profile(DOCUMENTED, root / SPECS))
    results = read_study_results(DOCUMENTED, root)
    found = studied(results, settings, claims.rules.rate.get(DOCUMENTED), root)
    frames = [evaluations(study.runs, settings.denominator, study.name) for study in results]
    by_arm = Evaluations(pd.concat(frames, ignore_index=True), settings.cap)
    judged = verdicts(by_arm, claims, DOCUMENTED)
    tables = {
        (FINDINGS, "verdicts"): _verdicts(judged.exploratory),
        (FINDINGS, "axes"): _axes(found),
        (FINDINGS, "prices"): _prices(found),
        (FINDINGS, "effects"): _effects(found),
        (TRIES, "tries"): _tries(found, settings.cap, root),
        (TRIES, "rounding"): _rounding(found),
    }
    return {place: "\n".join(lines) for place, lines in tables.items()}


def _verdicts(measures: list[MeasureVerdict]) -> list[str]:
    """MMCL + SSL less MMCL: a row a measure, a column a cell."""
    if not measures:
        return []
    cells = [cell for cell in _shown(measures[0]) if cell is not None]
    heads = [_cell_name(cell) for cell in cells]
    rows = []
    for measure in measures:
        scale = UNITS.get(measure.unit, 1.0)
        unit = "points" if measure.unit == "fraction" else measure.unit
        texts = [
            "-" if cell is None else f"{_difference(cell, scale)}: {cell.verdict}"
            for cell in _shown(measure)
        ]
        rows.append([f"{measure.title} ({unit})", *texts])
    return table_lines(["measure", *heads], rows)


def _shown(measure: MeasureVerdict) -> list[CellVerdict | None]:
    first = measure.cells[0].comparator if measure.cells else ""
    return [*(cell for cell in measure.cells if cell.comparator == first), measure.pooled]


def _cell_name(cell: CellVerdict) -> str:
    if cell.dataset is None:
        return "mean of the cells"
    return f"{label(cell.dataset)}, {label(cell.clean_size)}"


def _difference(cell: CellVerdict, scale: float) -> str:
    found = cell.difference
    text = f"{'at least ' * found.at_least}{scale * found.mean:+.1f}"
    if found.interval is None:
        return text
    low, high = (scale * end for end in found.interval)
    return f"{text} [{low:.1f}, {high:.1f}]"


def _axes(found: Studied) -> list[str]:
    """What is left of the attack, or was there before cleaning, over the numbers of studies."""
    rows = []
    for entry in found.responses:
        measured = "ASR left" if entry.tested == "asr_left" else "ASR before"
        numbers: dict[float, dict[str, str]] = {}
        for curve in entry.curves:
            for point in curve.points:
                text = _measured(point.measures.get(entry.tested))
                numbers.setdefault(point.number, {})[curve.pretrain_objective] = text
        for index, (number, by_objective) in enumerate(sorted(numbers.items())):
            texts = [by_objective.get(objective, "-") for objective in ("mmcl", "mmcl_ssl")]
            rows.append([f"{entry.axis} ({measured})" * (index == 0), f"{number:g}", *texts])
    return table_lines(["what varies", "number", label("mmcl"), label("mmcl_ssl")], rows)


def _prices(found: Studied) -> list[str]:
    rows = [
        [
            f"{label(price.dataset)}, {label(price.clean_size)}, {label(price.pretrain_objective)}",
            _measured(price.poisoned),
            _measured(price.unpoisoned),
            _effect(price.difference),
        ]
        for study in found.studies
        for price in study.prices
    ]
    return table_lines(["model", "poisoned", "never poisoned", "difference"], rows)


def _effects(found: Studied) -> list[str]:
    """Decided effects on what cleaning leaves, and how many effects there are in all."""
    rows = [
        [
            study.name,
            f"`{row.variant}`",
            f"{label(row.dataset)}, {label(row.clean_size)}, {label(row.pretrain_objective)}",
            MEASURES[name],
            _effect(row.effects[name]),
        ]
        for study in found.studies
        for row in study.rows
        for name in CLEANING
        if name in row.effects and (row.effects[name].q or 1) <= DECIDED_Q
    ]
    family = found.effects_family
    assert family is not None
    return [
        *table_lines(["study", "variant", "model", "measure", "effect"], rows),
        "",
        f"Of {family.tested} effects in all studies, {family.intervals_beyond_zero} have an "
        f"interval that leaves zero out, where chance alone would make {family.by_chance:.0f} do "
        f"so; {family.decided} have a q value of at most {DECIDED_Q:g}.",
    ]


def _tries(found: Studied, cap: float, root: Path) -> list[str]:
    """The tries of `mini`'s setting: MMCL models of CC6M, cleaned with 200K."""
    first = archive_frame(root / REPLICATES / FIRST)
    before = first[(first.dataset == "cc6m") & (first.clean_size == "200k")]
    rows = [
        [
            "the first setting: 12 epochs of pre-training and of cleaning",
            str(outcome.seed),
            markdown_percent(outcome.accuracy),
            f"{outcome.cleaned:d} of 1",
            markdown_percent(outcome.lost),
        ]
        for outcome in outcomes(before, cap, None).itertuples()
    ]
    for study in found.studies:
        if study.name != "regime":
            continue
        why = {variant.variant: variant.why for variant in study.variants}
        for row in study.rows:
            lost = "at least " * bool(row.not_cleaned) + _measured(row.measures["lost"])
            cleaned = f"{row.tried - row.not_cleaned} of {row.tried}"
            seeds = ", ".join(map(str, row.seeds))
            accuracy = _measured(row.measures["accuracy"])
            rows.append([why[row.variant], seeds, accuracy, cleaned, lost])
    return table_lines(["try", "seeds", "accuracy before", "cleaned", "accuracy lost"], rows)


def _rounding(found: Studied) -> list[str]:
    """Standard deviations between replicates and between seeds: a row a measure."""
    rows: dict[str, list[str]] = {}
    for item in found.replicates:
        text = f"{markdown_percent(item.sd)} / {markdown_percent(item.sd_seeds)}"
        rows.setdefault(MEASURES[item.measure], []).append(text)
    models = dict.fromkeys(
        f"{label(item.dataset)}, {label(item.clean_size)}, {label(item.pretrain_objective)}"
        for item in found.replicates
    )
    return table_lines(["measure", *models], [[name, *texts] for name, texts in rows.items()])


def _measured(measure: Measured | None) -> str:
    """A mean over seeds in percent, with its interval."""
    if measure is None or measure.mean is None:
        return "-"
    if measure.ci is None:
        return markdown_percent(measure.mean)
    low, high = map(markdown_percent, measure.ci)
    return f"{markdown_percent(measure.mean)} [{low}, {high}]"


def _effect(effect: Effect) -> str:
    """An effect in points, with its interval and its q value."""
    low, high = map(markdown_percent, effect.ci)
    sign = "+" if effect.value > 0 else ""
    q = "" if effect.q is None else f", q = {effect.q:.3f}"
    return f"{sign}{markdown_percent(effect.value)} [{low}, {high}]{q}"
