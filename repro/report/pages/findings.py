"""docs/findings.md: what the studies say about the paper's claims, generated from their archives.

The archives lie in git, so the page is the same for everybody, whatever the main graph gave on
their machine. Everything that is counted or chosen is counted here; the template is prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from repro.ledger import LedgerError
from repro.markdown import block_in, differences, fill
from repro.profile import SPECS, load_profile
from repro.report.format import label, markdown_percent, short, worded
from repro.report.judging.claims import Claims, combine, load_claims
from repro.report.judging.control import control_words
from repro.report.numbers.evidence import Evidence, Settings
from repro.report.numbers.resistance import resistance
from repro.report.pages.templating import TEMPLATES
from repro.report.scales.ladder import told_problems
from repro.report.scales.printed import larger_in_words
from repro.report.schema.document import finite
from repro.report.schema.judged import CellEvidence, Verdict
from repro.report.schema.resistance import Resistance
from repro.report.schema.studies import (
    BySeed,
    MachineRow,
    RepeatedClaim,
    StudyEntry,
    StudyVariant,
)
from repro.report.studies.comparison import DECIDED
from repro.report.studies.effects import most_repeated, study_entry
from repro.report.studies.machines import repeated
from repro.report.studies.outcomes import MEASURES
from repro.report.studies.overview import overview
from repro.report.studies.resisting import OwnClaim, own_claims
from repro.report.studies.responses import decided_changes, equal_starts, responses
from repro.report.studies.results import (
    StudyResults,
    read_study_results,
    studies_to_run,
    variants_of,
)
from repro.report.studies.words import (
    effect_text,
    matched_words,
    model_name,
    outcome_text,
    with_interval,
)

FINDINGS = Path("docs/findings.md")
BLOCK = "findings"

IN_WORDS = {
    "mmcl-cleans": "That CleanCLIP cleans MMCL models without loss",
    "mmcl-ssl-fails": "That it costs MMCL + SSL models accuracy",
}
"""Claims that the summary tells, by id."""


class Told(NamedTuple):
    """A claim of the summary."""

    text: str
    verdict: Verdict


class MainClaim(NamedTuple):
    """A main claim in one cell."""

    verdict: Verdict
    cell: CellEvidence


class ClaimLine(NamedTuple):
    """A line of the table of claims: a claim in one cell, or one that was judged in none."""

    id: str
    """Empty after a claim's first line."""
    verdict: str
    cell: CellEvidence | None


@dataclass(frozen=True)
class Repetition:
    """A study that cleans every cell of Table 1 over seeds."""

    seeds: list[int]
    headline: Verdict
    told: list[Told]
    main: list[MainClaim]
    lines: list[ClaimLine]
    own: list[OwnClaim]
    """Claims of ours, which the paper does not make."""


def write_findings(profile_name: str) -> None:
    """Write the generated part of docs/findings.md."""
    fill(FINDINGS, BLOCK, findings_block(profile_name))
    print(FINDINGS)


def findings_block(profile_name: str, root: Path = Path()) -> str:
    """Markdown of everything that the studies of a profile say.

    LedgerError or SpecError for a file that cannot be used, or that is not the one that dvc.lock or
    git knows.
    """
    # A page from archives that git does not know would tell what nobody else can recompute.
    if problems := told_problems(profile_name, root):
        raise LedgerError("\n".join(problems))

    # Everything below is computed from the archives; of the profile only its settings are read.
    settings = Settings.of(load_profile(profile_name, root / SPECS))
    claims = load_claims(root / SPECS / "claims.yaml")
    results = read_study_results(profile_name, root)
    variants = variants_of(results, settings)
    studies: list[StudyEntry] = finite(
        [study_entry(study, claims, settings, variants) for study in results]
    )
    machines: list[MachineRow] = finite(repeated(results, settings))

    # What studies of a part are measured by: the rate that cleans the MMCL models over all seeds.
    of_most, most = most_repeated(results, variants)
    resisted = resistance(most, claims.paper, of_most) if most is not None else None

    environment = _environment()
    environment.filters["worded"] = partial(worded, stand_in=settings.stand_in)

    # Studies that clean every cell come first, then those of cleaning sizes, then all others.
    text = environment.get_template("findings.md.j2").render(
        settings=settings,
        measures=MEASURES,
        decided=DECIDED,
        studies=studies,
        repetitions=[
            _repetition(study, claims, own_claims(of, claims, variants))
            for study, of in zip(studies, results, strict=True)
            if study["claims"]
        ],
        of_sizes=[study for study in studies if study["sizes"] and not study["claims"]],
        others=[study for study in studies if not study["sizes"] and not study["claims"]],
        responses=_by_study(results, variants, resisted, settings, responses),
        equal_starts=_by_study(results, variants, resisted, settings, equal_starts),
        machines=machines,
        larger=larger_in_words(profile_name, claims, root),
        to_run=studies_to_run(profile_name, root),
        overview=overview(studies, machines, settings.confidence),
    )

    # Parts of the template that do not apply leave blank lines behind.
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def stale_findings(profile_name: str, root: Path = Path()) -> list[str]:
    """Lines of docs/findings.md that the archives do not bear out, each with its number.

    Of a page that is not there, or is of another profile, none; archives are checked all the same.
    """
    # Where the archives themselves are wrong, comparing the page with them tells nothing.
    if problems := told_problems(profile_name, root):
        return problems

    path = root / FINDINGS
    if not path.is_file():
        return []

    # Only the block between the marks is generated; what stands around it is prose.
    block = block_in(path.read_text(encoding="utf-8"), BLOCK)
    if block is None:
        return [f"{FINDINGS}: the marks of the block {BLOCK!r} are missing"]

    of = re.match(r"Profile `(\w+)`", block[1])
    if of is not None and of[1] != profile_name:
        return []

    return differences(FINDINGS, block, findings_block(profile_name, root))


def _environment() -> jinja2.Environment:
    # Markdown, so nothing is escaped as HTML would be: `finalize` keeps tags out of it.
    environment = jinja2.Environment(  # noqa: S701
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    environment.filters |= {
        "percent1": markdown_percent,
        "short": short,
        "control": control_words,
        "code": "`{}`".format,
        "abbreviated": lambda commit: commit[:7],
        "model": model_name,
        "effect": effect_text,
        "outcome": outcome_text,
        "by_seed": _by_seed,
        "spread": _spread,
        "label": label,
        "matched": matched_words,
        "decided_changes": decided_changes,
        # A bare bar would end the table's cell.
        "cell": lambda text: text.replace("|", "\\|"),
    }
    environment.globals["variant_of"] = _variant_of
    return environment


def _by_study(
    results: Sequence[StudyResults],
    variants: Mapping[str, Evidence],
    resisted: Resistance | None,
    settings: Settings,
    measured: Callable[..., list[Any]],
) -> dict[str, list[Any]]:
    """What `responses` or `equal_starts` finds, by study; nothing where no study covers all of
    Table 1.
    """
    if resisted is None:
        return {}
    found = {study.name: measured(study, variants, resisted, settings) for study in results}
    return {name: finite(entries) for name, entries in found.items() if entries}


def _inert(value: Any) -> Any:
    """Text without the start of an HTML tag; a macro's output passes unchanged a second time."""
    return value.replace("<", "&lt;") if isinstance(value, str) else value


def _by_seed(cell: CellEvidence, separator: str) -> str:
    """The values of a cell, one a seed."""
    return separator.join(markdown_percent(item["value"]) for item in cell["by_seed"])


def _spread(measure: BySeed | None) -> str:
    """A mean over seeds with its interval."""
    if measure is None:
        return "-"
    return with_interval(markdown_percent(measure["mean"]), measure["ci"])


def _variant_of(study: StudyEntry, name: str) -> StudyVariant:
    """What the study says about a variant; archives may hold one that it no longer names."""
    for variant in study["variants"]:
        if variant["variant"] == name:
            return variant
    return {"variant": name, "changed": {}, "poisoned": True, "why": ""}


def _repetition(study: StudyEntry, claims: Claims, own: list[OwnClaim]) -> Repetition:
    # Verdicts over the study's seeds; those of the main claims together are the headline.
    by_id = {claim["id"]: claim for claim in study["claims"]}
    return Repetition(
        seeds=study["rows"][0]["seeds"],
        headline=combine([by_id[name]["verdict"] for name in claims.main_claims]),
        told=[
            Told(IN_WORDS[claim["id"]], claim["verdict"])
            for claim in study["claims"]
            if claim["id"] in IN_WORDS
        ],
        main=[
            MainClaim(by_id[name]["verdict"], cell)
            for name in claims.main_claims
            for cell in by_id[name]["evidence"]
        ],
        lines=[line for claim in study["claims"] for line in _claim_lines(claim)],
        own=own,
    )


def _claim_lines(claim: RepeatedClaim) -> Iterator[ClaimLine]:
    if not claim["evidence"]:
        yield ClaimLine(claim["id"], claim["verdict"], None)
    for index, cell in enumerate(claim["evidence"]):
        # Id and verdict stand once, at the first of a claim's cells.
        first = index == 0
        yield ClaimLine(claim["id"] if first else "", claim["verdict"] if first else "", cell)
