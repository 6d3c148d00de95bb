"""Known-vulnerable packages are excluded: by floors in pyproject.toml, by the pins, and in this
environment.

The floors are those of vulnerabilities that this project or its tools could meet. `.ci/audit` asks
the advisory services, where they can be reached, for those published since.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

FLOORS = {
    "aiohttp": ("3.13.3", "CVE-2025-69223 and others: exhaustion by compressed bodies"),
    "certifi": ("2024.7.4", "CVE-2024-39689: a distrusted root certificate"),
    "cryptography": ("44.0.1", "CVE-2024-12797 in the OpenSSL that it carries"),
    "filelock": ("3.20.3", "CVE-2025-68146, CVE-2026-22701: a link put in place of the lock"),
    "fonttools": ("4.60.2", "CVE-2025-66034: writes outside its folder"),
    "gitpython": ("3.1.41", "CVE-2024-22190: runs a git found in the working folder"),
    "h11": ("0.16.0", "CVE-2025-43859: request smuggling"),
    "idna": ("3.7", "CVE-2024-3651: quadratic time"),
    "jinja2": ("3.1.6", "CVE-2025-27516: out of the sandbox"),
    "nltk": (
        "3.10.4",
        "CVE-2025-14009, CVE-2026-12259, CVE-2026-12261: code in downloaded archives",
    ),
    "pillow": (
        "12.3",
        "CVE-2026-40192, CVE-2026-25990, CVE-2026-42311: memory errors and bombs in decoders",
    ),
    "protobuf": ("6.33.5", "CVE-2026-0994: recursion"),
    "pyarrow": ("14.0.1", "CVE-2023-47248: unpickling from a data file"),
    "pymongo": ("4.6.3", "CVE-2024-5629: reading beyond a BSON document"),
    "requests": ("2.32.4", "CVE-2024-47081: credentials to another host"),
    "setuptools": ("78.1.1", "CVE-2025-47273: writes outside its folder"),
    "torch": (
        "2.10",
        "CVE-2025-32434, CVE-2026-24747: code and heap corruption through weights_only",
    ),
    "tqdm": ("4.66.3", "CVE-2024-34062: eval of an option"),
    "transformers": ("4.53", "CVE-2025-5197 and others: quadratic expressions"),
    "urllib3": ("2.6.3", "CVE-2025-66418, CVE-2026-21441: exhaustion by compressed bodies"),
}
"""Package: first release without the vulnerabilities named."""
NPM_FLOORS = {
    "body-parser": ("1.20.3", "CVE-2024-45590"),
    "brace-expansion": ("1.1.12", "CVE-2025-5889"),
    "bson": ("1.1.4", "CVE-2020-7610"),
    "cookie": ("0.7.0", "CVE-2024-47764"),
    "express": ("4.20.0", "CVE-2024-43796"),
    "minimatch": ("3.0.5", "CVE-2022-3517"),
    "mongoose": ("5.13.20", "CVE-2023-3696"),
    "mpath": ("0.8.4", "CVE-2021-23438"),
    "on-headers": ("1.1.0", "CVE-2025-7339"),
    "path-to-regexp": ("0.1.12", "CVE-2024-52798"),
    "qs": ("6.14.1", "CVE-2025-15284"),
    "send": ("0.19.0", "CVE-2024-43799"),
    "serve-static": ("1.16.0", "CVE-2024-43800"),
}
"""The same for Omniboard's packages."""
pytestmark = pytest.mark.faults(32)


def too_old(versions: dict[str, str], floors: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Packages below their floor, with the reason."""
    return {
        f"{name} {version}": f"allowed: {floors[name][0]} and later ({floors[name][1]})"
        for name, version in versions.items()
        if name in floors and Version(version) < Version(floors[name][0])
    }


def test_no_declared_range_admits_a_vulnerable_release(root: Path) -> None:
    """Of the packages that pyproject.toml names: the release just below the floor is out of the
    range.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    requirements = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
    shared = FLOORS.keys() & requirements.keys()
    assert {"torch", "pillow", "jinja2", "setuptools"} <= shared
    lowest = {
        name: [s.version for s in requirements[name].specifier if s.operator in (">=", "==")]
        for name in shared
    }
    assert (
        too_old(
            {name: max(found, key=Version, default="0") for name, found in lowest.items()}, FLOORS
        )
        == {}
    )


@pytest.mark.parametrize("file", ["constraints.txt", "requirements-fetch.txt"])
def test_no_pin_is_a_vulnerable_release(root: Path, file: str) -> None:
    pins = re.findall(
        r"^([\w.-]+)==([\w.+-]+)", (root / file).read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(pins) > 20
    assert too_old({canonicalize_name(name): version for name, version in pins}, FLOORS) == {}


def test_no_installed_package_is_vulnerable() -> None:
    installed = {
        canonicalize_name(item.name): item.version
        for item in importlib.metadata.distributions()
        if item.name
    }
    assert too_old(installed, FLOORS) == {}


def test_no_package_of_omniboard_is_vulnerable_or_unverified(root: Path) -> None:
    lock = json.loads(
        (root / "repro" / "tracking" / "server" / "assets" / "package-lock.json").read_text(
            encoding="utf-8"
        )
    )["packages"]
    entries = {path: entry for path, entry in lock.items() if path}
    assert len(entries) > 100
    for path, entry in entries.items():
        assert too_old({path.rpartition("node_modules/")[2]: entry["version"]}, NPM_FLOORS) == {}
    assert [
        path
        for path, entry in entries.items()
        if not entry.get("integrity", "").startswith("sha512-")
    ] == []


def test_an_old_release_would_be_seen() -> None:
    assert list(too_old({"torch": "2.9.1", "pillow": "12.3.0"}, FLOORS)) == ["torch 2.9.1"]
