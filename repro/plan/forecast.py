"""`python -m repro plan --profile P`: what a profile costs, known before anything runs.

Runs, samples and evaluations follow from the specifications, FLOPs are counted on the model
(repro/plan/flops.py), and the time comes from specs/plan.yaml's device or, with `--calibrate`, from
steps timed on this machine (repro/plan/calibrate.py). Where results of the profile are there
already, the forecast stands beside what they took.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from repro.launch.places import MAX_LOADER_WORKERS
from repro.markdown import fill
from repro.plan.assumptions import Assumptions, load_assumptions, num_evaluation_images
from repro.plan.calibrate import Calibration, calibrate
from repro.plan.flops import Counts, count
from repro.plan.rates import Rates, Seconds, num_processes, wall_seconds
from repro.plan.table import cost_table
from repro.plan.work import Work, num_rows, work_of
from repro.profile import load_profile
from repro.runs.published import read_results
from repro.spec import Profile, SpecError
from repro.train.process.checkpoint import CHECKPOINT_SHARE, KEEP

AUTHORS_GPUS = 8
"""GPUs for the wall time where none are named (code: attack-cleanclip README.md)."""
CALIBRATION_SECONDS = 40.0
"""Of timed steps and evaluations; imports and first steps come to about 15 more."""
HOUR = 3600.0
PEAK_SHARES = (1.0, 0.4, 0.25)
"""Shares of the device's highest peak for which the hours are also given."""
STATE_BYTES = 12
"""Of a parameter on disk: weight and AdamW's two moments, float32."""
INDEX_BYTES = 250
"""Of a row in a store's index, caption included."""
ROW_BYTES = 1000
"""Of an evaluation in the ledger, bits aside."""
Precision = Literal["fp32", "tf32", "bf16"]
Stage = Literal["pretrain", "clean"]
STAGES: tuple[Stage, ...] = ("pretrain", "clean")


@dataclass(frozen=True)
class Planned:
    """What the parts of a forecast are computed from."""

    profile: Profile
    works: list[Work]
    counts: Counts
    num_images: int
    assumptions: Assumptions

    def of_stage(self, stage: Stage) -> list[Work]:
        """The runs of one stage."""
        return [work for work in self.works if work.spec.stage == stage]

    def flops(self, works: list[Work]) -> float:
        """Of training and evaluation."""
        evaluations = sum(work.evaluations for work in works)
        return sum(map(self.counts.training, works)) + evaluations * self.counts.evaluation


@dataclass(frozen=True)
class Machine:
    """What the study would run on."""

    rates: Rates
    devices: int
    on_gpu: bool
    calibration: Calibration | None


def plan_command(
    profile_name: str,
    as_json: bool,
    table: Path | None,
    gpus: int | None,
    utilisation: float | None,
    calibrated: bool,
) -> None:
    """Print the forecast, for people or as JSON, also as a table into the Markdown file `table`."""
    content = plan(profile_name, gpus, utilisation, calibrated=calibrated)
    print(json.dumps(content, indent=1) if as_json else cost_table(content))
    if table is not None:
        fill(table, "plan", cost_table(content))


def plan(
    profile_name: str,
    gpus: int | None = None,
    utilisation: float | None = None,
    *,
    calibrated: bool = False,
) -> dict[str, Any]:
    """The forecast of a profile, as JSON content; times in hours of devices or of the clock.

    `gpus`: devices for the wall time; None takes those of this machine when it is calibrated, else
    the authors' 8.
    `utilisation` replaces that of specs/plan.yaml; `calibrated` times this machine's steps instead.
    SpecError where an argument is not possible.
    """
    if gpus is not None and gpus < 1:
        raise SpecError(f"--gpus: {gpus} (allowed: at least 1)")
    if utilisation is not None and not 0 < utilisation <= 1:
        raise SpecError(f"--utilisation: {utilisation} (allowed: above 0, at most 1)")

    profile = load_profile(profile_name)
    assumptions, sources = load_assumptions()
    if utilisation is not None:
        assumptions = assumptions.model_copy(update={"utilisation": utilisation})
        sources |= {"utilisation": "given on the command line"}

    num_images = num_evaluation_images(profile)
    counts = count(profile, assumptions.caption_tokens[profile.data.source.kind], num_images)
    study = Planned(profile, work_of(profile), counts, num_images, assumptions)
    if calibrated:
        rates, calibration = calibrate(profile_name, CALIBRATION_SECONDS)
        devices = gpus or calibration.places

        # On GPUs, cores are left for the records.
        if not calibration.gpu:
            rates = replace(rates, record=assumptions.record_seconds)
        machine = Machine(rates, devices, calibration.gpu, calibration)
    else:
        machine = Machine(assumed_rates(study), gpus or AUTHORS_GPUS, True, None)

    shown = {
        name: {"value": value, "source": sources.get(name, "")}
        for name, value in assumptions.model_dump(mode="json").items()
    }
    return {
        "profile": profile.name,
        "stand_in": profile.data.stand_in,
        **_machine(study, machine),
        **_totals(study, machine),
        "gpu_hours_at_highest_peak": _hours_at_peak(study),
        **_disk(study, machine.devices),
        **_energy(study, machine),
        "models": _models(study, machine.rates),
        "gflop": _unit_costs(study),
        "parameters": counts.parameters,
        "prompts": counts.prompts,
        "evaluation_images": num_images,
        "assumptions": shown,
        "measured": _measured(study, machine.rates),
    }


def assumed_rates(study: Planned) -> Rates:
    """Rates of the assumed device at the assumed utilisation of its peak at each stage's precision.

    Loader processes work while the device does: it waits for what they cannot make ready in that
    time.
    """
    assumptions, profile = study.assumptions, study.profile
    loaders = max(1, min(MAX_LOADER_WORKERS, assumptions.cores_per_device - 1))
    pixels = profile.data.image_size**2

    pair_view, wait = {}, {}
    for work in study.works:
        step = study.counts.pair_view(work.kind) / _speed(assumptions, work.spec.precision)

        # Pairs that fit the cache are decoded once; 3 bytes a pixel.
        decoded = 3 * pixels * num_rows(profile, work.spec) <= assumptions.cache_bytes
        views = work.spec.num_views
        host = assumptions.host_seconds.pair(pixels, decoded=decoded, views=views) / views
        pair_view[work.kind] = step
        wait[work.kind] = max(0.0, host / loaders - step)

    # Evaluations take the cleaning runs' precision where they have none of their own.
    precision = profile.evaluate.precision or profile.clean.precision
    return Rates(
        pair_view=pair_view,
        wait=wait,
        evaluation=study.counts.evaluation / _speed(assumptions, precision),
        start=assumptions.start_seconds,
        checkpoint_share=CHECKPOINT_SHARE,
    )


def _speed(assumptions: Assumptions, precision: Precision) -> float:
    """FLOP/s."""
    return assumptions.peak_tflops[precision] * 1e12 * assumptions.utilisation


def stage_seconds(study: Planned, machine: Machine, stage: Stage) -> Seconds:
    """Device time of a stage by what it goes into."""
    works = study.of_stage(stage)
    starts = num_processes(works, machine.devices) * machine.rates.start
    return sum(map(machine.rates.seconds, works), Seconds(start=starts))


def _machine(study: Planned, machine: Machine) -> dict[str, Any]:
    """What the hours are hours of."""
    calibration = machine.calibration
    if calibration is None:
        device, utilisation = study.assumptions.device, study.assumptions.utilisation
    else:
        device = f"this machine's {'GPU' if machine.on_gpu else 'core'}"
        seconds = sum(machine.rates.seconds(work).total for work in study.works)
        utilisation = study.flops(study.works) / (seconds * calibration.matrix_flops)

    side_by_side = not machine.on_gpu
    wall = wall_seconds(study.works, machine.rates, machine.devices, side_by_side=side_by_side)
    hours = {stage: seconds / HOUR for stage, seconds in wall.items()}
    return {
        "device": device,
        "gpus": machine.devices,
        "utilisation": utilisation,
        "wall_hours": hours | {"total": sum(hours.values())},
        "calibration": None if calibration is None else asdict(calibration),
    }


def _totals(study: Planned, machine: Machine) -> dict[str, Any]:
    """Sums over the runs of each stage, and over all."""
    runs, samples, evaluations, eflop, hours = {}, {}, {}, {}, {}
    for stage in STAGES:
        works = study.of_stage(stage)
        seconds = stage_seconds(study, machine, stage)
        runs[stage] = len(works)
        samples[stage] = sum(work.pairs for work in works)
        evaluations[stage] = sum(work.evaluations for work in works)
        eflop[stage] = study.flops(works) / 1e18
        hours[stage] = {name: part / HOUR for name, part in asdict(seconds).items()}

    by_stage = {stage: sum(parts.values()) for stage, parts in hours.items()}
    return {
        "runs": runs,
        "samples": samples,
        "evaluations": evaluations,
        **{f"{stage}_eflop": eflop[stage] for stage in STAGES},
        "evaluation_eflop": sum(evaluations.values()) * study.counts.evaluation / 1e18,
        "gpu_hours": sum(by_stage.values()),
        "gpu_hours_by_stage": by_stage,
        "gpu_hours_by_part": hours,
    }


def _hours_at_peak(study: Planned) -> dict[str, float]:
    """GPU-hours if the device did all of it at a share of its highest peak."""
    peak = max(study.assumptions.peak_tflops.values()) * 1e12
    flops = study.flops(study.works)
    return {str(share): flops / (peak * share) / HOUR for share in PEAK_SHARES}


def _disk(study: Planned, devices: int) -> dict[str, Any]:
    """Bytes by folder, and their sum; DVC's cache is not in it (links where the file system can,
    copies where not).
    """
    data, assumptions = study.profile.data, study.assumptions
    kind, pixels = data.source.kind, 3 * data.image_size**2
    pairs = sum(data.num_pairs.values())
    images = study.num_images * assumptions.image_bytes[kind]
    files = pairs * assumptions.pair_bytes[kind] + images
    # Shards of a webdataset lie in `incoming`; other sources write their pairs into `data`.
    brought = kind == "webdataset"

    # Decoded: each set of pairs that fits, and the evaluation images, twice where triggers come
    # before resizing.
    sets = [*data.num_pairs.values(), *(len(data.num_pairs) * [*data.cleaning_sizes.values()])]
    decoded = sum(size * pixels for size in sets if size * pixels <= assumptions.cache_bytes)
    squashed = study.profile.switches.trigger_geometry == "squash"
    decoded += study.num_images * pixels * (2 if squashed else 1)

    # Weights and optimizer state of one model.
    state = study.counts.parameters * STATE_BYTES
    models = len(study.of_stage("pretrain"))
    evaluations = sum(work.evaluations for work in study.works)
    poisons = sum(data.poison.num_poisoned.values())
    folders = {
        "incoming": files if brought else 0,
        "data": (images if brought else files) + pairs * INDEX_BYTES,
        "poisoned": poisons * pixels + pairs * INDEX_BYTES,
        "cache": decoded,
        "models": models * state,
        "work": (models + KEEP * devices) * state,
        "results": evaluations * (ROW_BYTES + study.num_images // 4),
    }
    return {"disk_bytes": sum(folders.values()), "disk_bytes_by_folder": folders}


def _energy(study: Planned, machine: Machine) -> dict[str, float]:
    """Electricity of the device-hours, data centre included, and its emissions."""
    assumptions = study.assumptions
    hours = sum(stage_seconds(study, machine, stage).total for stage in STAGES) / HOUR
    watts = assumptions.device_watts if machine.on_gpu else assumptions.core_watts
    kwh = hours * watts / 1000 * assumptions.power_usage_effectiveness
    return {"kwh": kwh, "kg_co2e": kwh * assumptions.kg_co2e_per_kwh}


def _models(study: Planned, rates: Rates) -> list[dict[str, Any]]:
    """What making or cleaning each model takes; starts of processes are not in it."""
    groups: dict[tuple[str, str], list[Work]] = defaultdict(list)
    for work in study.works:
        groups[work.spec.stage, work.spec.cell].append(work)

    rows = []
    for (stage, cell), works in groups.items():
        evaluations = sum(work.evaluations for work in works)
        rows.append(
            {
                "stage": stage,
                "cell": cell,
                "runs": len(works),
                "samples": sum(work.pairs for work in works),
                "evaluations": evaluations,
                "train_eflop": sum(map(study.counts.training, works)) / 1e18,
                "evaluate_eflop": evaluations * study.counts.evaluation / 1e18,
                "gpu_hours": sum(rates.seconds(work).total for work in works) / HOUR,
            }
        )
    return rows


def _unit_costs(study: Planned) -> dict[str, Any]:
    """In 10^9 FLOPs."""
    counts = study.counts
    units = {
        "image_forward": counts.image_forward,
        "image_backward": counts.image_backward,
        "text_forward": counts.text_forward,
        "text_backward": counts.text_backward,
        "evaluation": counts.evaluation,
        "evaluation_prompts": counts.prompts_forward,
    }
    steps = {
        work.kind: work.spec.num_views * counts.pair_view(work.kind) / 1e9 for work in study.works
    }
    return {name: value / 1e9 for name, value in units.items()} | {"step_per_pair": steps}


def _measured(study: Planned, rates: Rates) -> dict[str, dict[str, float]]:
    """Device-hours that delivered runs of each stage took, those forecast for the same runs, and
    forecast over measured.
    """
    planned = {(work.spec.stage, work.spec.cell, work.spec.run_id): work for work in study.works}
    took: dict[str, float] = defaultdict(float)
    expected: dict[str, float] = defaultdict(float)
    for _, record, _ in read_results(Path("results") / study.profile.name):
        spec = record.spec
        work = planned.get((spec.stage, spec.cell, spec.run_id))
        if work is not None and record.status == "completed":
            took[spec.stage] += record.seconds * record.ranks * record.threads
            expected[spec.stage] += rates.seconds(work).total

    return {
        stage: {
            "hours": took[stage] / HOUR,
            "forecast": expected[stage] / HOUR,
            "ratio": expected[stage] / took[stage],
        }
        for stage in took
    }
