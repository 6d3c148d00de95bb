"""`python -m repro plan --profile P`: what a profile costs, before anything runs.

Runs, pairs and evaluations follow from the specifications (repro/plan/work.py), FLOPs are counted
on the model (repro/plan/flops.py). Device-seconds of a run are

    pairs x max(FLOP of a pair / rate, core-seconds of a pair / loaders) x (1 + checkpoints)
    + FLOP of evaluations / rate

less what an early end is assumed to leave out, and each process has a start besides. The rate is a
share of the device's peak (specs/plan.yaml): a range, because nothing was measured. Where `make
gpu-check` has measured a GPU, its rates give hours of their own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from repro.markdown import fill, table_lines
from repro.plan.assumptions import Assumptions, Device, load_assumptions, num_evaluation_images
from repro.plan.flops import Counts, count
from repro.plan.work import Work, kind_of, num_rows, work_of
from repro.profile import load_profile
from repro.runs.layout import cleaned_file
from repro.spec import Dataset, PretrainSpec, Profile, RunSpec
from repro.train.gradient_cache import MEMORY_SHARE, group_bytes
from repro.train.process.checkpoint import CHECKPOINT_SHARE, KEEP

AUTHORS_GPUS = 8
"""GPUs for the wall time where none are named (code: attack-cleanclip README.md)."""
MEASURED = Path("work/gpu-check.json")
"""What `make gpu-check` writes: `{"device": name, "flops": {arithmetic: FLOP/s}}`."""
STATE_BYTES = 12
"""Of a parameter on disk: weight and AdamW's two moments, float32."""
INDEX_BYTES = 250
"""Of a row in a store's index, caption included."""
ROW_BYTES = 1000
"""Of an evaluation in the ledger, bits aside."""
STAGES = ("pretrain", "clean")


def arithmetic(precision: str, spec: RunSpec | PretrainSpec) -> str:
    """What the speed of a GPU depends on, in words, such as `bf16 compiled fast`."""
    compiled = " compiled" if spec.compile else ""
    return f"{precision}{compiled}{'' if spec.deterministic else ' fast'}"


def counts_of(profile: Profile, assumptions: Assumptions) -> Counts:
    """FLOPs of the profile's model, with captions as long as its data have them."""
    whole = profile.pretrain.text_parts == 1
    tokens = assumptions.caption_tokens if whole else assumptions.caption_tokens_in_parts
    return count(profile, tokens[profile.data.source.kind], num_evaluation_images(profile))


@dataclass(frozen=True)
class Forecast:
    """A profile, and the devices that it would run on."""

    profile: Profile
    counts: Counts
    gpus: int
    assumptions: Assumptions
    dataset: Dataset | None = None
    """None for all."""
    group_bytes: dict[str, int] = field(default_factory=dict)
    """Bytes that backward keeps of a BatchNorm group, by `kind_of`: counting takes seconds."""

    @cached_property
    def works(self) -> list[Work]:
        """All runs, pre-trainings first."""
        return work_of(self.profile, self.dataset)

    def ranks(self, spec: RunSpec) -> int:
        """GPUs of a run: a pre-training takes as many as divide its BatchNorm groups."""
        if spec.stage == "clean":
            return 1
        groups = spec.schedule.global_batch_size // spec.schedule.norm_batch_size
        return max(n for n in range(1, groups + 1) if groups % n == 0 and n <= self.gpus)

    def seconds(self, work: Work, device: Device) -> tuple[float, float]:
        """Device-seconds of a run from its first step to its last evaluation, low and high."""
        spec, counts = work.spec, self.counts
        kind = kind_of(spec)
        flops = spec.num_views * counts.pair_view(kind)

        # A gradient cache takes the groups of a rank one after another, each forward twice.
        schedule = spec.schedule
        groups = schedule.global_batch_size // schedule.norm_batch_size // self.ranks(spec)
        if groups > 1:
            if kind not in self.group_bytes:
                self.group_bytes[kind] = group_bytes(spec)
            if groups * self.group_bytes[kind] > MEMORY_SHARE * device.memory_bytes:
                flops += spec.num_views * (counts.image_forward + counts.text_forward)

        pixels = self.profile.data.image_size**2
        decoded = 3 * pixels * num_rows(self.profile, spec) <= self.assumptions.cache_bytes
        host = self.assumptions.host_seconds(pixels, spec.num_views, decoded)
        rates = device.flops(spec.precision, spec)
        evaluating = device.flops(spec.evaluation_precision, spec)

        def total(index: int) -> float:
            # The low end of the time is the high end of the rate.
            step, wait = flops / rates[1 - index], host[index]
            pair = max(step, wait / device.loaders) if device.loaders else step + wait
            evaluations = counts.evaluations(work) / evaluating[1 - index]
            whole = work.pairs * pair * (1 + CHECKPOINT_SHARE) + evaluations

            # The runs that are given up are spread over all of a dataset's.
            left_out = 0.0
            if rule := spec.stop_early:
                share = self.assumptions.given_up[spec.dataset][1 - index]
                left_out = share * (1 - rule.epochs / schedule.epochs)
            return whole * (1 - left_out)

        return total(0), total(1)

    def hours(self, device: Device) -> dict[str, Any]:
        """Device-hours of each stage, and hours of the clock, low and high."""
        result: dict[str, list[float]] = {"total": [0, 0], "wall": [0, 0]}
        for stage in STAGES:
            works = [work for work in self.works if work.spec.stage == stage]
            # A process for each pre-training; cleaning runs on the same data share one a GPU.
            datasets = len({work.spec.dataset for work in works})
            processes = len(works) if stage == "pretrain" else min(len(works), datasets * self.gpus)
            result[stage] = []
            for index in (0, 1):
                seconds = [self.seconds(work, device)[index] for work in works]
                start = self.assumptions.start_seconds[self.profile.data.source.kind][index]
                total = sum(seconds) + processes * start
                result[stage].append(total / 3600)
                result["total"][index] += total / 3600

                # Pre-trainings follow one another on all devices; cleaning runs go side by side.
                spread = max(total / self.gpus, max(seconds) + start)
                if stage == "pretrain":
                    ranks = [self.ranks(work.spec) for work in works]
                    spread = sum(start + own / n for own, n in zip(seconds, ranks, strict=True))
                result["wall"][index] += spread / 3600
        return result

    def disk(self) -> dict[str, int]:
        """Bytes by folder; DVC's cache is not in it (links where the file system can)."""
        data, assumptions, num_images = self.profile.data, self.assumptions, self.counts.num_images
        kind, pixels = data.source.kind, 3 * data.image_size**2
        datasets = [name for name in data.num_pairs if self.dataset in (None, name)]
        pairs = sum(data.num_pairs[name] for name in datasets)
        images = num_images * assumptions.image_bytes[kind]
        files = pairs * assumptions.pair_bytes[kind] + images
        # Shards of a webdataset lie in `incoming`; other sources write their pairs into `data`.
        brought = kind == "webdataset"

        # Decoded: each set of pairs that fits, and the evaluation images, twice where triggers come
        # before resizing; those of partial evaluations have a file of their own.
        partial = (self.profile.clean.images_between or 0) * self.counts.classes
        cleaning = list(data.cleaning_sizes.values())
        sizes = [size for name in datasets for size in (data.num_pairs[name], *cleaning)]
        sizes = [size for size in sizes if size * pixels <= assumptions.cache_bytes]
        squashed = self.profile.switches.trigger_geometry == "squash"

        # Weights and optimizer state of one model.
        state = self.counts.parameters * STATE_BYTES
        stages = {stage: self.totals(stage) for stage in STAGES}
        models, poisons = stages["pretrain"]["runs"], data.poison.num_poisoned
        # The weights alone of the cleaned model of each setting and seed.
        cleaned = len({cleaned_file(w.spec) for w in self.works if w.spec.keeps_cleaned})
        return {
            "incoming": files if brought else 0,
            "data": (images if brought else files) + pairs * INDEX_BYTES,
            "poisoned": sum(poisons[name] for name in datasets) * pixels + pairs * INDEX_BYTES,
            "cache": pixels * (sum(sizes) + (num_images + partial) * (1 + squashed)),
            "models": models * state + cleaned * state // 3,
            "work": (models + KEEP * self.gpus) * state,
            "results": sum(total["evaluations"] for total in stages.values())
            * (ROW_BYTES + num_images // 4),
        }

    def totals(self, stage: str, cell: str = "") -> dict[str, Any]:
        """Sums over the runs of a stage, of one model if named; FLOPs without what a gradient cache
        computes twice and with what an early end leaves out.
        """
        counts = self.counts
        works = [w for w in self.works if w.spec.stage == stage and cell in ("", w.spec.cell)]
        flops = sum(counts.training(work) + counts.evaluations(work) for work in works)
        return {
            "runs": len(works),
            "pairs": sum(work.pairs for work in works),
            "evaluations": sum(work.evaluations for work in works),
            "eflop": flops / 1e18,
        }

    def differences(self) -> list[dict[str, Any]]:
        """Where the profile departs from `paper` on the same data, and the hours of an H100 that
        each departure saves: those without it less those with it, low and high.
        """
        paper, here = load_profile("paper"), self.profile
        if here.data != paper.data:
            return []

        # A field that both stages have is one departure.
        settings: dict[str, dict[str, Any]] = defaultdict(dict)
        for stage in STAGES:
            theirs, ours = getattr(paper, stage).model_dump(), getattr(here, stage).model_dump()
            for name in ours:
                if ours[name] != theirs[name]:
                    settings[name][f"{stage}.{name}"] = theirs[name], ours[name]

        device, result = self.assumptions.devices["h100"], []
        for name, fields in settings.items():
            other = load_profile(
                here.name, overrides={key: old for key, (old, _) in fields.items()}
            )
            counts = counts_of(other, self.assumptions) if name == "text_parts" else self.counts
            without = replace(self, profile=other, counts=counts, group_bytes={})
            hours = [without.hours(device)["total"], self.hours(device)["total"]]
            # Of a mapping, the entries that differ.
            old, new = next(iter(fields.values()))
            if isinstance(old, dict) and isinstance(new, dict):
                changed = [key for key in new if old[key] != new[key]]
                old, new = ({key: of[key] for key in changed} for of in (old, new))
            saved = sorted(before - after for before, after in zip(*hours, strict=True))
            result.append({"field": name, "paper": old, "here": new, "h100_hours": saved})
        return result


def plan(
    profile_name: str,
    gpus: int = AUTHORS_GPUS,
    utilisation: float | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """The forecast of a profile, or of its runs on one dataset, as JSON content; `utilisation`
    replaces every assumed share.
    """
    assumptions, profile = load_assumptions(), load_profile(profile_name)
    counts = counts_of(profile, assumptions)
    forecast = Forecast(profile, counts, gpus, assumptions, dataset)
    devices = assumptions.devices
    if utilisation is not None:
        devices = {name: fixed(device, utilisation) for name, device in devices.items()}
    hours = {name: forecast.hours(device) for name, device in devices.items()}

    # Electricity of the device-hours, data centre included.
    kwh = {}
    for name, device in devices.items():
        kilowatts = device.watts / 1000 * assumptions.power_usage_effectiveness
        kwh[name] = [value * kilowatts for value in hours[name]["total"]]
    by_stage = {stage: forecast.totals(stage) for stage in STAGES}
    models = dict.fromkeys((work.spec.stage, work.spec.cell) for work in forecast.works)
    disk = forecast.disk()
    precisions = {work.spec.precision for work in forecast.works}
    pairs = sum(n for name, n in profile.data.num_pairs.items() if dataset in (None, name))
    mirrored = pairs if disk["incoming"] else 0
    return {
        "profile": profile.name,
        "gpus": forecast.gpus,
        # Nobody trains on processors what is to be computed in TF32 or bfloat16.
        "devices": ["a100", "h100", "core"] if precisions == {"fp32"} else ["a100", "h100"],
        **{f"{stage}_eflop": totals["eflop"] for stage, totals in by_stage.items()},
        "stages": by_stage,
        "models": [{"stage": s, "cell": cell, **forecast.totals(s, cell)} for s, cell in models],
        "gpu_hours": {name: hours[name]["total"] for name in ("a100", "h100")},
        "core_hours": hours["core"]["total"],
        "hours": hours,
        "measured": measured_hours(forecast),
        "differences": forecast.differences(),
        "kwh": kwh,
        "kg_co2e": {
            name: [value * assumptions.kg_co2e_per_kwh for value in pair]
            for name, pair in kwh.items()
        },
        "disk_bytes": sum(disk.values()),
        "disk_bytes_by_folder": disk,
        "incoming_bytes_of_a_mirror": mirrored * assumptions.mirror_pair_bytes,
        "parameters": counts.parameters,
        "prompts": counts.prompts,
        "evaluation_images": counts.num_images,
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
    wanted = {
        precision: arithmetic(precision, work.spec)
        for work in forecast.works
        for precision in (work.spec.precision, work.spec.evaluation_precision)
    }
    if not content["flops"].keys() >= set(wanted.values()):
        return None
    peaks = {precision: content["flops"][how] / 1e12 for precision, how in wanted.items()}
    gpu = fixed(forecast.assumptions.devices["a100"], 1.0).model_copy(
        update={"peak_tflops": peaks, "memory_bytes": content["memory_bytes"]}
    )
    return {"device": content["device"], **forecast.hours(gpu)}


def plan_command(
    profile_name: str,
    as_json: bool,
    table: Path | None,
    gpus: int = AUTHORS_GPUS,
    utilisation: float | None = None,
    dataset: Dataset | None = None,
) -> None:
    """Print the forecast, for people or as JSON, also into the profile's block of a Markdown
    file.
    """
    content = plan(profile_name, gpus, utilisation, dataset)
    print(json.dumps(content, indent=1) if as_json else cost_table(content))
    if table is not None:
        fill(table, f"plan-{profile_name}", cost_table(content))


def cost_table(content: dict[str, Any]) -> str:
    """The forecast as Markdown: work, hours by device, departures from the paper, disk."""
    rows = []
    for stage, totals in content["stages"].items():
        models = [row for row in content["models"] if row["stage"] == stage]
        for name, row in [(f"**{stage}**", totals), *((row["cell"], row) for row in models)]:
            numbers = [f"{row[key]:,}" for key in ("runs", "pairs", "evaluations")]
            rows.append([name, *numbers, f"{row['eflop']:.3g}"])
    lines = table_lines((content["profile"], "runs", "pairs", "evaluations", "EFLOP"), rows)

    hours = {name: content["hours"][name] for name in content["devices"]}
    if entry := content["measured"]:
        hours[f"{entry['device']}, measured"] = entry
    rows = [
        [
            name,
            *(span(entry[key]) for key in (*STAGES, "total", "wall")),
            *(span(content[key].get(name, ())) for key in ("kwh", "kg_co2e")),
        ]
        for name, entry in hours.items()
    ]
    clock = f"hours on {content['gpus']}"
    header = ("device", *STAGES, "device-hours", clock, "kWh", "kg CO2e")
    lines += ["", *table_lines(header, rows), ""]

    if content["differences"]:
        rows = [
            [row["field"], *(f"`{row[of]}`" for of in ("paper", "here")), span(row["h100_hours"])]
            for row in content["differences"]
        ]
        lines += [*table_lines(("differs in", "paper", "here", "saves, h100"), rows), ""]

    folders = content["disk_bytes_by_folder"].items()
    listed = ", ".join(f"`{name}` {value / 1e9:.3g}" for name, value in folders if value)
    mirror = content["incoming_bytes_of_a_mirror"] / 1e9
    end = f"; of a mirror `incoming` is about {mirror:,.0f}." if mirror else "."
    lines.append(f"Disk: {content['disk_bytes'] / 1e9:,.3g} GB ({listed}){end}")
    return "\n".join([*lines, "Assumptions and their sources: specs/plan.yaml."])


def span(pair: Sequence[float]) -> str:
    """A range in three digits; one number where both ends are the same, nothing of no number."""
    ends = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in pair]
    return " to ".join(dict.fromkeys(ends))
