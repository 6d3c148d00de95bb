"""Generated blocks of Markdown files, so that no number is typed in.

They lie between `<!-- NAME:start -->` and `<!-- NAME:end -->`.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from repro.files import replace_file


def fill(path: Path, name: str, block: str) -> None:
    """Put `block` between the marks `name`; ValueError unless they are there once, in order."""
    text = path.read_text(encoding="utf-8")
    replace_file(path, filled(path, text, name, block).encode())


def filled(path: Path, text: str, name: str, block: str) -> str:
    """The text of `path` with `block` between the marks `name`, as `fill` puts it there."""
    start = f"<!-- {name}:start -->"
    end = f"<!-- {name}:end -->"
    if re.findall(f"{start}|{end}", text) != [start, end]:
        raise ValueError(
            f"{path}: {name}: marks missing or out of order (allowed: one {start} before one {end})"
        )
    before = text.partition(start)[0]
    after = text.partition(end)[2]
    return f"{before}{start}\n{block.rstrip()}\n{end}{after}"


def block_in(text: str, name: str) -> re.Match[str] | None:
    """The block `name` of a file's text as group 1; None if its marks are not there."""
    return re.search(rf"<!-- {name}:start -->\n(.*?)\n<!-- {name}:end -->", text, re.DOTALL)


def differences(text: str, name: str, block: str) -> list[str]:
    """Where the block `name` of a text is not `block`: each place by its line in the text."""
    place = block_in(text, name)
    if place is None:
        return [f" the marks of the block {name!r} are missing"]
    shown = place[1].splitlines()
    expected = block.splitlines()
    first = place.string[: place.start(1)].count("\n") + 1

    # Compared as texts are, so that one line too many does not make all after it wrong.
    changes = SequenceMatcher(None, shown, expected, autojunk=False).get_opcodes()
    return [
        f"{first + a}: {shown[a:b]} on the page, {expected[c:d]} expected"
        for kind, a, b, c, d in changes
        if kind != "equal"
    ]


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; its cells must not hold a bare `|`."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
