"""`python -m repro plan --profile P`: what a profile costs, before anything runs.

Runs, pairs and evaluations follow from the specifications, FLOPs are counted on the model
(repro/plan/flops.py). Device-seconds of a run are

    pairs x max(FLOP of a pair / rate, core-seconds of a pair / loaders) x (1 + checkpoints)
    + FLOP of evaluations / rate

less what an early end is assumed to leave out, and each process has a start besides. The rate is a
share of the device's peak (specs/plan.yaml): a range, because nothing was measured. Where `make
gpu-check` has measured a GPU, its rates give hours of their own.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jinja2 import StrictUndefined, Template

from repro.files import replace_json
from repro.markdown import fill
from repro.plan.assumptions import Assumptions, Device, load_assumptions
from repro.plan.counted import COUNTED, counted, counts_of, group_bytes_of
from repro.plan.work import Counts, Work, kind_of, num_rows, work_of
from repro.profile import graph_profile, load_profile, pretrain_runs, profile_names
from repro.runs.layout import cleaned_file
from repro.spec import Dataset, PretrainSpec, Profile, RunSpec
from repro.train.shares import CHECKPOINT_SHARE, KEEP_CHECKPOINTS, MEMORY_SHARE

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
Span: TypeAlias = np.ndarray
"""Low and high end, (2,)."""


def arithmetic(precision: str, spec: RunSpec | PretrainSpec) -> str:
    """What the speed of a GPU depends on, in words, such as `bf16 compiled fast`."""
    compiled = " compiled" if spec.compile else ""
    return f"{precision}{compiled}{'' if spec.deterministic else ' fast'}"


@dataclass(frozen=True)
class Forecast:
    """A profile, and the devices that it would run on."""

    profile: Profile
    counts: Counts
    gpus: int
    assumptions: Assumptions
    dataset: Dataset | None = None
    """None for all."""

    @cached_property
    def works(self) -> list[Work]:
        """All runs, pre-trainings first."""
        return work_of(self.profile, self.dataset)

    @property
    def datasets(self) -> list[Dataset]:
        """Those of the runs."""
        return [self.dataset] if self.dataset else list(self.profile.data.num_pairs)

    @property
    def pairs(self) -> int:
        """Pairs of all of its datasets."""
        return sum(self.profile.data.num_pairs[name] for name in self.datasets)

    def ranks(self, spec: RunSpec) -> int:
        """GPUs of a run: as many as divide its BatchNorm groups; a cleaning run has one group."""
        groups = spec.schedule.global_batch_size // spec.schedule.norm_batch_size
        return max(n for n in range(1, groups + 1) if groups % n == 0 and n <= self.gpus)

    def seconds(self, work: Work, device: Device) -> Span:
        """Device-seconds of a run from its first step to its last evaluation."""
        spec, schedule, counts = work.spec, work.spec.schedule, self.counts
        kind = kind_of(spec)
        flops = spec.num_views * counts.pair_view(kind)

        # A gradient cache takes the groups of a rank one after another, each forward twice.
        groups = schedule.global_batch_size // schedule.norm_batch_size // self.ranks(spec)
        if groups > 1 and groups * group_bytes_of(spec) > MEMORY_SHARE * device.memory_bytes:
            flops += spec.num_views * (counts.image_forward + counts.text_forward)

        # The low end of the time is the high end of the rate, and of what is given up.
        training, evaluating, given_up = (
            np.array(ends)[::-1]
            for ends in (
                device.flops(spec.precision, spec),
                device.flops(spec.evaluation_precision, spec),
                self.assumptions.given_up[spec.dataset],
            )
        )
        pixels = self.profile.data.image_size**2
        decoded = 3 * pixels * num_rows(self.profile, spec) <= self.assumptions.cache_bytes
        step = flops / training
        wait = np.array(self.assumptions.host_seconds(pixels, spec.num_views, decoded))
        pair = np.maximum(step, wait / device.loaders) if device.loaders else step + wait
        whole = work.pairs * pair * (1 + CHECKPOINT_SHARE) + counts.evaluations(work) / evaluating

        # The runs that are given up are spread over all of a dataset's.
        if rule := spec.stop_early:
            whole *= 1 - given_up * (1 - rule.epochs / schedule.epochs)
        return whole

    def hours(self, device: Device) -> dict[str, Span]:
        """Device-hours of each stage and in all, and hours of the clock."""
        start = np.array(self.assumptions.start_seconds[self.profile.data.source.kind])
        pretrainings, cleanings = map(self.works_of, STAGES)
        training, cleaning = (
            np.array([self.seconds(work, device) for work in works])
            for works in (pretrainings, cleanings)
        )

        # A process for each pre-training; cleaning runs on the same data share one a GPU.
        datasets = len({work.spec.dataset for work in cleanings})
        shared = min(len(cleanings), datasets * self.gpus)
        pretrain = training.sum(axis=0) + len(pretrainings) * start
        clean = cleaning.sum(axis=0) + shared * start

        # Pre-trainings follow one another on all devices; cleaning runs go side by side.
        ranks = np.array([[self.ranks(work.spec)] for work in pretrainings])
        one_by_one = (start + training / ranks).sum(axis=0)
        side_by_side = np.maximum(clean / self.gpus, cleaning.max(axis=0) + start)
        return {
            "total": pretrain / 3600 + clean / 3600,
            "wall": one_by_one / 3600 + side_by_side / 3600,
            "pretrain": pretrain / 3600,
            "clean": clean / 3600,
        }

    def disk(self) -> dict[str, int]:
        """Bytes by folder; DVC's cache is not in it (links where the file system can)."""
        data, assumptions, num_images = self.profile.data, self.assumptions, self.counts.num_images
        kind, pixels, pairs = data.source.kind, 3 * data.image_size**2, self.pairs
        poisons = sum(data.poison.num_poisoned[name] for name in self.datasets)
        images = num_images * assumptions.image_bytes[kind]
        files = pairs * assumptions.pair_bytes[kind] + images
        # Shards of a webdataset lie in `incoming`; other sources write their pairs into `data`.
        brought = kind == "webdataset"

        # Decoded: each set of pairs that fits, and the evaluation images, twice where triggers come
        # before resizing; those of partial evaluations have a file of their own.
        partial = (self.profile.clean.images_between or 0) * self.counts.classes
        cleaning = data.cleaning_sizes.values()
        sizes = [size for name in self.datasets for size in (data.num_pairs[name], *cleaning)]
        decoded = sum(size for size in sizes if size * pixels <= assumptions.cache_bytes)
        squashed = self.profile.switches.trigger_geometry == "squash"

        # Weights and optimizer state of one model; of a cleaned one, one a setting and seed, the
        # weights alone.
        state, models = self.counts.parameters * STATE_BYTES, len(self.works_of("pretrain"))
        cleaned = len({cleaned_file(w.spec) for w in self.works if w.spec.keeps_cleaned})
        evaluations = sum(work.evaluations for work in self.works)
        return {
            "incoming": files if brought else 0,
            "data": (images if brought else files) + pairs * INDEX_BYTES,
            "poisoned": poisons * pixels + pairs * INDEX_BYTES,
            "cache": pixels * (decoded + (num_images + partial) * (1 + squashed)),
            "models": models * state + cleaned * state // 3,
            "work": (models + KEEP_CHECKPOINTS * self.gpus) * state,
            "results": evaluations * (ROW_BYTES + num_images // 4),
        }

    def works_of(self, stage: str, cell: str = "") -> list[Work]:
        """The runs of a stage, of one model if named."""
        return [w for w in self.works if w.spec.stage == stage and cell in ("", w.spec.cell)]

    def totals(self, stage: str, cell: str = "") -> dict[str, Any]:
        """Sums over the runs of a stage, of one model if named; FLOPs without what a gradient cache
        computes twice and with what an early end leaves out.
        """
        works, counts = self.works_of(stage, cell), self.counts
        flops = sum(counts.training(work) + counts.evaluations(work) for work in works)
        return {
            "runs": len(works),
            "pairs": sum(work.pairs for work in works),
            "evaluations": sum(work.evaluations for work in works),
            "eflop": flops / 1e18,
        }

    def differences(self) -> list[dict[str, Any]]:
        """Where the profile departs from `paper` on the same data, and the hours of an H100 that
        each departure saves: those without it less those with it.
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

        result, device = [], self.assumptions.devices["h100"]
        for name, fields in settings.items():
            overrides = {key: old for key, (old, _) in fields.items()}
            other = load_profile(here.name, overrides=overrides)
            counts = counts_of(other, self.assumptions) if name == "text_parts" else self.counts
            without = replace(self, profile=other, counts=counts)
            saved = without.hours(device)["total"] - self.hours(device)["total"]

            # Of a mapping, the entries that differ.
            old, new = next(iter(fields.values()))
            if isinstance(old, dict) and isinstance(new, dict):
                changed = [key for key in new if old[key] != new[key]]
                old, new = ({key: of[key] for key in changed} for of in (old, new))
            result.append({"field": name, "paper": old, "here": new, "h100_hours": np.sort(saved)})
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
    assumptions, profile = load_assumptions(), graph_profile(profile_name)
    counts = counts_of(profile, assumptions)
    forecast = Forecast(profile, counts, gpus, assumptions, dataset)
    devices = assumptions.devices
    if utilisation is not None:
        devices = {name: fixed(device, utilisation) for name, device in devices.items()}

    # Electricity of the device-hours, data centre included.
    hours = {}
    for name, device in devices.items():
        hours[name] = of = forecast.hours(device)
        of["kwh"] = of["total"] * device.watts / 1000 * assumptions.power_usage_effectiveness
        of["kg_co2e"] = of["kwh"] * assumptions.kg_co2e_per_kwh
    stages = {stage: forecast.totals(stage) for stage in STAGES}
    models = dict.fromkeys((work.spec.stage, work.spec.cell) for work in forecast.works)
    disk = forecast.disk()
    precisions = {work.spec.precision for work in forecast.works}
    mirrored = forecast.pairs if disk["incoming"] else 0
    content = {
        "profile": profile.name,
        "gpus": gpus,
        # Nobody trains on processors what is to be computed in TF32 or bfloat16.
        "devices": ["a100", "h100", "core"] if precisions == {"fp32"} else ["a100", "h100"],
        **{f"{stage}_eflop": totals["eflop"] for stage, totals in stages.items()},
        "stages": stages,
        "models": [{"stage": s, "cell": cell, **forecast.totals(s, cell)} for s, cell in models],
        "gpu_hours": {name: hours[name]["total"] for name in ("a100", "h100")},
        "hours": hours,
        "measured": measured_hours(forecast),
        "differences": forecast.differences(),
        "disk_bytes": sum(disk.values()),
        "disk_bytes_by_folder": disk,
        "incoming_bytes_of_a_mirror": mirrored * assumptions.mirror_pair_bytes,
    }
    return dict(json.loads(json.dumps(content, default=np.ndarray.tolist)))


def write_counted() -> None:
    """Count the models of all profiles anew, and write what was counted for their plans."""
    counted().clear()
    for name in profile_names():
        plan(name)
        # On fewer GPUs a rank has several groups of BatchNorm.
        for spec in pretrain_runs(load_profile(name)):
            group_bytes_of(spec)
    replace_json(COUNTED, dict(sorted(counted().items())))


def fixed(device: Device, utilisation: float) -> Device:
    """The device with one share of its peak in every arithmetic."""
    shares = dict.fromkeys(device.utilisation, (utilisation, utilisation))
    return device.model_copy(update={"utilisation": shares, "deterministic": 1.0, "compiled": 1.0})


def measured_hours(forecast: Forecast) -> dict[str, Any] | None:
    """Hours at the rates that gpu-check measured; None if it has not, or not in this arithmetic."""
    if not MEASURED.exists():
        return None
    content = json.loads(MEASURED.read_bytes())
    rates = {
        precision: content["flops"].get(arithmetic(precision, work.spec))
        for work in forecast.works
        for precision in (work.spec.precision, work.spec.evaluation_precision)
    }
    if None in rates.values():
        return None
    peaks = {precision: rate / 1e12 for precision, rate in rates.items()}
    gpu = fixed(forecast.assumptions.devices["a100"], 1.0).model_copy(
        update={"peak_tflops": peaks, "memory_bytes": content["memory_bytes"]}
    )
    return {"device": content["device"], **forecast.hours(gpu)}


def cost_command(profile_name: str, as_json: bool, table: Path | None, *options: Any) -> None:
    """Print the forecast, for people or as JSON, also into the profile's block of a Markdown file;
    `options` are those of `plan`.
    """
    content = plan(profile_name, *options)
    print(json.dumps(content, indent=1) if as_json else cost_table(content))
    if table is not None:
        fill(table, f"plan-{profile_name}", cost_table(content))


def cost_table(content: dict[str, Any]) -> str:
    """The forecast as Markdown: work, hours by device, departures from the paper, disk."""
    text = Path(__file__).with_name("forecast.md.j2").read_text(encoding="utf-8")
    template = Template(text, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return str(template.render(content, span=span))


def span(pair: Sequence[float]) -> str:
    """A range in three digits; one number where both ends are the same, nothing of no number."""
    ends = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in pair]
    return " to ".join(dict.fromkeys(ends))
