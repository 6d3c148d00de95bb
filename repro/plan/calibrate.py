"""This machine's rates for a forecast: one process for each place, all at once, as the launcher
would start them.

Cores share their memory's bandwidth, so one of them alone would be too fast. What each process
does stands in `repro/plan/measure.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from repro.launch.places import Place, devices, rank_environment, shared_places
from repro.plan.assumptions import HostCost
from repro.plan.host import measure_host
from repro.plan.measure import Speed
from repro.plan.rates import Rates
from repro.profile import load_profile
from repro.train.process.checkpoint import CHECKPOINT_SHARE


@dataclass(frozen=True)
class Calibration:
    """What was measured, besides the rates."""

    places: int
    threads: int
    """Of each place."""
    gpu: bool
    real_data: bool
    """False: pixels without meaning stood in, and nothing was read, decoded or augmented."""
    matrix_flops: float
    """FLOP/s of a large matrix product."""
    batch: dict[str, int]
    """Pairs in the steps that were timed, by kind of run."""
    host_seconds: HostCost
    """Of one core, for images of the profile's size."""


def calibrate(profile_name: str, seconds: float) -> tuple[Rates, Calibration]:
    """Rates of one device of this machine, and what else was measured.

    Takes about `seconds` of steps and evaluations, start-up besides. RuntimeError with the output
    of a process that failed.
    """
    # All processes run before the first is waited for.
    places = shared_places()
    running = [_start(profile_name, seconds, place) for place in places]
    speeds = [_speed(process) for process in running]

    def mean(value: Callable[[Speed], float]) -> float:
        return sum(map(value, speeds)) / len(speeds)

    kinds = list(speeds[0].step)
    rates = Rates(
        pair_view={kind: mean(lambda speed, kind=kind: speed.step[kind]) for kind in kinds},  # type: ignore[misc]
        wait={kind: mean(lambda speed, kind=kind: speed.wait[kind]) for kind in kinds},  # type: ignore[misc]
        evaluation=mean(lambda speed: speed.evaluation),
        start=mean(lambda speed: speed.start),
        checkpoint_share=CHECKPOINT_SHARE,
        run={kind: mean(lambda speed, kind=kind: speed.run[kind]) for kind in kinds},  # type: ignore[misc]
    )
    return rates, Calibration(
        places=len(places),
        threads=places[0].threads,
        gpu=bool(devices()),
        real_data=speeds[0].real_data,
        matrix_flops=mean(lambda speed: speed.matrix_flops),
        batch=speeds[0].batch,
        host_seconds=measure_host(load_profile(profile_name).data.image_size),
    )


def _start(profile_name: str, seconds: float, place: Place) -> subprocess.Popen[str]:
    """The process of a place, in the environment that the launcher gives to training."""
    environment = rank_environment(place.threads, gpu=bool(place.devices))
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(place.devices)
    arguments = [profile_name, str(seconds), str(place.threads)]
    return subprocess.Popen(
        [sys.executable, "-m", "repro.plan.measure", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _speed(process: subprocess.Popen[str]) -> Speed:
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"calibration ended with status {process.returncode}:\n{errors[-2000:]}")
    # The result is the last line: libraries may print before it.
    return Speed(**json.loads(output.splitlines()[-1]))
