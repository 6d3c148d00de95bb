"""Results whose fields are also read by key, as in report.json."""

from __future__ import annotations

from typing import Any


class Keyed:
    """Base of results: `result["mean"]` is `result.mean`."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        """The field of this name."""
        return getattr(self, name)
