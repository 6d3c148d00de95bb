"""What a reader sees of an HTML page: its text, a line a block, without drawings and scripts."""

import html
import re

HIDDEN = re.compile(r"<(svg|style|title|script)\b.*?</\1>|<!.*?>", re.DOTALL)
BLOCK = re.compile(r"</?(?:p|li|tr|h1|h2|h3|caption|figcaption|dt|summary|div|nav)\b[^>]*>")
CELL = re.compile(r"<t[dh]\b[^>]*>")
TAG = re.compile(r"<[^>]*>")


def visible_text(page: str) -> str:
    """The text of a page, a block a line."""
    text = BLOCK.sub("\n", HIDDEN.sub("", page).replace("\n", " "))
    text = html.unescape(TAG.sub("", CELL.sub(" | ", text)))
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line.strip(" |")) + "\n"
