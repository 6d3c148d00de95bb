"""How keys and numbers are printed: the one place for every page, table and figure.

Numbers in report.json and in the ledger are fractions; percent is a matter of showing them, and so
begins here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from repro.names import CLEAN_SIZES, DATASETS, LOSSES

LABELS = {str(name): text for name, text in [*DATASETS.items(), *CLEAN_SIZES.items()]} | {
    str(name): loss.label for name, loss in LOSSES.items()
}
LABELS |= {
    "norm_groups_64": "groups of 64",  # MMCL models by their BatchNorm groups
    "matched": "16 epochs",
    "held_out": "held-out pairs",
    "draws": "other draws",
}
"""How the keys of specifications and ledger are printed."""


def label(key: str | None) -> str:
    """Printed name of a key; a key without one, such as most variants', is printed as it is."""
    if not key:
        return "–"
    return LABELS.get(key, key)


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal, without the sign of percent; a dash for None."""
    # Adding 0 takes the minus from a zero.
    return "–" if fraction is None else f"{round(100 * fraction, 1) + 0:.1f}".replace("-", "−")


def short(fraction: float) -> str:
    """A fraction as a percentage with the digits it needs: for caps and margins."""
    return f"{100 * fraction:g}"


def tick(fraction: float, _: float | None = None) -> str:
    """A fraction on an axis in percent, with the digits that it needs: 2.5, but 5.

    Matplotlib also gives the position.
    """
    return f"{round(100 * fraction, 2) + 0:g}".replace("-", "−")  # + 0: no minus before a zero


def rate(value: float | None) -> str:
    """A learning rate."""
    return "–" if value is None else f"{value:g}"


def duration(seconds: float) -> str:
    """Seconds as hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s"


def factor(doublings: float) -> str:
    """Doublings as the factor that they are."""
    return f"{2**doublings:.1f}"


BOUNDS = {
    (False, False): ("", ""),
    (True, False): ("≥ ", "at least "),
    (False, True): ("≤ ", "at most "),
    (True, True): ("≈ ", "about "),
}
"""Sign and words before a mean, by whether some of its values are lower bounds and some upper."""


def bounds(found: Mapping[str, Any]) -> str:
    """The sign before a mean of which some values are bounds."""
    return BOUNDS[bool(found["at_least"]), bool(found["at_most"])][0]


def bounds_in_words(found: Mapping[str, Any]) -> str:
    """The same in a sentence."""
    return BOUNDS[bool(found["at_least"]), bool(found["at_most"])][1]


def amount(value: float, unit: str, signed: bool = False) -> str:
    """Return a value in the unit of its measure: shares in percent, all else with two decimals."""
    sign = "+" if signed and value > 0 else ""
    # Adding 0 takes the minus from a zero.
    text = percent(value) if unit == "fraction" else f"{round(value, 2) + 0:.2f}"
    return sign + text.replace("-", "−")


def level(value: float, unit: str) -> str:
    """Return the value of one model; of a measure in doublings its learning rate."""
    return f"{2**value:.2g}" if unit == "doublings" else amount(value, unit)


def interval(ends: Sequence[float], unit: str) -> str:
    """Return an interval in brackets, in the unit of its measure."""
    low, high = (amount(end, unit) for end in ends)
    return f"[{low}, {high}]"
