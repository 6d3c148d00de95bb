"""`python -m repro.check [SECTION ...]`: a line a check; exit status 1 if one failed.

On a GPU the measured rates go to work/gpu-check.json, where `python -m repro plan` reads them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import click
import torch

from repro.check import processes, training
from repro.check.noise import FULL, TOY, Check, Scale
from repro.files import replace_json
from repro.launch.places import GPU_ENVIRONMENT, TRAINING_ENVIRONMENT
from repro.plan.forecast import MEASURED

Section = Callable[[Scale, torch.device], Iterator[Check]]
FLOPS: dict[str, float] = {}
"""FLOP/s by arithmetic, as the section `speed` measured them."""
SECTIONS: dict[str, Section] = {
    "equality": training.equality,
    "waiting": training.waiting,
    "cache": training.gradient_cache,
    "copies": training.copies,
    "worker": processes.worker,
    "ranks": processes.ranks,
    "speed": partial(training.speed, flops=FLOPS),
}


@click.command(help=__doc__)
@click.argument("sections", nargs=-1, type=click.Choice(list(SECTIONS)))
def main(sections: tuple[str, ...]) -> None:
    """Run the sections, all of them by default."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    if gpu:
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        print(f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, torch {torch.__version__}")
    else:
        print("no GPU: toy size on the CPU, which shows nothing about a GPU")

    checks = []
    for section in sections or SECTIONS:
        begun = time.monotonic()
        try:
            for check in SECTIONS[section](FULL if gpu else TOY, device):
                print(f"{section}: {check}", flush=True)
                checks.append(check)
        # A boundary: the sections after it must run whatever this one met.
        except Exception as error:
            checks.append(Check("raised", f"{type(error).__name__}: {error}", False))
            print(f"{section}: {checks[-1]}", flush=True)
        print(f"  ({section}: {time.monotonic() - begun:.0f} s)", flush=True)

    failed = [check for check in checks if check.passed is False]
    skipped = [check for check in checks if check.text.startswith("not checked")]
    print(f"{len(checks)} checks, {len(failed)} failed, {len(skipped)} not possible here")
    if gpu and FLOPS and not failed:
        MEASURED.parent.mkdir(exist_ok=True)
        replace_json(MEASURED, {"device": name, "memory_bytes": total, "flops": FLOPS})
        print(f"rates: {MEASURED}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    # Libraries read these when they load or first use the device: this process is started again.
    environment = os.environ | TRAINING_ENVIRONMENT | GPU_ENVIRONMENT
    if environment != dict(os.environ):
        command = [sys.executable, "-m", "repro.check", *sys.argv[1:]]
        os.execve(sys.executable, command, environment)  # noqa: S606
    main()
