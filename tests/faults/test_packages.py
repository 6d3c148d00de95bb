"""Vulnerable packages are excluded, by pyproject.toml and here; `.ci/audit` asks for later ones."""

import importlib.metadata
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

FLOORS = {
    "certifi": "2024.7.4",  # CVE-2024-39689: a distrusted root certificate
    "gitpython": "3.1.41",  # CVE-2024-22190: runs a git found in the working folder
    "jinja2": "3.1.6",  # CVE-2025-27516: out of the sandbox
    "nltk": "3.10.4",  # CVE-2025-14009, CVE-2026-12259 and 12261: code in downloaded archives
    "pillow": "12.3",  # CVE-2026-40192, 25990 and 42311: memory errors and bombs in decoders
    "pymongo": "4.6.3",  # CVE-2024-5629: reading beyond a BSON document
    "requests": "2.32.4",  # CVE-2024-47081: credentials to another host
    "setuptools": "78.1.1",  # CVE-2025-47273: writes outside its folder
    "torch": "2.10",  # CVE-2025-32434, CVE-2026-24747: code and heap corruption in weights_only
    "urllib3": "2.6.3",  # CVE-2025-66418, CVE-2026-21441: exhaustion by compressed bodies
}
"""Package: first release without the vulnerabilities named."""


def too_old(versions: dict[str, str]) -> dict[str, str]:
    """Packages below their floor."""
    below = {
        name for name in FLOORS.keys() & versions if Version(versions[name]) < Version(FLOORS[name])
    }
    return {name: f"{versions[name]} (allowed: {FLOORS[name]} and later)" for name in below}


def test_no_declared_range_admits_a_vulnerable_release(root: Path) -> None:
    """By the lowest release that pyproject.toml takes."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    lowest = {}
    for requirement in map(Requirement, lines):
        floors = [s.version for s in requirement.specifier if s.operator in (">=", "==")]
        lowest[canonicalize_name(requirement.name)] = max(floors, key=Version, default="0")
    assert {"torch", "pillow", "jinja2", "setuptools"} <= FLOORS.keys() & lowest
    assert too_old(lowest) == {}


def test_no_installed_package_is_vulnerable() -> None:
    items = [item for item in importlib.metadata.distributions() if item.name]
    assert too_old({canonicalize_name(item.name): item.version for item in items}) == {}
