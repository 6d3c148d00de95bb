"""`python -m repro derive BASE NAME OVERRIDES.yaml`: write `specs/NAME`, a profile like BASE but
for the values of a file.

The file maps dotted paths to values, as studies do (`pretrain.seeds: [1]`, `switches.gather:
authors`). This is how the profile `paper` is rehearsed at reduced counts: graph and code are the
same, and so is every value that the file leaves out.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from repro.files import replace_file
from repro.profile import SPECS, load_profile, read_yaml
from repro.spec import SpecError

HEAD = (
    "# Derived by `python -m repro derive` from specs/{base} and {overrides}:"
    " the sources of the numbers are there.\n"
)
PARTS = ("pretrain", "clean", "evaluate", "data")


def derive(base: str, name: str, overrides_path: Path, specs: Path = SPECS) -> Path:
    """Write and return the folder of the profile `name`; SpecError, before anything is written,
    where a value is wrong.

    A profile that was derived before is replaced; one that was not is never touched.
    """
    overrides = read_yaml(overrides_path)
    if not isinstance(overrides, dict) or not all(isinstance(path, str) for path in overrides):
        raise SpecError(
            f"{overrides_path}: no table"
            " (allowed: dotted paths with values, such as `pretrain.seeds: [1]`)"
        )

    folder = specs / name
    foreign = folder.exists() and not _is_derived(folder)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or foreign:
        raise SpecError(
            f"profile: {name!r} (allowed: lower-case letters, digits and _,"
            f" and no folder of {specs} that was not derived)"
        )

    head = HEAD.format(base=base, overrides=overrides_path.name)
    content = _content(base, overrides, specs)
    folder.mkdir(exist_ok=True)
    for part, values in content.items():
        replace_file(folder / f"{part}.yaml", (head + _dump(values)).encode())
    return folder


def _content(base: str, overrides: dict[str, Any], specs: Path) -> dict[str, Any]:
    """What the files of the derived profile hold, by part."""
    profile = load_profile(base, specs, overrides)
    content = {part: getattr(profile, part).model_dump(mode="json") for part in PARTS}

    # Switches that are changed become departures from the base's protocol.
    departures = read_yaml(specs / base / "protocol.yaml")["overrides"]
    for path, value in overrides.items():
        if path.startswith("switches."):
            departures[path.removeprefix("switches.")] = value
    return content | {"protocol": {"protocol": profile.protocol, "overrides": departures}}


def _is_derived(folder: Path) -> bool:
    first = HEAD.partition("{")[0]
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in folder.iterdir())
    return all(text.startswith(first) for text in texts)


def _dump(values: Any) -> str:
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel has None there
    yaml.dump(values, text)
    return text.getvalue()
