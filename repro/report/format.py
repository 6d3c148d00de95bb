"""How keys and numbers are printed: the one place for every page, table and figure.

Numbers in report.json and in the ledger are fractions; percent is a matter of showing them, and so
begins here.
"""

from __future__ import annotations

LABELS = {
    "cc3m": "CC3M",
    "cc6m": "CC6M",
    "100k": "100K",
    "200k": "200K",
    "mmcl": "MMCL",
    "ssl": "SSL",
    "mmcl_ssl": "MMCL + SSL",
}
"""How the keys of specifications and ledger are printed."""
ON_STAND_INS = {"reproduced": "holds here", "not reproduced": "does not hold here"}
"""Verdicts on stand-in data, which reproduce nothing of the paper's."""


def label(key: str | None) -> str:
    """Printed name of a key; a key without one, such as a variant's, is printed as it is."""
    if not key:
        return "–"
    return LABELS.get(key, key)


def worded(verdict: str | None, stand_in: object) -> str:
    """A verdict as printed; `stand_in`: what the data are instead of the paper's, if anything."""
    if verdict is None:
        return "not run"
    return ON_STAND_INS.get(verdict, verdict) if stand_in else verdict


def percent(
    fraction: float | None, digits: int = 1, *, missing: str = "–", minus: str = "−"
) -> str:
    """A fraction as a percentage, without the sign of percent; `missing` stands for None."""
    if fraction is None:
        return missing
    return f"{100 * fraction:.{digits}f}".replace("-", minus)


def markdown_percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal, in ASCII: Markdown is read in terminals too."""
    return percent(fraction, missing="-", minus="-")


def factor(value: float) -> str:
    """How many times one thing is as much as another."""
    return f"{value:.2f}"


def short(fraction: float) -> str:
    """A fraction as a percentage with the digits it needs: for caps and margins."""
    return f"{100 * fraction:g}"


def tick(fraction: float, _: float | None = None) -> str:
    """A fraction on an axis in percent, with the digits that it needs: 2.5, but 5.

    Matplotlib also gives the position.
    """
    return f"{round(100 * fraction, 2) + 0:g}"  # + 0: no minus before a zero


def rate(value: float | None) -> str:
    """A learning rate."""
    return "–" if value is None else f"{value:g}"


def duration(seconds: float) -> str:
    """Seconds as hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s"
