"""Generated blocks of Markdown files, so that no number is typed in.

They lie between `<!-- NAME:start -->` and `<!-- NAME:end -->`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from repro.files import replace_file


def fill(path: Path, name: str, block: str) -> None:
    """Put `block` between the marks `name` of the file; ValueError if they are not there once each
    and in order.
    """
    text = path.read_text(encoding="utf-8")
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(
            f"{path}: {name}: marks missing or out of order (allowed: one {start} before one {end})"
        )

    replace_file(
        path,
        (
            text[: text.index(start) + len(start)]
            + f"\n{block.rstrip()}\n"
            + text[text.index(end) :]
        ).encode(),
    )


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; its cells must not hold a bare `|`."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
