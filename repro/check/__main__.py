"""`python -m repro.check [SECTION ...]`: a line a check; exit status 1 if one failed.

On a GPU the measured rates go to work/gpu-check.json, where `python -m repro plan` reads them.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator

import click
import torch

from repro.check import processes, training
from repro.check.noise import FULL, TOY, Check, Scale
from repro.files import replace_json
from repro.launch.places import GPU_ENVIRONMENT, TRAINING_ENVIRONMENT, devices
from repro.plan.forecast import MEASURED
from repro.train.process import distributed

FLOPS = training.FLOPS
SECTIONS: dict[str, Callable[[Scale], Iterator[Check]]] = {
    "tools": training.tools,
    "equality": training.equality,
    "waiting": training.waiting,
    "cache": training.gradient_cache,
    "copies": training.copies,
    "worker": processes.worker,
    "ranks": processes.ranks,
    "speed": training.speed,
}


def run(section: str, scale: Scale) -> Iterator[Check]:
    """The checks of a section; one that raises has failed, and the sections after it go on."""
    try:
        yield from SECTIONS[section](scale)
    except Exception as error:
        yield Check("raised", f"{type(error).__name__}: {error}", False)


@click.command(help=__doc__)
@click.argument("sections", nargs=-1, type=click.Choice(list(SECTIONS)))
def main(sections: tuple[str, ...]) -> None:
    """Run the sections, all of them by default."""
    # GPUs behind too old a driver are no reason to check the processor in their place.
    try:
        scale = FULL if distributed.gpus_usable(devices()) else TOY
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None

    if scale.gpu:
        free, total = torch.cuda.mem_get_info(scale.device)
        name = torch.cuda.get_device_name(scale.device)
        print(f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, torch {torch.__version__}")
    else:
        print("no GPU: toy size on the CPU, which shows nothing about a GPU")

    checks = []
    for section in sections or SECTIONS:
        begun = time.monotonic()
        for check in run(section, scale):
            print(f"{section}: {check}", flush=True)
            checks.append(check)
        print(f"  ({section}: {time.monotonic() - begun:.0f} s)", flush=True)

    failed = [check for check in checks if check.passed is False]
    skipped = [check for check in checks if check.text.startswith("not checked")]
    print(f"{len(checks)} checks, {len(failed)} failed, {len(skipped)} not possible here")
    if scale.gpu and FLOPS and not failed:
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
