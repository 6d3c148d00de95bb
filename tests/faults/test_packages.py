"""Known-vulnerable packages are excluded: by floors in pyproject.toml, by the pins, and in this
environment.

The floors are those of vulnerabilities that this project or its tools could meet. `.ci/audit` asks
the advisory services, where they can be reached, for those published since.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

FLOORS = {
    "certifi": ("2024.7.4", "CVE-2024-39689: a distrusted root certificate"),
    "gitpython": ("3.1.41", "CVE-2024-22190: runs a git found in the working folder"),
    "jinja2": ("3.1.6", "CVE-2025-27516: out of the sandbox"),
    "nltk": (
        "3.10.4",
        "CVE-2025-14009, CVE-2026-12259, CVE-2026-12261: code in downloaded archives",
    ),
    "pillow": (
        "12.3",
        "CVE-2026-40192, CVE-2026-25990, CVE-2026-42311: memory errors and bombs in decoders",
    ),
    "pymongo": ("4.6.3", "CVE-2024-5629: reading beyond a BSON document"),
    "requests": ("2.32.4", "CVE-2024-47081: credentials to another host"),
    "setuptools": ("78.1.1", "CVE-2025-47273: writes outside its folder"),
    "torch": (
        "2.10",
        "CVE-2025-32434, CVE-2026-24747: code and heap corruption through weights_only",
    ),
    "transformers": ("4.53", "CVE-2025-5197 and others: quadratic expressions"),
    "urllib3": ("2.6.3", "CVE-2025-66418, CVE-2026-21441: exhaustion by compressed bodies"),
}
"""Package: first release without the vulnerabilities named."""


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


def test_no_installed_package_is_vulnerable() -> None:
    installed = {
        canonicalize_name(item.name): item.version
        for item in importlib.metadata.distributions()
        if item.name
    }
    assert too_old(installed, FLOORS) == {}
