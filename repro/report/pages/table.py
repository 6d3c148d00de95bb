"""A table: columns that say how a row's value is read and printed, and rows.

HTML, LaTeX, Markdown and CSV are written from it, so a column is an entry of one list.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from repro.markdown import table_lines


@dataclass(frozen=True)
class Words:
    """What a cell says."""

    text: str
    soft: str = ""
    """What stands behind it in smaller letters, such as an interval."""
    tone: str = ""
    """The first word of a verdict, which gives its colour."""
    href: str = ""
    more: tuple[str, ...] = ()
    """What a page shows when the cell is opened."""

    def __str__(self) -> str:
        """The cell as plain text."""
        return f"{self.text} {self.soft}".strip()


def words_of(said: Words | str) -> Words:
    """What a cell says, be it plain text or not."""
    return said if isinstance(said, Words) else Words(str(said))


@dataclass(frozen=True)
class Column:
    """One column."""

    head: str
    value: str | Callable[[Any], Any]
    """Of a row: a path of names such as `cell.difference`, or a function; None where it has none.
    An empty path is the row itself.
    """
    words: Callable[[Any], Words | str] = words_of
    """Of a value that is not None."""
    name: str = ""
    """In the CSV; "" where the column is no part of it."""
    number: bool = False
    """Whether it is set to the right."""
    without: str = "–"
    """What stands where a row has no value."""
    width: float = 0.0
    """Share of the article's line; 0 for what the cells need."""

    def of(self, row: Any) -> Any:
        """The value of a row."""
        if callable(self.value):
            return self.value(row)
        for name in self.value.split(".") if self.value else ():
            if row is None:
                return None
            row = row.get(name) if isinstance(row, Mapping) else getattr(row, name)
        return row

    def cell(self, row: Any) -> Words:
        """What the column says of a row."""
        value = self.of(row)
        return words_of(self.without if value is None else self.words(value))


@dataclass(frozen=True)
class Table:
    """Rows with columns; without rows it is not shown."""

    name: str
    title: str
    """Read out by screen readers."""
    columns: Sequence[Column]
    rows: Sequence[Any]
    caption: str = ""

    def cells(self) -> list[list[Words]]:
        """Every cell, a list a row."""
        return [[column.cell(row) for column in self.columns] for row in self.rows]

    def only(self, *heads: str) -> "Table":
        """The same table with these columns."""
        return replace(self, columns=[of for of in self.columns if of.head in heads])

    def filled(self) -> "Table":
        """Without columns in which no row has a value."""
        kept = [of for of in self.columns if any(of.of(row) is not None for row in self.rows)]
        return replace(self, columns=kept)

    def records(self) -> list[dict[str, Any]]:
        """The values of the columns that have a name, a dictionary a row."""
        named = [column for column in self.columns if column.name]
        return [{column.name: column.of(row) for column in named} for row in self.rows]

    def markdown(self) -> str:
        """A Markdown table in ASCII, which is read in terminals too."""
        rows = ([ascii_minus(str(cell)) for cell in row] for row in self.cells())
        return "\n".join(table_lines([column.head for column in self.columns], rows))


def ascii_minus(text: str) -> str:
    """The text with plain hyphens."""
    return text.translate(str.maketrans("–−", "--"))


def listed(items: Iterable[str]) -> str:
    """The items with commas, and "and" before the last."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last
