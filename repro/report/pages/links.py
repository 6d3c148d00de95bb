"""Links of the pages: what they can lead to, and which of them lead nowhere."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

LEADING = ("href", "xlink:href", "src")
"""Attributes that hold an address."""
NAMING = ("aria-labelledby", "aria-describedby", "for")
"""Attributes that hold ids of the same page."""
RECORD = "data-fingerprint"
"""Attribute by which runs.html says of which run a record is."""


class _Reader(HTMLParser):
    """Notes the ids, references and records of a page; scripts are text to it."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.references: list[str] = []
        self.records: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of one element."""
        found = {name: value for name, value in attrs if value is not None}
        if "id" in found:
            self.ids.add(found["id"])
            if RECORD in found:
                self.records[found["id"]] = found[RECORD]

        self.references += [found[name] for name in LEADING if name in found]
        for name in NAMING:
            self.references += [f"#{named}" for named in found.get(name, "").split()]


def record_anchors(page: str) -> dict[str, str]:
    """Fingerprint of the run of each record on runs.html, by the anchor of the record."""
    return _read(page).records


def broken_links(pages: Mapping[str, str], files: Collection[str]) -> Iterator[str]:
    """A line for each internal link of the `pages`, text by name, that has no target.

    `files` are the names that lie beside the pages. Links to other places are not followed.
    """
    read = {name: _read(text) for name, text in pages.items()}
    for name, page in read.items():
        # One line a link, however often a page has it.
        for link in dict.fromkeys(page.references):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue

            # A link without a file is to the page itself.
            target, anchor = unquote(parts.path) or name, unquote(parts.fragment)
            if target not in files:
                yield f"{name}: link to {link}, but {target} is no file of the report"
            elif anchor and target in read and anchor not in read[target].ids:
                yield f"{name}: link to {link}, which has no target"


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader
