"""Replication of "Effective Backdoor Mitigation Depends on the Pre-training Objective"."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load` and `points` of repro/api.py, imported at first use: they need torch and pandas."""
    if name in ("load", "points"):
        return getattr(import_module("repro.api"), name)
    raise AttributeError(f"module 'repro' has no attribute {name!r}")
