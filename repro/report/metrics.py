"""What DVC shows of a report: the run's own numbers, and the archive's beside them.

`report/metrics/<profile>.json`: measure, then setting, then `own` with the values of both models,
and `archive` with mean, 95% interval, seeds and verdict of their difference. Shares are fractions.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

SHOWN = ("asr_left_at_rate", "rate_doublings", "lost_at_cap", "accuracy_at_cap")
"""Measures that are shown."""
Metrics = dict[str, dict[str, dict[str, dict[str, Any]]]]


def metrics(document: Mapping[str, Any], verdicts: Iterable[Mapping[str, Any]]) -> Metrics:
    """The metrics of a report.json, whose rows of verdicts.csv are `verdicts`.

    A profile without an archive has own numbers alone; without own runs there is the archive alone.
    """
    found: Metrics = {measure: defaultdict(dict) for measure in SHOWN}
    for row in document["own_run"]:
        if row["measure"] in SHOWN:
            own = found[row["measure"]][f"{row['dataset']}-{row['clean_size']}"]
            own.setdefault("own", {})[row["of"]] = row["value"]

    archived = bool(document["verdicts"]["arms"]["mmcl_ssl"].partition("/")[0])
    for row in verdicts:
        # The first comparator of a setting stands for it.
        if row["measure"] in SHOWN and not row["comparison"]:
            of = found[row["measure"]][row["setting"]]
            if archived:
                of.setdefault("archive", _archive(row))
            else:
                sides = ("mmcl", "mmcl_ssl", "difference")
                of.setdefault("own", {side: row[side] for side in sides})
    return {measure: dict(of) for measure, of in found.items() if of}


def _archive(row: Mapping[str, Any]) -> dict[str, Any]:
    fields = ("mmcl", "mmcl_ssl", "difference", "low", "high", "seeds", "verdict")
    return {name: row[name] for name in fields}
