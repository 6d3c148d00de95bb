"""What `python -m repro write` writes: the texts of docs/written, and blocks of other pages."""

import json
import re
from pathlib import Path
from typing import Any

from repro.files import replace_file
from repro.ledger import LedgerError
from repro.markdown import fill, table_lines
from repro.plan.forecast import cost_table, plan
from repro.profile import SPECS
from repro.report.build import DOCUMENT, report_folder
from repro.report.prose import DOCUMENTED, written
from repro.report.results import archived_results
from repro.report.studies import check_archives
from repro.spec import Switches

PICTURES = Path("docs/pictures")
INKS = {"light": "#1f2328", "dark": "#e6edf3"}
"""Colours of text and axes in the two forms of the first figure."""
PLANS_PAGE = Path("docs/gpu.md")
PLANS = ("paper", "paper_lean")
"""Profiles whose cost stands there."""


def write_generated() -> None:
    """Write the generated parts of README.md, specs and docs."""
    for profile in PLANS:
        fill(PLANS_PAGE, f"plan-{profile}", cost_table(plan(profile)))
    write_blocks()


def write_blocks() -> None:
    """Write the texts of docs/written, README.md's picture, and the switches of specs/README.md.

    StaleText if a text does not hold, LedgerError if an archive is not the committed one.
    """
    check_archives(DOCUMENTED)
    for path, text in written(archived_results(DOCUMENTED)).items():
        replace_file(path, text.encode())
    hero = report_folder(DOCUMENTED) / "figures/hero.svg"
    if hero.is_file():
        for name, ink in INKS.items():
            for suffix in ("", "-narrow"):
                drawing = hero.with_name(f"hero{suffix}.svg").read_text(encoding="utf-8")
                picture = drawing.replace("currentColor", ink)
                replace_file(PICTURES / f"hero-{name}{suffix}.svg", picture.encode())
    fill(SPECS / "README.md", "switches", switches_block())


def read_document(profile: str) -> dict[str, Any]:
    """Read the built report.json of a profile; LedgerError if there is none."""
    path = report_folder(profile) / DOCUMENT
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise LedgerError(
            f"{path}: missing; `python -m repro report {profile}` builds it"
        ) from None


def switches_block() -> str:
    """Every switch with both protocols' values and the source of each, as the files have them."""
    columns = [_sourced(SPECS / f"{name}.yaml") for name in ("paper", "authors")]
    rows = [
        [f"`{name}`", *(cell for column in columns for cell in column[name])]
        for name in Switches.model_fields
    ]
    heads = ("switch", "protocol `paper`", "its source", "protocol `authors`", "its source")
    return "\n".join(table_lines(heads, rows))


def _sourced(path: Path) -> dict[str, tuple[str, str]]:
    """Value and source of each switch of a profile's file."""
    # From the text, since a YAML parser drops comments, where the sources stand.
    text = path.read_text(encoding="utf-8")
    _, _, below = text.partition("\nswitches:\n")
    switches, _, _ = below.partition("\n\n")
    found = re.findall(r"^  (\w+): +(\S+) +# (.+)$", switches, re.MULTILINE)
    return {name: (f"`{value}`", source.replace("|", "\\|")) for name, value, source in found}
