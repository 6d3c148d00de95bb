"""docs/findings.md: what the studies say about the paper's claims, generated from their archives.

The archives lie in git, so the page is the same for everybody, whatever the main graph gave on their machine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2

from repro.profile import SPECS, load_profile
from repro.report.pages.templating import TEMPLATES
from repro.report.document import finite
from repro.report.format import label, markdown_percent, short
from repro.report.numbers.claims import Claims, combine, load_claims
from repro.report.numbers.evaluations import Settings
from repro.report.studies.effects import read_study_results, study_entry, variants_of
from repro.report.studies.machines import repeated
from repro.report.studies.outcomes import MEASURES

FINDINGS = Path("docs/findings.md")
BLOCK = "findings"


def findings_block(profile_name: str, root: Path = Path()) -> str:
    """Markdown of everything that the studies of a profile say; LedgerError or SpecError for a file that cannot be used."""
    settings = Settings.of(load_profile(profile_name, root / SPECS))
    claims = load_claims(root / SPECS / "claims.yaml")
    side = read_study_results(profile_name, root)
    variants = variants_of(side, settings)
    studies = finite([study_entry(study, claims, settings, variants) for study in side])
    environment = jinja2.Environment(  # noqa: S701 (Markdown, not HTML: `finalize` keeps tags out of it)
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_inert,
    )
    environment.filters |= {
        "percent1": markdown_percent,
        "short": short,
        "label": label,
        "code": "`{}`".format,
        "abbreviated": lambda commit: commit[:7],
    }
    text = environment.get_template("findings.md.j2").render(
        studies=studies,
        machines=finite(repeated(side, settings)),
        settings=settings,
        measures=MEASURES,
        main_claims=claims.main_claims,
        headline=_headline(claims),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _inert(value: Any) -> Any:
    """Text without the start of an HTML tag; what a macro printed passes unchanged the second time."""
    return value.replace("<", "&lt;") if isinstance(value, str) else value


def stale_findings(profile_name: str, root: Path = Path()) -> list[str]:
    """Lines of docs/findings.md that the archives do not bear out, each with its number; none where the page is not there."""
    path = root / FINDINGS
    if not path.is_file():
        return []
    match = re.search(
        rf"<!-- {BLOCK}:start -->\n(.*?)\n<!-- {BLOCK}:end -->",
        path.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    if match is None:
        return [f"{FINDINGS}: the marks of the block {BLOCK!r} are missing"]
    shown, expected = match[1].splitlines(), findings_block(profile_name, root).splitlines()
    first = path.read_text(encoding="utf-8")[: match.start(1)].count("\n") + 1
    lines = [
        f"{FINDINGS}:{first + index}: {line[:100]!r} on the page, {wanted[:100]!r} from the archives"
        for index, (line, wanted) in enumerate(zip(shown, expected, strict=False))
        if line != wanted
    ]
    return lines or (
        [f"{FINDINGS}: {len(shown)} lines, {len(expected)} from the archives"]
        if len(shown) != len(expected)
        else []
    )


def _headline(claims: Claims) -> Any:
    """The verdict on the paper's main claims together, from verdicts by id."""
    return lambda judged: combine([judged[name]["verdict"] for name in claims.main_claims])
