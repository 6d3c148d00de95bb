"""Templates hold prose and layout: what they show is counted, grouped and computed in Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from jinja2 import nodes

from repro.report.document import claims_of
from repro.report.pages.templating import TEMPLATES

MARKS = {
    ".tex.j2": {
        "block_start_string": "<%",
        "block_end_string": "%>",
        "variable_start_string": "<<",
        "variable_end_string": ">>",
        "comment_start_string": "<#",
        "comment_end_string": "#>",
    }
}
"""Delimiters by the end of a template's name; Jinja's own else."""
LONGEST = 120
ARITHMETIC = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow)
CHANGING = {"append", "extend", "insert", "update", "setdefault", "pop", "add", "remove", "clear"}
COLLECTING = {
    "batch",
    "dictsort",
    "groupby",
    "max",
    "min",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
    "slice",
    "sort",
    "sum",
    "unique",
}
"""Filters that make lists of lists, or count them."""


def faults(source: str, claims: set[str], **marks: str) -> Iterator[str]:
    """What in a template is neither prose nor layout, each with its line."""
    for number, line in enumerate(source.splitlines(), start=1):
        if len(line) > LONGEST:
            yield f"{number}: {len(line)} columns"
        yield from (f"{number}: claim {claim}" for claim in sorted(claims) if claim in line)

    tree = jinja2.Environment(**marks).parse(source)
    for node in tree.find_all(ARITHMETIC):
        yield f"{node.lineno}: arithmetic"
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in CHANGING:
            yield f"{call.lineno}: {call.node.attr}"
        if isinstance(call.node, nodes.Name) and call.node.name == "namespace":
            yield f"{call.lineno}: namespace"
    for used in tree.find_all(nodes.Filter):
        if used.name in COLLECTING:
            yield f"{used.lineno}: filter {used.name}"
    for choice in tree.find_all(nodes.CondExpr):
        if any(choice.find_all(nodes.CondExpr)):
            yield f"{choice.lineno}: an if inside an if"


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.j2")), ids=lambda path: path.name)
def test_a_template_holds_prose_and_layout(root: Path, path: Path):
    claims = {claim.id for claim in claims_of(root).claims}
    ends = [end for end in MARKS if path.name.endswith(end)]
    marks = MARKS[ends[0]] if ends else {}
    assert list(faults(path.read_text(encoding="utf-8"), claims, **marks)) == []


@pytest.mark.parametrize("name", ["page.css", "page.js", "reveal.js", "runs.js"])
def test_styles_and_scripts_have_no_long_lines(name: str):
    lines = (TEMPLATES / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > LONGEST] == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("x" * 121, "1: 121 columns"),
        ("\n{{ 100 * value }}", "2: arithmetic"),
        ("{% set _ = found.append(1) %}", "1: append"),
        ("{% set total = namespace(n=0) %}", "1: namespace"),
        ('{{ rows | sum(attribute="n") }}', "1: filter sum"),
        ('{{ "a" if a else "b" if b else "c" }}', "1: an if inside an if"),
        ("{% if claim.id == 'mmcl-cleans' %}yes{% endif %}", "1: claim mmcl-cleans"),
    ],
)
def test_logic_in_a_template_would_be_seen(source: str, fault: str):
    assert list(faults(source, {"mmcl-cleans"})) == [fault]
