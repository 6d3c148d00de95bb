"""What a reader sees of an HTML page: its text, a line a block, without drawings and scripts."""

import html
import re

HIDDEN = re.compile(r"<(svg|style|title|script)\b.*?</\1>|<!.*?>", re.DOTALL)
BLOCK = re.compile(r"</?(?:p|li|tr|h1|h2|h3|caption|figcaption|dt|summary|div|nav)\b[^>]*>")
CELL = re.compile(r"<t[dh]\b[^>]*>")
TAG = re.compile(r"<[^>]*>")


def visible_text(page: str) -> str:
    """The text of a page, a block a line."""
    shown = HIDDEN.sub("", page).replace("\n", " ")
    blocks = BLOCK.sub("\n", shown)
    cells = CELL.sub(" | ", blocks)
    text = html.unescape(TAG.sub("", cells))
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.split("\n")]
    filled = [line for line in lines if line.strip(" |")]
    return "\n".join(filled) + "\n"
