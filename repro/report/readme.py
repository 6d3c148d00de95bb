"""Generated parts of README.md and specs/README.md, between their markers."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from repro.files import replace_file
from repro.ledger import LedgerError
from repro.markdown import fill, table_lines
from repro.profile import SPECS, read_yaml
from repro.report.build import DOCUMENT, HERO_INKS, report_folder
from repro.report.pages import tables
from repro.report.pages.html import level
from repro.spec import Switches

README, DESIGN, GRAPH = Path("README.md"), Path("docs/design.md"), Path("dvc.yaml")
PICTURES = Path("docs/pictures")
RESULTS = ("asr_left_at_rate", "lost_at_cap", "accuracy_at_cap")
"""Measures in the table of README.md; all others stand on the page."""
WIDTH = 110
"""Columns of prose in README.md."""
PLACEHOLDER = re.compile(r"\$\{[^}]*\}")
"""What DVC fills in, as in `data/${item.profile}/${item.dataset}`."""


def write_blocks(profile: str) -> None:
    """Write results and picture into README.md, the graph into docs/design.md, and the switches
    into specs/README.md.

    LedgerError if the report is not built.
    """
    document = read_document(profile)
    for name in HERO_INKS:
        picture = report_folder(profile) / "figures" / f"hero-{name}.svg"
        if picture.is_file():
            replace_file(PICTURES / picture.name, picture.read_bytes())
    fill(README, "results", results_block(document))
    fill(DESIGN, "graph", graph_block())
    fill(SPECS / "README.md", "switches", switches_block())


def read_document(profile: str) -> dict[str, Any]:
    """Read the built report.json of a profile; LedgerError if there is none."""
    path = report_folder(profile) / DOCUMENT
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LedgerError(f"{path}: missing; build the report first") from None
    return document


def results_block(document: Mapping[str, Any]) -> str:
    """Outcome, first figure and the verdicts by three measures, as Markdown."""
    lines = [*textwrap.wrap(tables.outcome(document), WIDTH), ""]
    if tables.hero_numbers(document) is not None:
        lines += [
            "<picture>",
            '  <source media="(prefers-color-scheme: dark)" srcset="docs/pictures/hero-dark.svg">',
            '  <img alt="ASR left and accuracy kept over the learning rate of CleanCLIP"',
            '       src="docs/pictures/hero-light.svg">',
            "</picture>",
            "",
        ]
    verdicts = tables.verdicts_of(document)
    if verdicts is None:
        return "\n".join(lines).strip()
    when = "fixed before these runs" if verdicts.confirmed else "exploratory"
    lines += [
        f"Profile `{document['profile']}`, means over {len(verdicts.seeds)} seeds in percent, "
        f"{when}. The page has all measures with their 95% intervals.",
        "",
        *verdict_table(document, RESULTS),
    ]
    return "\n".join(lines)


def verdict_table(document: Mapping[str, Any], names: Sequence[str] = ()) -> list[str]:
    """The verdicts by some measures, or by all of them: four columns of Markdown."""
    verdicts = tables.verdicts_of(document)
    rows = []
    for row in verdicts.rows if verdicts else []:
        measure = row.measure
        if names and measure["measure"] not in names:
            continue
        for cell in measure["cells"]:
            rows.append(
                [
                    f"{measure['title']}; {tables.setting_words(cell)}",
                    _mean(cell["mmcl"], measure["unit"]),
                    _mean(cell["mmcl_ssl"], measure["unit"]),
                    cell["verdict"],
                ]
            )
    return table_lines(("measure and setting", "MMCL", "MMCL + SSL", "verdict"), rows)


def _mean(estimate: Mapping[str, Any] | None, unit: str) -> str:
    if estimate is None:
        return "-"
    text = level(estimate["mean"], unit).replace("−", "-")
    return f"at least {text}" if estimate["at_least"] else text


def graph_block(graph: Path = GRAPH) -> str:
    """The stages of dvc.yaml and which reads what another makes, as a picture of Mermaid."""
    stages: dict[str, Any] = read_yaml(graph)["stages"]
    made = {name: list(_paths(stage["outs"])) for name, stage in stages.items()}
    edges = [
        f"  {maker} --> {reader}"
        for reader, stage in stages.items()
        for maker, outs in made.items()
        if any(_share_files(dep, out) for dep in _paths(stage.get("deps", [])) for out in outs)
    ]
    return "\n".join(["```mermaid", "flowchart LR", *edges, "```"])


def _paths(entries: Sequence[Any]) -> Iterator[str]:
    """Paths of dependencies or outputs; one with options is a mapping by its path."""
    for entry in entries:
        yield entry if isinstance(entry, str) else next(iter(entry))


def _share_files(one: str, other: str) -> bool:
    """Whether one of two paths may lie in the other, whatever their placeholders stand for."""
    parts = [PLACEHOLDER.sub("*", path).split("/") for path in (one, other)]
    return all(fnmatch(a, b) or fnmatch(b, a) for a, b in zip(*parts, strict=False))


def switches_block(specs: Path = SPECS) -> str:
    """Every switch with both protocols' values and the source of each, as the files have them."""
    # Read from the text of the files, since a YAML parser drops comments, where the sources stand.
    columns = [_sourced(specs / f"{name}.yaml") for name in ("paper", "authors")]
    rows = []
    for name in Switches.model_fields:
        cells = [f"`{name}`"]
        for column in columns:
            value, source = column[name]
            cells += [f"`{value}`", source.replace("|", "\\|")]
        rows.append(cells)
    heads = ("switch", "protocol `paper`", "its source", "protocol `authors`", "its source")
    return "\n".join(table_lines(heads, rows))


def _sourced(path: Path) -> dict[str, tuple[str, str]]:
    """Value and provenance comment of each switch of a profile's file."""
    switches = path.read_text(encoding="utf-8").partition("\nswitches:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^  (\w+): +(\S+) +# (.+)$", switches, re.MULTILINE)
    return {name: (value, source) for name, value, source in found}
