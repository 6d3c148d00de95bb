"""`python -m repro plan --profile P`: what a profile costs, known before anything runs.

Runs, samples and evaluations follow from the specifications, FLOPs are counted on the model (repro/plan/flops.py), and the time
comes from specs/plan.yaml's device or, with `--calibrate`, from steps timed on this machine (repro/plan/calibrate.py). Where
results of the profile are there already, the forecast stands beside what they took.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from repro.plan.calibrate import calibrate
from repro.plan.flops import Counts, count
from repro.plan.work import (
    Assumptions,
    Rates,
    Work,
    load_assumptions,
    num_evaluation_images,
    wall_seconds,
    work_of,
)
from repro.profile import load_profile
from repro.runs.published import read_results
from repro.spec import Profile, SpecError
from repro.train.checkpoint import KEEP
from repro.train.pairs import DECODED_LIMIT

AUTHORS_GPUS = 8
"""GPUs for the wall time where none are named (code: attack-cleanclip README.md)."""
CALIBRATION_SECONDS = 40.0
"""Of timed steps and evaluations; imports and first steps come to about 15 more."""
HOUR = 3600.0
SHARES = (1.0, 0.4, 0.25)
"""Shares of the device's highest peak for which the hours are also given."""
STATE_BYTES = 12
"""Of a parameter on disk: weight and AdamW's two moments, float32."""
INDEX_BYTES = 250
"""Of a row in a store's index, caption included."""
ROW_BYTES = 1000
"""Of an evaluation in the ledger, bits aside."""


def plan(
    profile_name: str,
    gpus: int | None = None,
    utilisation: float | None = None,
    *,
    calibrated: bool = False,
) -> dict[str, Any]:
    """The forecast of a profile, as JSON content.

    `gpus`: devices for the wall time; None takes those of this machine when it is calibrated, else the authors' 8. `utilisation`
    replaces that of specs/plan.yaml; `calibrated` times this machine's steps instead. SpecError where an argument is not possible.
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
    works = work_of(profile)
    rates, calibration, on_gpu, slots = (
        assumed_rates(profile, works, counts, assumptions),
        None,
        True,
        gpus or AUTHORS_GPUS,
    )
    if calibrated:
        rates, calibration = calibrate(profile_name, CALIBRATION_SECONDS)
        on_gpu, slots = calibration["gpu"], gpus or calibration["slots"]
    return {
        "profile": profile.name,
        "stand_in": profile.data.stand_in,
        "device": assumptions.device
        if calibration is None
        else f"this machine's {'GPU' if on_gpu else 'core'}",
        "gpus": slots,
        **totals(works, counts, rates),
        "gpu_hours_at_highest_peak": hours_at_peak(works, counts, assumptions),
        "utilisation": assumptions.utilisation
        if calibration is None
        else reached(works, counts, rates, calibration),
        "wall_hours": wall(works, rates, slots, on_gpu),
        **disk(profile, works, counts, num_images, slots, assumptions),
        **energy(works, rates, assumptions, on_gpu),
        "models": [
            model_row(cell, members, counts, rates) for cell, members in _by_model(works).items()
        ],
        "gflop": gflop(works, counts),
        "parameters": counts.parameters,
        "prompts": counts.prompts,
        "evaluation_images": num_images,
        "assumptions": {
            name: {"value": value, "source": sources.get(name, "")}
            for name, value in assumptions.model_dump(mode="json").items()
        },
        "calibration": calibration,
        "measured": measured(profile.name, works, rates),
    }


def assumed_rates(
    profile: Profile, works: list[Work], counts: Counts, assumptions: Assumptions
) -> Rates:
    """Rates of the assumed device at the assumed utilisation of its peak at the profile's precision."""
    speed = {
        stage: assumptions.peak_tflops[precision] * 1e12 * assumptions.utilisation
        for stage, precision in (
            ("pretrain", profile.pretrain.precision),
            ("clean", profile.clean.precision),
        )
    }
    return Rates(
        pair_view={
            work.kind: counts.pair_view(work.kind) / speed[work.spec.stage] for work in works
        },
        evaluation=counts.evaluation / speed["clean"],
        start=assumptions.start_seconds,
    )


def totals(works: list[Work], counts: Counts, rates: Rates) -> dict[str, Any]:
    """Sums over all runs, and over those of each stage."""
    result: dict[str, Any] = {"runs": {}, "samples": {}, "evaluations": {}}
    hours, evaluation_flops = {}, 0
    for stage in ("pretrain", "clean"):
        mine = [work for work in works if work.spec.stage == stage]
        evaluations = sum(work.evaluations for work in mine)
        result["runs"][stage], result["samples"][stage] = (
            len(mine),
            sum(work.pairs for work in mine),
        )
        result["evaluations"][stage] = evaluations
        result[f"{stage}_eflop"] = (
            sum(map(counts.training, mine)) + evaluations * counts.evaluation
        ) / 1e18
        evaluation_flops += evaluations * counts.evaluation
        hours[stage] = sum(map(rates.seconds, mine)) / HOUR
    return result | {
        "evaluation_eflop": evaluation_flops / 1e18,
        "gpu_hours": sum(hours.values()),
        "gpu_hours_by_stage": hours,
    }


def hours_at_peak(works: list[Work], counts: Counts, assumptions: Assumptions) -> dict[str, float]:
    """GPU-hours if the device did all of it at a share of its highest peak."""
    flops = sum(counts.training(work) + work.evaluations * counts.evaluation for work in works)
    return {
        str(share): flops / (max(assumptions.peak_tflops.values()) * 1e12 * share) / HOUR
        for share in SHARES
    }


def reached(works: list[Work], counts: Counts, rates: Rates, calibration: dict[str, Any]) -> float:
    """FLOPs of the whole study over what its device-hours could do at the measured rate of large matrix products."""
    flops = sum(counts.training(work) + work.evaluations * counts.evaluation for work in works)
    return float(flops / (sum(map(rates.seconds, works)) * calibration["matrix_gflops"] * 1e9))


def wall(works: list[Work], rates: Rates, slots: int, on_gpu: bool) -> dict[str, float]:
    """Hours on the clock of the two training stages and their sum."""
    stages = wall_seconds(works, rates, slots, side_by_side=not on_gpu)
    hours = {stage: seconds / HOUR for stage, seconds in stages.items()}
    return hours | {"total": sum(hours.values())}


def disk(
    profile: Profile,
    works: list[Work],
    counts: Counts,
    num_images: int,
    slots: int,
    assumptions: Assumptions,
) -> dict[str, Any]:
    """Bytes on disk by folder, and their sum; DVC's cache is not in it (links where the file system can, copies where not)."""
    kind, side = profile.data.source.kind, profile.data.image_size
    pairs, pixels = sum(profile.data.num_pairs.values()), 3 * side**2
    files = pairs * assumptions.pair_bytes[kind] + num_images * assumptions.image_bytes[kind]
    sets = [
        number
        for slot in profile.data.num_pairs.values()
        for number in (slot, *profile.data.cleaning_sizes.values())
    ]
    decoded = [number * pixels for number in sets if number * pixels <= DECODED_LIMIT]
    evaluation = num_images * pixels * (2 if profile.switches.trigger_geometry == "squash" else 1)
    state = counts.parameters * STATE_BYTES
    pretrainings = sum(work.spec.stage == "pretrain" for work in works)
    evaluations = sum(work.evaluations for work in works)
    stages = {
        "incoming": files if kind == "webdataset" else 0,
        "data": (num_images * assumptions.image_bytes[kind] if kind == "webdataset" else files)
        + pairs * INDEX_BYTES,
        "poisoned": sum(profile.data.poison.num_poisoned.values()) * pixels + pairs * INDEX_BYTES,
        "cache": sum(decoded) + evaluation,
        "models": pretrainings * state,
        "work": (pretrainings + KEEP * slots) * state,
        "results": evaluations * (ROW_BYTES + num_images // 4),
    }
    return {"disk_bytes": sum(stages.values()), "disk_bytes_by_folder": stages}


def energy(
    works: list[Work], rates: Rates, assumptions: Assumptions, on_gpu: bool
) -> dict[str, float]:
    """Electricity of the device-hours, data centre included, and its emissions."""
    watts = assumptions.device_watts if on_gpu else assumptions.core_watts
    kwh = (
        sum(map(rates.seconds, works)) / HOUR * watts / 1000 * assumptions.power_usage_effectiveness
    )
    return {"kwh": kwh, "kg_co2e": kwh * assumptions.kg_co2e_per_kwh}


def model_row(
    key: tuple[str, str], works: list[Work], counts: Counts, rates: Rates
) -> dict[str, Any]:
    """What making or cleaning one model takes."""
    stage, cell = key
    return {
        "stage": stage,
        "cell": cell,
        "runs": len(works),
        "samples": sum(work.pairs for work in works),
        "evaluations": sum(work.evaluations for work in works),
        "train_eflop": sum(map(counts.training, works)) / 1e18,
        "evaluate_eflop": sum(work.evaluations for work in works) * counts.evaluation / 1e18,
        "gpu_hours": sum(map(rates.seconds, works)) / HOUR,
    }


def gflop(works: list[Work], counts: Counts) -> dict[str, Any]:
    """The unit costs, in 10^9 FLOPs."""
    units = {
        "image_forward": counts.image_forward,
        "image_backward": counts.image_backward,
        "text_forward": counts.text_forward,
        "text_backward": counts.text_backward,
        "evaluation": counts.evaluation,
        "evaluation_prompts": counts.prompts_forward,
    }
    steps = {work.kind: work.views * counts.pair_view(work.kind) / 1e9 for work in works}
    return {name: value / 1e9 for name, value in units.items()} | {"step_per_pair": steps}


def measured(profile: str, works: list[Work], rates: Rates) -> dict[str, dict[str, float]]:
    """Device-hours that the published runs of each stage took, those forecast for the same runs, and forecast over measured."""
    planned = {(work.spec.stage, work.spec.cell, work.spec.run_id): work for work in works}
    took: dict[str, float] = defaultdict(float)
    forecast: dict[str, float] = defaultdict(float)
    for _, record, _ in read_results(Path("results") / profile):
        work = planned.get((record.spec.stage, record.spec.cell, record.spec.run_id))
        if work is not None and record.status == "completed":
            took[work.spec.stage] += record.seconds * record.ranks * record.threads
            forecast[work.spec.stage] += rates.seconds(work)
    return {
        stage: {
            "hours": took[stage] / HOUR,
            "forecast": forecast[stage] / HOUR,
            "ratio": forecast[stage] / took[stage],
        }
        for stage in took
    }


def _by_model(works: list[Work]) -> dict[tuple[str, str], list[Work]]:
    groups: dict[tuple[str, str], list[Work]] = defaultdict(list)
    for work in works:
        groups[work.spec.stage, work.spec.cell].append(work)
    return groups


def cost_table(content: dict[str, Any]) -> str:
    """The forecast as Markdown: stages and models, disk, energy, what it was, if it is there, and what was assumed."""
    unit = "GPU" if content["calibration"] is None or content["calibration"]["gpu"] else "core"
    lines = [
        f"Profile `{content['profile']}` on {content['gpus']} x {content['device']} at {content['utilisation']:.0%} of its rate"
        " in matrix products at the profile's precision; clock: all devices at work.",
        "",
        f"| | runs | pairs | evaluations | EFLOP | {unit}-hours | clock |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in ("pretrain", "clean"):
        cells = [
            f"{content['runs'][stage]}",
            f"{content['samples'][stage]:,}",
            f"{content['evaluations'][stage]:,}",
            f"{content[f'{stage}_eflop']:.3g}",
            f"{content['gpu_hours_by_stage'][stage]:,.3g}",
            duration(content["wall_hours"][stage]),
        ]
        lines.append(f"| **{stage}** | {' | '.join(cells)} |")
        for row in content["models"]:
            if row["stage"] == stage:
                cells = [
                    f"{row['runs']}",
                    f"{row['samples']:,}",
                    f"{row['evaluations']:,}",
                    f"{row['train_eflop'] + row['evaluate_eflop']:.3g}",
                    f"{row['gpu_hours']:,.3g}",
                    "",
                ]
                lines.append(f"| {row['cell']} | {' | '.join(cells)} |")
    lines.append("")
    if content["calibration"] is None:
        shares = ", ".join(
            f"{value:,.0f} at {float(share):.0%}"
            for share, value in content["gpu_hours_at_highest_peak"].items()
        )
        lines.append(f"- GPU-hours at shares of the device's highest peak: {shares}")
    for stage, row in content["measured"].items():
        lines.append(
            f"- {stage} as it was: {row['hours']:.3g} {unit}-hours; forecast for the same runs over measured: {row['ratio']:.2f}"
        )
    folders = ", ".join(
        f"`{name}` {value / 1e9:.3g}"
        for name, value in content["disk_bytes_by_folder"].items()
        if value
    )
    lines += [
        f"- disk: {content['disk_bytes'] / 1e9:,.3g} GB ({folders})",
        f"- energy: {content['kwh']:,.3g} kWh, {content['kg_co2e']:,.3g} kg CO2e",
        "- assumed:",
        *(
            f"  - `{name}: {_value(entry['value'])}`: {entry['source']}"
            for name, entry in content["assumptions"].items()
        ),
    ]
    return "\n".join(lines)


def _value(value: Any) -> str:
    return (
        ", ".join(f"{key} {item:g}" for key, item in value.items())
        if isinstance(value, dict)
        else f"{value}"
    )


def duration(hours: float) -> str:
    """Hours as days, hours, minutes or seconds."""
    for unit, size in (("d", 24.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= 2 * size:
            return f"{hours / size:.1f} {unit}"
    return f"{hours * HOUR:.0f} s"
