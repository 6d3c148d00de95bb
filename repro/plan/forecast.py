"""`python -m repro plan --profile P`: what a profile costs, before anything runs.

Runs, pairs and evaluations follow from the specifications (repro/plan/work.py), FLOPs are counted
on the model (repro/plan/flops.py). Device-seconds of a run are

    pairs x max(FLOP of a pair / rate, core-seconds of a pair / loaders) x (1 + checkpoints)
    + evaluations x FLOP of an evaluation / rate

and each process has a start besides. The rate is a share of the device's peak (specs/plan.yaml): a
range, because nothing was measured. Where `make gpu-check` has measured a GPU, its rates give hours
of their own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from repro.markdown import fill, table_lines
from repro.plan.assumptions import (
    Assumptions,
    Device,
    Precision,
    load_assumptions,
    num_evaluation_images,
)
from repro.plan.flops import Counts, count
from repro.plan.work import Work, num_rows, work_of
from repro.profile import load_profile
from repro.spec import PretrainSpec, Profile, RunSpec, SpecError
from repro.train.gradient_cache import MEMORY_SHARE, group_bytes
from repro.train.process.checkpoint import CHECKPOINT_SHARE, KEEP

AUTHORS_GPUS = 8
"""GPUs for the wall time where none are named (code: attack-cleanclip README.md)."""
MEASURED = Path("work/gpu-check.json")
"""What `make gpu-check` writes: `{"device": name, "flops": {arithmetic: FLOP/s}}`."""
HOUR = 3600.0
STATE_BYTES = 12
"""Of a parameter on disk: weight and AdamW's two moments, float32."""
INDEX_BYTES = 250
"""Of a row in a store's index, caption included."""
ROW_BYTES = 1000
"""Of an evaluation in the ledger, bits aside."""
STAGES = ("pretrain", "clean")


def arithmetic(precision: Precision, spec: RunSpec | PretrainSpec) -> str:
    """What the speed of a GPU depends on, in words, such as `bf16 compiled fast`."""
    compiled = " compiled" if spec.compile else ""
    return f"{precision}{compiled}{'' if spec.deterministic else ' fast'}"


@dataclass(frozen=True)
class Forecast:
    """A profile, and the devices that it would run on."""

    profile: Profile
    gpus: int
    assumptions: Assumptions
    group_bytes: dict[str, int] = field(default_factory=dict)
    """Bytes that backward keeps of a BatchNorm group, by `Work.kind`: counting takes seconds."""

    @cached_property
    def works(self) -> list[Work]:
        """All runs, pre-trainings first."""
        return work_of(self.profile)

    @cached_property
    def num_images(self) -> int:
        """Images of an evaluation."""
        return num_evaluation_images(self.profile)

    @cached_property
    def counts(self) -> Counts:
        """FLOPs of the model."""
        tokens = self.assumptions.caption_tokens[self.profile.data.source.kind]
        return count(self.profile, tokens, self.num_images)

    def flops(self, works: Sequence[Work]) -> float:
        """Of training and evaluation, without what a gradient cache computes twice."""
        evaluations = sum(work.evaluations for work in works)
        return sum(map(self.counts.training, works)) + evaluations * self.counts.evaluation

    def ranks(self, spec: RunSpec, device: Device) -> int:
        """GPUs of a run: a pre-training takes as many as divide its BatchNorm groups."""
        if spec.stage == "clean":
            return 1
        groups = spec.schedule.global_batch_size // spec.schedule.norm_batch_size
        return max(n for n in range(1, groups + 1) if groups % n == 0 and n <= self.gpus)

    def seconds(self, work: Work, device: Device) -> tuple[float, float]:
        """Device-seconds of a run from its first step to its last evaluation, low and high."""
        spec, counts, data = work.spec, self.counts, self.profile.data
        flops = spec.num_views * counts.pair_view(work.kind)

        # A gradient cache takes the groups of a rank one after another, each forward twice.
        schedule = spec.schedule
        groups = schedule.global_batch_size // schedule.norm_batch_size // self.ranks(spec, device)
        if groups > 1 and self._cached(work.kind, spec, groups, device):
            flops += spec.num_views * (counts.image_forward + counts.text_forward)

        pixels = data.image_size**2
        decoded = 3 * pixels * num_rows(self.profile, spec) <= self.assumptions.cache_bytes
        host = self.assumptions.host_seconds(pixels, spec.num_views, decoded)
        rates = device.flops(spec.precision, spec)
        evaluating = device.flops(spec.evaluation_precision, spec)

        def total(index: int) -> float:
            # The low end of the time is the high end of the rate.
            step, wait = flops / rates[1 - index], host[index]
            pair = max(step, wait / device.loaders) if device.loaders else step + wait
            evaluation = counts.evaluation / evaluating[1 - index]
            return work.pairs * pair * (1 + CHECKPOINT_SHARE) + work.evaluations * evaluation

        return total(0), total(1)

    def _cached(self, kind: str, spec: RunSpec, groups: int, device: Device) -> bool:
        if kind not in self.group_bytes:
            self.group_bytes[kind] = group_bytes(spec)
        return groups * self.group_bytes[kind] > MEMORY_SHARE * device.memory_bytes

    def hours(self, device: Device) -> dict[str, Any]:
        """Device-hours of each stage, and hours of the clock, low and high."""
        by_stage: dict[str, list[float]] = {}
        wall = [0.0, 0.0]
        for stage in STAGES:
            works = [work for work in self.works if work.spec.stage == stage]
            seconds = [self.seconds(work, device) for work in works]
            # A process for each pre-training; cleaning runs on the same data share one a GPU.
            datasets = len({work.spec.dataset for work in works})
            processes = len(works) if stage == "pretrain" else min(len(works), datasets * self.gpus)
            sums = []
            for index in (0, 1):
                start = self.assumptions.start_seconds[self.profile.data.source.kind][index]
                total = sum(pair[index] for pair in seconds) + processes * start
                sums.append(total / HOUR)

                # Pre-trainings follow one another on all devices; cleaning runs go side by side.
                spread = max(total / self.gpus, max(pair[index] for pair in seconds) + start)
                if stage == "pretrain":
                    spread = sum(
                        start + pair[index] / self.ranks(work.spec, device)
                        for work, pair in zip(works, seconds, strict=True)
                    )
                wall[index] += spread / HOUR
            by_stage[stage] = sums
        both = [sum(sums[index] for sums in by_stage.values()) for index in (0, 1)]
        return {"total": both, **by_stage, "wall": wall}

    def disk(self) -> dict[str, int]:
        """Bytes by folder; DVC's cache is not in it (links where the file system can)."""
        data, assumptions = self.profile.data, self.assumptions
        kind, pixels = data.source.kind, 3 * data.image_size**2
        pairs = sum(data.num_pairs.values())
        images = self.num_images * assumptions.image_bytes[kind]
        files = pairs * assumptions.pair_bytes[kind] + images
        # Shards of a webdataset lie in `incoming`; other sources write their pairs into `data`.
        brought = kind == "webdataset"

        # Decoded: each set of pairs that fits, and the evaluation images, twice where triggers come
        # before resizing.
        sets = [*data.num_pairs.values(), *(len(data.num_pairs) * [*data.cleaning_sizes.values()])]
        decoded = sum(size * pixels for size in sets if size * pixels <= assumptions.cache_bytes)
        squashed = self.profile.switches.trigger_geometry == "squash"
        decoded += self.num_images * pixels * (2 if squashed else 1)

        # Weights and optimizer state of one model.
        state = self.counts.parameters * STATE_BYTES
        models = sum(work.spec.stage == "pretrain" for work in self.works)
        evaluations = sum(work.evaluations for work in self.works)
        poisons = sum(data.poison.num_poisoned.values())
        return {
            "incoming": files if brought else 0,
            "data": (images if brought else files) + pairs * INDEX_BYTES,
            "poisoned": poisons * pixels + pairs * INDEX_BYTES,
            "cache": decoded,
            "models": models * state,
            "work": (models + KEEP * self.gpus) * state,
            "results": evaluations * (ROW_BYTES + self.num_images // 4),
        }

    def models(self) -> list[dict[str, Any]]:
        """What making or cleaning each model takes."""
        groups: dict[tuple[str, str], list[Work]] = defaultdict(list)
        for work in self.works:
            groups[work.spec.stage, work.spec.cell].append(work)
        return [
            {"stage": stage, "cell": cell, **self.totals(works)}
            for (stage, cell), works in groups.items()
        ]

    def totals(self, works: Sequence[Work]) -> dict[str, Any]:
        """Sums over runs."""
        return {
            "runs": len(works),
            "pairs": sum(work.pairs for work in works),
            "evaluations": sum(work.evaluations for work in works),
            "eflop": self.flops(works) / 1e18,
        }


def plan(
    profile_name: str, gpus: int | None = None, utilisation: float | None = None
) -> dict[str, Any]:
    """The forecast of a profile, as JSON content; `utilisation` replaces every assumed share.

    SpecError where an argument is not possible.
    """
    if gpus is not None and gpus < 1:
        raise SpecError(f"--gpus: {gpus} (allowed: at least 1)")
    if utilisation is not None and not 0 < utilisation <= 1:
        raise SpecError(f"--utilisation: {utilisation} (allowed: above 0, at most 1)")

    forecast = Forecast(load_profile(profile_name), gpus or AUTHORS_GPUS, load_assumptions())
    devices = forecast.assumptions.devices
    if utilisation is not None:
        devices = {name: fixed(device, utilisation) for name, device in devices.items()}
    hours = {name: forecast.hours(device) for name, device in devices.items()}

    # Electricity of the device-hours, data centre included.
    effectiveness = forecast.assumptions.power_usage_effectiveness
    kwh = {
        name: [value * device.watts / 1000 * effectiveness for value in hours[name]["total"]]
        for name, device in devices.items()
    }
    by_stage = {
        stage: forecast.totals([work for work in forecast.works if work.spec.stage == stage])
        for stage in STAGES
    }
    disk, data = forecast.disk(), forecast.profile.data
    precisions = {work.spec.precision for work in forecast.works}
    mirrored = sum(data.num_pairs.values()) * forecast.assumptions.mirror_pair_bytes
    return {
        "profile": forecast.profile.name,
        "gpus": forecast.gpus,
        # Nobody trains on processors what is to be computed in TF32 or bfloat16.
        "devices": ["a100", "h100", "core"] if precisions == {"fp32"} else ["a100", "h100"],
        **{f"{stage}_eflop": totals["eflop"] for stage, totals in by_stage.items()},
        "stages": by_stage,
        "models": forecast.models(),
        "gpu_hours": {name: hours[name]["total"] for name in ("a100", "h100")},
        "core_hours": hours["core"]["total"],
        "hours": hours,
        "measured": measured_hours(forecast),
        "kwh": kwh,
        "kg_co2e": {
            name: [value * forecast.assumptions.kg_co2e_per_kwh for value in pair]
            for name, pair in kwh.items()
        },
        "disk_bytes": sum(disk.values()),
        "disk_bytes_by_folder": disk,
        "incoming_bytes_of_a_mirror": mirrored if disk["incoming"] else 0,
        "parameters": forecast.counts.parameters,
        "prompts": forecast.counts.prompts,
        "evaluation_images": forecast.num_images,
    }


def fixed(device: Device, utilisation: float) -> Device:
    """The device with one share of its peak in every arithmetic."""
    shares = dict.fromkeys(device.utilisation, (utilisation, utilisation))
    return device.model_copy(update={"utilisation": shares, "deterministic": 1.0, "compiled": 1.0})


def measured_hours(forecast: Forecast) -> dict[str, Any] | None:
    """Hours at the rates that gpu-check measured; None if it has not, or not in this arithmetic."""
    if not MEASURED.exists():
        return None
    content = json.loads(MEASURED.read_bytes())
    peaks = {}
    for work in forecast.works:
        for precision in (work.spec.precision, work.spec.evaluation_precision):
            flops = content["flops"].get(arithmetic(precision, work.spec))
            if flops is None:
                return None
            peaks[precision] = flops / 1e12

    gpu = fixed(forecast.assumptions.devices["a100"], 1.0).model_copy(
        update={"peak_tflops": peaks, "memory_bytes": content["memory_bytes"]}
    )
    return {"device": content["device"], **forecast.hours(gpu)}


def plan_command(
    profile_name: str, as_json: bool, table: Path | None, gpus: int | None, share: float | None
) -> None:
    """Print the forecast, for people or as JSON, also into the block `plan` of a Markdown file."""
    content = plan(profile_name, gpus, share)
    print(json.dumps(content, indent=1) if as_json else cost_table(content))
    if table is not None:
        fill(table, "plan", cost_table(content))


def cost_table(content: dict[str, Any]) -> str:
    """The forecast as Markdown: work, hours by device, disk."""
    rows = []
    for stage, totals in content["stages"].items():
        rows.append([f"**{stage}**", *_cells(totals)])
        rows += [[row["cell"], *_cells(row)] for row in content["models"] if row["stage"] == stage]
    hours = []
    measured = {f"{entry['device']}, measured": entry for entry in [content["measured"]] if entry}
    shown = {name: content["hours"][name] for name in content["devices"]}
    for name, entry in (shown | measured).items():
        spans = [span(entry[key]) for key in (*STAGES, "total", "wall")]
        energy = [
            span(content[key][name]) if name in content[key] else "" for key in ("kwh", "kg_co2e")
        ]
        hours.append([name, *spans, *energy])

    folders = content["disk_bytes_by_folder"].items()
    listed = ", ".join(f"`{name}` {value / 1e9:.3g}" for name, value in folders if value)
    mirror = content["incoming_bytes_of_a_mirror"] / 1e9
    header = (
        "device",
        *STAGES,
        "device-hours",
        f"hours on {content['gpus']}",
        "kWh",
        "kg CO2e",
    )
    return "\n".join(
        [
            *table_lines((content["profile"], "runs", "pairs", "evaluations", "EFLOP"), rows),
            "",
            *table_lines(header, hours),
            "",
            f"Disk: {content['disk_bytes'] / 1e9:,.3g} GB ({listed})"
            + (f"; of a mirror `incoming` is about {mirror:,.0f}." if mirror else "."),
            "Assumptions and their sources: specs/plan.yaml.",
        ]
    )


def _cells(totals: dict[str, Any]) -> list[str]:
    counts = [f"{totals[name]:,}" for name in ("runs", "pairs", "evaluations")]
    return [*counts, f"{totals['eflop']:.3g}"]


def span(pair: Sequence[float]) -> str:
    """A range in three digits; one number where both ends are the same."""
    low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in pair)
    return low if low == high else f"{low} to {high}"
