"""What the report tells besides results: switches and deviations, data accounting, example pairs, environment.

All of it is read from specifications and from small files beside the data; a file that is not there is left out and
the page says so. Nothing here is needed to recompute a number.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from repro.ledger import LedgerError
from repro.report.points import DATASETS, Study
from repro.spec import Switches, read_yaml

MAX_IMAGES = 16
"""Example pairs shown per dataset slot."""


def read_context(study: Study, root: Path) -> dict[str, Any]:
    """Context of the profile's report: `switches`, `accounting`, `attribution`, `gallery`, `environments`."""
    name = study.settings.name
    poisoned = root / "poisoned" / name
    return {
        "switches": _switches(name, study.settings.protocol, root / "specs"),
        "accounting": {
            label: content
            for label, path in [("data", root / "data" / name / "accounting.json"),
                                *((f"poison {dataset}", poisoned / dataset / "accounting.json") for dataset in DATASETS)]
            if (content := _read_json(path)) is not None
        },
        "attribution": _read_json(root / "data" / name / "attribution.json"),
        "gallery": [item for dataset in DATASETS for item in _gallery(poisoned / dataset / "gallery", dataset)],
        "environments": _environments(study),
    }  # fmt: skip


def _switches(name: str, protocol: str, specs: Path) -> list[dict[str, Any]]:
    """Every choice in which text and code differ: the setting used, the text's and the code's, and whether it departs from the protocol."""
    settings = {p: read_yaml(specs / "protocols" / f"{p}.yaml") for p in ("paper", "authors")}
    overrides = read_yaml(specs / name / "protocol.yaml")["overrides"]
    used = settings[protocol] | overrides
    return [
        {"switch": field, "meaning": info.description, "used": used[field], "paper": settings["paper"][field],
         "authors": settings["authors"][field], "departs": field in overrides}
        for field, info in Switches.model_fields.items()
    ]  # fmt: skip


def _gallery(folder: Path, dataset: str) -> list[dict[str, Any]]:
    """Example pairs of the poison stage: `gallery.json` lists `file`, `kind`, `caption` and what else is known of each."""
    items = []
    for entry in (_read_json(folder / "gallery.json") or [])[:MAX_IMAGES]:
        path = folder / Path(entry["file"]).name
        kind = {".png": "png", ".jpg": "jpeg", ".webp": "webp"}.get(path.suffix)
        if kind is None or not path.is_file():
            raise LedgerError(f"{folder / 'gallery.json'}: file: {entry['file']!r} (allowed: a png, jpg or webp file beside it)")
        data = base64.b64encode(path.read_bytes()).decode()
        items.append({**entry, "dataset": dataset, "image": f"data:image/{kind};base64,{data}"})
    return items


def _environments(study: Study) -> list[dict[str, Any]]:
    """Distinct environments of the runs, most used first."""
    counts: dict[str, int] = {}
    for run in (*study.runs, *study.controls):
        record = run.record
        key = json.dumps({**record.environment, "ranks": record.ranks, "threads": record.threads}, sort_keys=True)
        counts[key] = counts.get(key, 0) + 1
    return [{"runs": n, "environment": json.loads(key)} for key, n in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LedgerError(f"{path}: not JSON ({error})") from None
