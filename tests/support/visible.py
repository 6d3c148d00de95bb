"""What a reader sees of an HTML page: its text, a line a block, without drawings and styles."""

from __future__ import annotations

import re
from html.parser import HTMLParser

BLOCKS = {"p", "li", "tr", "h1", "h2", "h3", "caption", "figcaption", "dt", "summary", "div", "nav"}
CELLS = {"td", "th"}
HIDDEN = {"svg", "style", "title"}


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in HIDDEN
        if tag in BLOCKS:
            self.parts.append("\n")
        elif tag in CELLS:
            self.parts.append(" | ")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in HIDDEN
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data.replace("\n", " "))


def visible_text(page: str) -> str:
    """The text of a page, a block a line."""
    reader = _Text()
    reader.feed(page)
    lines = (re.sub(r"\s+", " ", line).strip() for line in "".join(reader.parts).split("\n"))
    return "\n".join(line for line in lines if line.strip(" |")) + "\n"
