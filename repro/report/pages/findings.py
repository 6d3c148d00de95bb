"""Generated tables of docs/findings.md and docs/mini.md, from the archives of studies alone.

The archives are in git, so the tables are the same for everybody. The prose around them is by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from repro.ledger import LedgerError
from repro.markdown import block_in, differences, fill
from repro.profile import SPECS, load_profile
from repro.report.format import markdown_percent
from repro.report.judging.claims import load_claims
from repro.report.measures import Evaluations
from repro.report.numbers.evidence import Settings
from repro.report.pages.html import markdown
from repro.report.points import archived_runs, evaluations
from repro.report.studies.estimates import DECIDED_Q, Effect, Measured
from repro.report.studies.outcomes import MEASURES, outcomes
from repro.report.studies.replicates import REPLICATES
from repro.report.studies.results import archive_problems, read_study_results, studied
from repro.report.verdicts import Estimate, verdicts
from repro.spec import SpecError

DOCUMENTED = "mini"
"""The profile that the two pages are about."""
FINDINGS, TRIES = Path("docs/findings.md"), Path("docs/mini.md")
BLOCKS = {FINDINGS: ("verdicts", "axes", "prices", "effects"), TRIES: ("tries", "rounding")}
FIRST = "first_setting.jsonl.gz"
"""Archive of the cleanings of `mini`'s first setting."""


def write_findings(profile: str) -> None:
    """Write the generated tables of docs/findings.md and docs/mini.md.

    SpecError for another profile than the one that these pages are about, LedgerError for an
    archive that is not the one of dvc.lock.
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
    frame = pd.concat([study.frame for study in results], ignore_index=True)
    by_arm = Evaluations(frame, settings.cap)
    # The tries of `mini`'s setting: MMCL models of CC6M, cleaned with 200K.
    first = evaluations(archived_runs(REPLICATES / FIRST, root), settings.denominator)
    first = first[(first.dataset == "cc6m") & (first.clean_size == "200k")]
    text = markdown(
        "findings",
        exploratory=verdicts(by_arm, claims, DOCUMENTED).exploratory,
        found=studied(results, settings, claims.rules.rate.get(DOCUMENTED), root),
        first=list(outcomes(first, settings.cap, None).itertuples()),
        titles=MEASURES,
        decided_q=DECIDED_Q,
        numbers=_numbers,
        difference=_difference,
        measured=_measured,
        effect=_effect,
    )
    found = {(path, name): block_in(text, name) for path, names in BLOCKS.items() for name in names}
    return {place: block[1] for place, block in found.items() if block}


def _numbers(response: dict[str, Any]) -> list[tuple[float, dict[str, str]]]:
    """What was measured at each number that a study varies, by objective."""
    measured: dict[float, dict[str, str]] = {}
    for curve in response["curves"]:
        for point in curve["points"]:
            text = _measured(point["measures"].get(response["tested"]))
            measured.setdefault(point["number"], {})[curve["pretrain_objective"]] = text
    return sorted(measured.items())


def _difference(difference: Estimate, unit: str) -> str:
    """A difference with its interval; of shares in points."""
    scale = 100 if unit == "fraction" else 1
    text = f"{'at least ' * difference.at_least}{scale * difference.mean:+.1f}"
    if difference.interval is None:
        return text
    low, high = (scale * end for end in difference.interval)
    return f"{text} [{low:.1f}, {high:.1f}]"


def _measured(measure: Measured | None) -> str:
    """A mean over seeds in percent, with its interval."""
    if measure is None or measure.mean is None:
        return "-"
    ends = f" [{', '.join(map(markdown_percent, measure.ci))}]" if measure.ci else ""
    return markdown_percent(measure.mean) + ends


def _effect(effect: Effect) -> str:
    """An effect in points, with its interval and its q value."""
    low, high = map(markdown_percent, effect.ci)
    q = "" if effect.q is None else f", q = {effect.q:.3f}"
    return f"{'+' * (effect.value > 0)}{markdown_percent(effect.value)} [{low}, {high}]{q}"
