"""What the checks found, on the console and as the table of docs/gpu.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repro.markdown import table_lines

VERDICTS = {True: "PASS", False: "FAIL", None: "INFO"}

UNCONFIRMED = (
    "No GPU has confirmed these figures: they are estimates from counted operations and bytes, "
    "and `make gpu-check` has not been run on one."
)

EXPECTED = {
    "equality": "loss and gradients off by < 1e-3 (float32), < 2e-2 (TF32), < 2e-1 (bfloat16)",
    "repeatable": "the same bits where `deterministic` is true",
    "resume": "the same bits as without the stop; copies < 1 s, writing 2 to 4 s",
    "ranks": "losses within 2e-3 of one rank; BatchNorm equal on all ranks before an evaluation",
    "evaluation": "image tower 4,000 to 5,000 images/s in TF32, 7,000 to 9,000 in bfloat16 (H100)",
    "speed": "1,100 to 1,500 pairs/s in TF32, 1,900 to 2,500 in bfloat16, 2,600 to 3,300 compiled "
    "(H100); an A100 0.42 to 0.46 of that",
    "memory": "36 to 38 GB at 256 pairs in float32 or TF32, 19 to 22 GB in bfloat16",
}
"""What each section should find, at 224 pixels with RN50; all but the bounds are estimates."""


@dataclass(frozen=True)
class Check:
    """One line of the outcome."""

    section: str
    name: str
    found: str
    passed: bool | None = None
    """None where a figure is only told."""

    def __str__(self) -> str:
        return f"{VERDICTS[self.passed]} {self.section}: {self.name}: {self.found}"


def failed(checks: Sequence[Check]) -> bool:
    """Whether one of the checks did."""
    return any(check.passed is False for check in checks)


def measured_block(device: str, day: str, checks: Sequence[Check]) -> str:
    """The table of docs/gpu.md after a run on `device`."""
    verdict = "with failures, see below" if failed(checks) else "all checks passed"
    rows = [
        (check.section, _cell(check.name), _cell(check.found), VERDICTS[check.passed])
        for check in checks
    ]
    lines = [f"Measured on one {device}, {day}: {verdict}.", ""]
    return "\n".join([*lines, *table_lines(["section", "what", "found", "verdict"], rows)])


def unconfirmed_block() -> str:
    """The table of docs/gpu.md as long as no GPU has run the checks."""
    rows = table_lines(["section", "expected"], EXPECTED.items())
    return "\n".join([UNCONFIRMED, "", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
