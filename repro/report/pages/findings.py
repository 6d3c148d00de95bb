"""Generated tables of docs/findings.md, data.md and history.md, from the archives of studies alone.

The archives are in git, so the tables are the same for everybody. The prose around them is by hand.
"""

from pathlib import Path

import pandas as pd

from repro.markdown import block_in, differences, fill
from repro.profile import load_profile
from repro.report.answer import answer
from repro.report.claims import load_claims
from repro.report.document import plain
from repro.report.draws import draws
from repro.report.estimates import DECIDED_Q
from repro.report.hypotheses import stated_hypotheses
from repro.report.measures import Context, Evaluations
from repro.report.outcomes import REPLICATES, outcomes
from repro.report.pages.html import markdown
from repro.report.pages.tables import markdown_tables
from repro.report.points import archived_runs, evaluations
from repro.report.studies import (
    check_archives,
    read_study_results,
    studied,
    whole_seeds,
)
from repro.report.verdicts import scope_of, verdicts

DOCUMENTED = "mini"
"""The profile that the pages are about."""
FINDINGS, DATA, HISTORY = (Path("docs", f"{name}.md") for name in ("findings", "data", "history"))
BLOCKS = {
    FINDINGS: ("answer", "verdicts", "axes", "twins", "mechanism", "defences", "effects", "draws"),
    DATA: ("rounding",),
    HISTORY: ("tries",),
}
FIRST = "first_setting.jsonl.gz"
"""Archive of the cleanings of `mini`'s first setting."""


def write_findings() -> None:
    """Write the generated tables of the pages.

    LedgerError for an archive that is not the committed one.
    """
    check_archives(DOCUMENTED)
    for (path, name), block in blocks().items():
        fill(path, name, block)
        print(f"{path}: {name}")


def stale_findings(profile: str) -> list[str]:
    """Lines of the generated tables that the archives do not give, each with its file and line.

    None for another profile, and where the pages are not there.
    """
    if profile != DOCUMENTED or not all(map(Path.is_file, BLOCKS)):
        return []

    return [
        f"{path}:{line}"
        for (path, name), block in blocks().items()
        for line in differences(path.read_text(encoding="utf-8"), name, block)
    ]


def blocks() -> dict[tuple[Path, str], str]:
    """Markdown by file and name of the block; LedgerError for an archive that cannot be used."""
    claims, profile = load_claims(), load_profile(DOCUMENTED)
    cap, denominator = profile.evaluate.asr_cap, profile.switches.asr_denominator
    results = read_study_results(DOCUMENTED)
    frame = pd.concat([study.frame for study in results], ignore_index=True)
    by_arm = Evaluations(frame, Context.of(claims, profile))
    # The tries of `mini`'s setting: MMCL models of CC6M, cleaned with 200K.
    first = evaluations(archived_runs(REPLICATES / FIRST), denominator)
    first = first[(first.dataset == "cc6m") & (first.clean_size == "200k")]
    judged = verdicts(by_arm, claims, DOCUMENTED, whole_seeds(results), scope_of(profile))
    about = studied(results, profile, claims.rules.rate.get(DOCUMENTED))
    found = plain(
        {
            **about._asdict(),
            "leading": judged.confirmed or judged.exploratory,
            "beside": judged.beside,
            "hypotheses": stated_hypotheses(results, by_arm),
            "draws": draws(results, by_arm, claims.comparisons.confirmed.get(DOCUMENTED)),
            "first": outcomes(first, cap, None).to_dict("records"),
        }
    )
    text = markdown(
        "findings",
        tables=markdown_tables(found),
        answer=answer(judged, claims.paper),
        family=about.effects_family,
        decided_q=DECIDED_Q,
    )
    blocks = {
        (path, name): block_in(text, name) for path, names in BLOCKS.items() for name in names
    }
    return {place: block[1] for place, block in blocks.items() if block}
