"""Generated tables of docs/findings.md and docs/mini.md, from the archives of studies alone.

The archives are in git, so the tables are the same for everybody. The prose around them is by hand.
"""

from pathlib import Path

import pandas as pd

from repro.ledger import LedgerError
from repro.markdown import block_in, differences, fill
from repro.profile import SPECS, load_profile
from repro.report.bench import bench
from repro.report.hypotheses import stated_hypotheses
from repro.report.judging.claims import load_claims
from repro.report.measures import Context, Evaluations
from repro.report.pages.html import answers, markdown
from repro.report.points import archived_runs, evaluations
from repro.report.studies.estimates import DECIDED_Q
from repro.report.studies.outcomes import MEASURES, REPLICATES, outcomes
from repro.report.studies.results import archive_problems, read_study_results, studied
from repro.report.verdicts import verdicts
from repro.spec import SpecError

DOCUMENTED = "mini"
"""The profile that the two pages are about."""
FINDINGS, TRIES = Path("docs/findings.md"), Path("docs/mini.md")
BLOCKS = {
    FINDINGS: ("verdicts", "axes", "prices", "mechanism", "bench", "effects"),
    TRIES: ("tries", "rounding"),
}
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
    if profile != DOCUMENTED or not all((root / path).is_file() for path in BLOCKS):
        return []

    return [
        f"{path}:{line}"
        for (path, name), block in blocks(root).items()
        for line in differences((root / path).read_text(encoding="utf-8"), name, block)
    ]


def blocks(root: Path = Path()) -> dict[tuple[Path, str], str]:
    """Markdown by file and name of the block; LedgerError for an archive that cannot be used."""
    claims = load_claims(root / SPECS / "claims.yaml")
    profile = load_profile(DOCUMENTED, root / SPECS)
    cap, denominator = profile.evaluate.asr_cap, profile.switches.asr_denominator
    results = read_study_results(DOCUMENTED, root)
    frame = pd.concat([study.frame for study in results], ignore_index=True)
    by_arm = Evaluations(frame, Context.of(claims, profile))
    # The tries of `mini`'s setting: MMCL models of CC6M, cleaned with 200K.
    first = evaluations(archived_runs(REPLICATES / FIRST, root), denominator)
    first = first[(first.dataset == "cc6m") & (first.clean_size == "200k")]
    stated = stated_hypotheses(results, by_arm)
    text = markdown(
        "findings",
        hypotheses=stated,
        answers=answers(stated, bench(results, by_arm)),
        exploratory=verdicts(by_arm, claims, DOCUMENTED).exploratory,
        found=studied(results, profile, claims.rules.rate.get(DOCUMENTED), root),
        first=list(outcomes(first, cap, None).itertuples()),
        titles=MEASURES,
        decided_q=DECIDED_Q,
    )
    found = {(path, name): block_in(text, name) for path, names in BLOCKS.items() for name in names}
    return {place: block[1] for place, block in found.items() if block}
