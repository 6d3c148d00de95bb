"""`python -m repro.check [SECTION ...]`: prints a line a check; exit status 1 if one failed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

from repro.check import rates, training
from repro.check.results import Check, failed, measured_block
from repro.check.work import FULL, TOY, Scale
from repro.markdown import fill
from repro.train.process.device import REPEATABLE_WORKSPACES, WORKSPACE

Section = Callable[[Scale, torch.device], Iterator[Check]]

SECTIONS: dict[str, Section] = {
    "environment": training.machine_environment,
    "equality": training.equality,
    "repeatable": training.same_bits,
    "resume": training.resume,
    "ranks": training.several_ranks,
    "evaluation": rates.evaluation,
    "speed": rates.speed,
    "memory": rates.memory,
}

PAGE = Path("docs/gpu.md")
BLOCK = "gpu-check"


def main(arguments: list[str] | None = None) -> int:
    """Run the sections, all of them by default, which then also write the page on a GPU."""
    parser = argparse.ArgumentParser(prog="python -m repro.check", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    chosen = parser.parse_args(arguments).sections or [*SECTIONS]
    if unknown := [name for name in chosen if name not in SECTIONS]:
        parser.error(f"{unknown[0]} (allowed: {', '.join(SECTIONS)})")

    # Both are read when the device is first used.
    os.environ.setdefault(WORKSPACE, REPEATABLE_WORKSPACES[0])
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    scale = FULL if cuda else TOY
    if not cuda:
        print(f"no GPU: toy size on the CPU; {PAGE} is left as it is")

    checks = []
    for name in chosen:
        checks += _run(name, scale, device)
    if cuda and chosen == [*SECTIONS]:
        day = datetime.now(UTC).date().isoformat()
        fill(PAGE, BLOCK, measured_block(torch.cuda.get_device_name(device), day, checks))
    return int(failed(checks))


def _run(name: str, scale: Scale, device: torch.device) -> list[Check]:
    """One section; what it raises is one more check that failed."""
    begun = time.monotonic()
    checks: list[Check] = []
    try:
        for check in SECTIONS[name](scale, device):
            print(check, flush=True)
            checks.append(check)
    # A boundary: the sections after it must run whatever this one met.
    except Exception as error:
        checks.append(Check(name, "raised", f"{type(error).__name__}: {error}", False))
        print(checks[-1], flush=True)
    print(f"  ({name}: {time.monotonic() - begun:.0f} s)", flush=True)
    return checks


if __name__ == "__main__":
    sys.exit(main())
