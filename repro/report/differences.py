"""Where two documents or two pages differ, one line a place."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

TOLERANCE = 1e-9
"""Relative; libraries may differ in the last digits."""
NAMING = (
    "variant",
    "dataset",
    "clean_size",
    "pretrain_objective",
    "loss",
    "id",
    "run",
    "setting",
    "scale",
)
"""Fields that name an entry of a list."""
NUMBER = re.compile(r'<data value="([^"]*)" data-path="([^"]*)">([^<]*)</data>')
"""A number of the page: value, place in report.json, text."""
SHOWN = 10
"""Lines about one page before the rest is counted."""
BEFORE, AFTER = 30, 60
"""Characters quoted around the first one that differs."""


def document_differences(report: Any, ledger: Any, place: str = "") -> list[str]:
    """Leaves in which two documents differ, each with its place and both values."""
    if isinstance(report, dict) and isinstance(ledger, dict):
        return _of_objects(report, ledger, place)
    if isinstance(report, list) and isinstance(ledger, list) and len(report) == len(ledger):
        return [
            line
            for index, (shown, expected) in enumerate(zip(report, ledger, strict=True))
            for line in document_differences(shown, expected, f"{place}[{_name(expected, index)}]")
        ]
    if _same(report, ledger):
        return []
    return [f"{place}: {_short(report)} in the report, {_short(ledger)} from the ledger"]


def text_differences(name: str, there: str, made: str) -> list[str]:
    """Places in which the page `name` is not as it was made from report.json.

    A number that names its place in report.json is named by it, anything else by its line.
    """
    lines, expected = there.split("\n"), made.split("\n")
    found = []
    for number, (line, wanted) in enumerate(zip(lines, expected, strict=False), start=1):
        if line != wanted:
            found += _of_lines(f"{name}:{number}", name, line, wanted)

    if len(lines) != len(expected):
        found.append(f"{name}: {len(lines)} lines, {len(expected)} from report.json")
    if len(found) > SHOWN:
        rest = len(found) - SHOWN
        found = [*found[:SHOWN], f"{name}: {rest} more difference(s)"]
    return found


def _of_objects(report: Mapping[str, Any], ledger: Mapping[str, Any], place: str) -> list[str]:
    keys = [*ledger, *(key for key in report if key not in ledger)]
    found = []
    for key in keys:
        below = f"{place}.{key}" if place else str(key)
        found += document_differences(report.get(key, "nothing"), ledger.get(key, "nothing"), below)
    return found


def _of_lines(where: str, page: str, line: str, wanted: str) -> list[str]:
    """What differs in one line of a page."""
    numbers, expected = NUMBER.findall(line), NUMBER.findall(wanted)
    same_places = [place for _, place, _ in numbers] == [place for _, place, _ in expected]
    if not same_places or NUMBER.sub("", line) != NUMBER.sub("", wanted):
        there, made = _around(line, wanted), _around(wanted, line)
        return [f"{where}: {there} on the page, {made} from report.json"]

    found = []
    for (value, place, text), (true_value, _, true_text) in zip(numbers, expected, strict=True):
        if (value, text) == (true_value, true_text):
            continue
        shown = text if text != true_text else f"{text} (value {value})"
        found.append(f"{page}: {place}: {shown} on the page, {true_text} in report.json")
    return found


def _around(line: str, other: str) -> str:
    """A quotation of the line about the first character in which it is not the other."""
    first = 0
    for mine, theirs in zip(line, other, strict=False):
        if mine != theirs:
            break
        first += 1
    return repr(line[max(0, first - BEFORE) : first + AFTER])


def _same(report: Any, ledger: Any) -> bool:
    if _is_number(report) and _is_number(ledger):
        return math.isclose(report, ledger, rel_tol=TOLERANCE, abs_tol=1e-12)
    return (type(report), report) == (type(ledger), ledger)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(entry: Any, index: int) -> str:
    if not isinstance(entry, dict):
        return str(index)
    return " ".join(str(entry[key]) for key in NAMING if entry.get(key)) or str(index)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
