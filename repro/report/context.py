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

EXAMPLES = 4
"""Poisoned and clean pairs shown per dataset slot."""
MEDIA = {b"\x89PNG": "png", b"\xff\xd8": "jpeg"}
"""Leading bytes of the image formats in a store, besides WebP."""


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
        "gallery": [item for dataset in DATASETS for item in _gallery(poisoned / dataset, dataset, root)],
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


def _gallery(store: Path, dataset: str, root: Path) -> list[dict[str, Any]]:
    """The first poisoned and the first clean pairs of a poisoned store, image bytes as they lie in its shards."""
    import numpy as np

    if not (store / "index.npz").is_file():
        return []
    shards = _read_json(store / "shards.json")
    originals = {
        entry["row"]: entry["original_caption"]
        for entry in map(json.loads, (store / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    }
    items = []
    with np.load(store / "index.npz", allow_pickle=False) as index, np.load(store / "rows.npz", allow_pickle=False) as rows:
        chosen = [("poisoned", int(row)) for row in rows["poisoned"][:EXAMPLES]] + [("clean", int(row)) for row in rows["100k"][:EXAMPLES]]
        starts = index["caption_offsets"]
        captions = index["caption_bytes"].tobytes()
        for kind, row in chosen:
            shard = (store / shards[index["shard"][row]]["path"]).resolve()
            if not shard.is_relative_to(root.resolve()):
                raise LedgerError(f"{store / 'shards.json'}: path: {shard} (allowed: a shard inside the repository)")
            with shard.open("rb") as file:
                file.seek(int(index["offset"][row]))
                image = file.read(int(index["size"][row]))
            media = next((media for magic, media in MEDIA.items() if image.startswith(magic)), "webp")
            items.append({
                "dataset": dataset, "kind": kind, "caption": captions[starts[row] : starts[row + 1]].decode(),
                "original_caption": originals.get(row), "image": f"data:image/{media};base64,{base64.b64encode(image).decode()}",
            })  # fmt: skip
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
