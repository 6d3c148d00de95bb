"""A stand-in for the package of icons: few vendors draw few concepts, in blocks of their own."""

import base64
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from repro.data.keyed import keyed_digest
from repro.profile import check, read_yaml
from repro.sources.icons.survey import IconRule
from repro.sources.packages import Package
from tests.support.tars import write_tar

CONCEPTS = ["banana", "house", "star", "tree"]
FEW = CONCEPTS[:3]


def blocks(*key: str, flipped: int | None = None) -> str:
    """A body of 4 x 4 blocks, other ones for each key; one may be the other way round."""
    bits = [byte % 2 == 1 for byte in keyed_digest(*key)[:16]]
    if flipped is not None:
        bits[flipped] = not bits[flipped]
    cells = [(x, y) for y in range(4) for x in range(4) if bits[4 * y + x]]
    return "".join(f'<path d="M{4 * x} {4 * y}h4v4h-4z" fill="currentColor"/>' for x, y in cells)


def icon_set(vendor: str, bodies: dict[str, str], **info: Any) -> dict[str, Any]:
    """A set as the package has it: `info` goes into the catalogue, `content` beside the icons."""
    content = info.pop("content", {})
    credit = {
        "name": f"Set of {vendor}",
        "author": {"name": vendor, "url": f"https://example.org/{vendor}"},
        "license": {"title": "MIT", "spdx": "MIT", "url": "https://example.org/mit"},
    }
    icons = {name: {"body": body} for name, body in bodies.items()}
    return {"info": credit | info, "icons": icons, **content}


def drawings_of(vendor: str, concepts: list[str] = CONCEPTS) -> dict[str, str]:
    """A vendor's drawing of each concept."""
    return {concept: blocks(vendor, concept) for concept in concepts}


def small_package() -> dict[str, dict[str, Any]]:
    """Three vendors for training, two held out; one of them draws ada's star. Few draw the tree."""
    return {
        "ada": icon_set("ada", {**drawings_of("ada"), "house-filled": blocks("ada", "filled")}),
        "bea": icon_set("bea", drawings_of("bea", FEW)),
        "cho": icon_set("cho", {**drawings_of("cho", FEW), "wheel": blocks("wheel")}),
        "dora": icon_set("dora", drawings_of("dora", FEW)),
        "eve": icon_set("eve", drawings_of("eve") | {"star": blocks("ada", "star")}),
        "gpl": icon_set("gpl", drawings_of("gpl"), license={"title": "GPL", "spdx": "GPL-3.0"}),
        "flag": icon_set("fay", {"france": blocks("france")}),
    }


RULE = """
licences: [MIT]
left_out_sets: [flag]
held_out_vendors: [dora, eve]
max_drawings: 2
max_brand_share: 0.2
min_vendors: 3
images_per_vendor: 2
min_images: 1
max_concepts: 10
near_copy: 0.95
"""


def small_rule(specs: Path, **changes: Any) -> IconRule:
    """The rule for the small package, written into a folder of specifications, with changes."""
    (specs / "classnames").mkdir(parents=True, exist_ok=True)
    path = specs / "classnames" / "icons.yaml"
    path.write_text(RULE)
    return check(IconRule, read_yaml(path), path).model_copy(update=changes)


def write_package(
    folder: Path, sets: dict[str, dict[str, Any]], unlisted: Collection[str] = ()
) -> Package:
    """Pack the sets as npm does, some of them missing from the catalogue; the pin that fits."""
    package = Package("@iconify/json", "1.0.0", "")
    catalogue = {}
    members = {}
    for name, content in sets.items():
        icons = [icon for icon in content["icons"].values() if not icon.get("hidden")]
        turned = [alias for alias in content.get("aliases", {}).values() if len(alias) > 1]
        if name not in unlisted:
            catalogue[name] = {"total": len(icons) + len(turned)} | content["info"]
        members[f"package/json/{name}.json"] = {k: v for k, v in content.items() if k != "info"}
    members["package/collections.json"] = catalogue

    path = folder / package.tarball
    packed = [(name, json.dumps(content).encode()) for name, content in members.items()]
    write_tar(path, packed, mode="w:gz")
    digest = hashlib.sha512(path.read_bytes()).digest()
    return package._replace(integrity=f"sha512-{base64.b64encode(digest).decode()}")
