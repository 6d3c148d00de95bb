"""Every number of the tables that are kept, by words and digits alone: no class, no layout.

A table is known by the heads of its first columns, which also name its rows, wherever it stands.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

KEPT = {
    "table 1": ("Setting", "Pre-trained with"),
    "table 2": ("Dataset", "Pre-trained with"),
    "claims": ("Claim",),
    "conditions": ("Comparison", "Setting"),
    "controls": ("Setting", "Models"),
    "verdicts": ("Measure", "Setting"),
    "secondary": ("Comparison", "Measure", "Setting"),
    "verdicts by measure": ("measure",),
    "hypotheses": ("Hypothesis",),
    "hypotheses and means": ("hypothesis",),
    "own run": ("measure", "setting", "of"),
}
"""Heads of the first columns by table; the longest that fits a table names it."""
KEYS = {
    "table1.csv": ("dataset", "clean_size", "pretrain_objective"),
    "table2.csv": ("dataset", "pretrain_objective"),
    "verdicts.csv": ("comparison", "measure", "setting", "comparator"),
}
"""Columns that name the rows of the files that other programs read."""


class Digits(NamedTuple):
    """One cell."""

    table: str
    """Where it was found, and which table it is of."""
    row: str
    column: str
    text: str


Grid = Sequence[Sequence[str]]
"""A table as it is read: rows of texts, the heads first."""


def of_report(source: str, folder: Path) -> Iterator[Digits]:
    """The cells of all pages and files of a report."""
    for page in sorted(folder.glob("*.html")):
        yield from _kept(source, html_tables(page.read_text(encoding="utf-8")))
    for name, keys in KEYS.items():
        if (folder / name).is_file():
            with (folder / name).open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    yield from _row(f"{source}: {name}", row, keys)
    metrics = json.loads((folder / "metrics.json").read_bytes())
    for path, value in _leaves(metrics):
        yield Digits(f"{source}: metrics.json", ", ".join(path[:-1]), path[-1], _text(str(value)))


def of_markdown(source: str, text: str) -> Iterator[Digits]:
    """The cells of all tables of a Markdown text."""
    yield from _kept(source, markdown_tables(text))


def _kept(source: str, tables: Iterable[Grid]) -> Iterator[Digits]:
    for heads, *rows in tables:
        fitting = [name for name, keys in KEPT.items() if tuple(heads[: len(keys)]) == keys]
        if fitting:
            name = max(fitting, key=lambda name: len(KEPT[name]))
            for row in rows:
                named = dict(zip(heads, row, strict=True))
                yield from _row(f"{source}: {name}", named, KEPT[name])


def _row(table: str, row: dict[str, str], keys: Sequence[str]) -> Iterator[Digits]:
    name = ", ".join(filter(None, (row[key] for key in keys)))
    for column, text in row.items():
        # The heads of a claim's row are its words, and what opens below them has its numbers.
        if text and (column not in keys or keys == KEPT["claims"]):
            yield Digits(table, _text(name)[:60], column, _text(text))


def _text(text: str) -> str:
    """The text with plain signs, single spaces, and six digits of a number of many."""
    plain = " ".join(text.translate(str.maketrans("–−", "--")).split())
    # The last digits depend on the processor.
    return re.sub(r"-?\d+\.\d{6,}(e-?\d+)?", lambda number: f"{float(number[0]):.6g}", plain)


def _leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of nested objects with the names that lead to it."""
    if isinstance(content, dict):
        for name, part in content.items():
            yield from _leaves(part, (*path, name))
    else:
        yield path, content


class _Tables(HTMLParser):
    """The tables of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.in_cell = False

    def handle_starttag(self, tag: str, _attributes: object) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        self.in_cell = tag in ("th", "td") or (self.in_cell and tag != "caption")
        self._part()

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("th", "td")
        self._part()

    def handle_data(self, text: str) -> None:
        if self.in_cell:
            self.tables[-1][-1][-1] += text

    def _part(self) -> None:
        # What stands in an element of its own is a word of its own.
        if self.in_cell:
            self.tables[-1][-1][-1] += " "


def html_tables(page: str) -> list[Grid]:
    """The tables of an HTML page."""
    parser = _Tables()
    parser.feed(page)
    return [[[" ".join(of.split()) for of in row] for row in table] for table in parser.tables]


def markdown_tables(text: str) -> list[Grid]:
    """The tables of a Markdown text."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        rows = [[cell.strip() for cell in line] for line in lines]
        found.append([rows[0], *rows[2:]])
    return found
