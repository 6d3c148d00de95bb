"""`python -m repro.check [SECTION ...]`: a line a check; exit status 1 if one failed. Without a
section all but `data`, which wants a folder of shards.

On a GPU the measured rates go to work/gpu-check.json, where `python -m repro plan` reads them.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import torch

from repro.check import processes, reading, training
from repro.check.noise import FULL, TOY, Check, Scale
from repro.data.memory import devices, gpus_usable
from repro.files import replace_json
from repro.launch.places import GPU_ENVIRONMENT, TRAINING_ENVIRONMENT
from repro.plan.assumptions import MEASURED

FLOPS = training.FLOPS
Section = Callable[[Scale], Iterator[Check]]
SECTIONS: dict[str, Section] = {
    "tools": training.tools,
    "equality": training.equality,
    "waiting": training.waiting,
    "cache": training.gradient_cache,
    "copies": training.copies,
    "worker": processes.worker,
    "ranks": processes.ranks,
    "speed": training.speed,
}


def run(section: Section, scale: Scale) -> Iterator[Check]:
    """The checks of a section; one that raises has failed, and the sections after it go on."""
    try:
        yield from section(scale)
    except Exception as error:
        yield Check("raised", f"{type(error).__name__}: {error}", False)


@click.group(chain=True, invoke_without_command=True, help=__doc__)
def main() -> None:
    """Each command gives a name and a section; `run_all` runs them."""


for each in SECTIONS:
    section_named = click.Command(each, callback=lambda name=each: (name, SECTIONS[name]))
    main.add_command(section_named)


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--profile", default="paper_lean", show_default=True)
def data(folder: Path, profile: str) -> tuple[str, Section]:
    """Whether shards and cores keep the GPUs busy."""
    return "data", partial(reading.data, folder, profile)


@main.result_callback()
def run_all(chosen: list[tuple[str, Section]]) -> None:
    """Run the chosen sections, all of them by default."""
    # GPUs behind too old a driver are no reason to check the processor in their place.
    try:
        scale = FULL if gpus_usable(devices()) else TOY
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None

    if scale.gpu:
        free, total = torch.cuda.mem_get_info(scale.device)
        device = torch.cuda.get_device_name(scale.device)
        print(f"{device}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, torch {torch.__version__}")
    else:
        print("no GPU: steps of toy size on the CPU, which show nothing about a GPU")

    checks = []
    for name, section in chosen or SECTIONS.items():
        begun = time.monotonic()
        for check in run(section, scale):
            print(f"{name}: {check}", flush=True)
            checks.append(check)
        print(f"  ({name}: {time.monotonic() - begun:.0f} s)", flush=True)

    failed = [check for check in checks if check.passed is False]
    skipped = [check for check in checks if check.text.startswith("not checked")]
    print(f"{len(checks)} checks, {len(failed)} failed, {len(skipped)} not possible here")
    # Measured is measured, whatever another check says.
    if scale.gpu and FLOPS:
        MEASURED.parent.mkdir(exist_ok=True)
        replace_json(MEASURED, {"device": device, "memory_bytes": total, "flops": FLOPS})
        print(f"rates: {MEASURED}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    # Libraries read these when they load or first use the device: this process is started again.
    environment = os.environ | TRAINING_ENVIRONMENT | GPU_ENVIRONMENT
    if environment != dict(os.environ):
        command = [sys.executable, "-m", "repro.check", *sys.argv[1:]]
        os.execve(sys.executable, command, environment)  # noqa: S606
    main()
