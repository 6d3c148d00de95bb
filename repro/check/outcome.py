"""One line of what the checks show."""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS = {True: "PASS", False: "FAIL", None: "INFO"}


@dataclass(frozen=True)
class Check:
    """What was compared, what came out, and whether that is right."""

    name: str
    text: str
    passed: bool | None = None
    """None for a number without a bound, and for what could not be checked."""

    def __str__(self) -> str:
        return f"{VERDICTS[self.passed]} {self.name}: {self.text}"
