"""`python -m repro plan --profile P`: what a profile costs, before anything runs.

Runs, pairs and evaluations follow from the specifications, FLOPs are counted on the model
(repro/plan/flops.py). Device-seconds of a run are

    pairs x max(FLOP of a pair / rate, core-seconds of a pair / loaders) x (1 + checkpoints)
    + FLOP of evaluations / their rate

less what an early end is assumed to leave out; each process starts, and compiles, besides. Each
tower has a rate of its own, a share of the device's peak (specs/plan.yaml): a range, because
nothing was measured. The low end has all assumptions at their best, the middle has each at the
middle of its range. Where `make gpu-check` has measured a GPU, its rates give hours of their own.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import StrictUndefined, Template

from repro.files import replace_json
from repro.markdown import fill
from repro.plan.assumptions import Assumptions, Device, Span, load_assumptions, span_of
from repro.plan.counted import COUNTED, counted, counts_of, group_bytes_of
from repro.plan.work import Counts, Work, kind_of, num_rows, work_of
from repro.profile import graph_profile, load_profile, profile_names
from repro.runs.layout import cleaned_file
from repro.spec import Dataset, PretrainSpec, Profile, RunSpec
from repro.train.shares import CHECKPOINT_SHARE, KEEP_CHECKPOINTS, MEMORY_SHARE

AUTHORS_GPUS = 8
"""GPUs for the wall time where none are named (code: attack-cleanclip README.md)."""
MEASURED = Path("work/gpu-check.json")
"""What `make gpu-check` writes: `{"device": name, "memory_bytes": of it, "flops": {arithmetic:
{"image": FLOP/s, "text": ..., "evaluation": ...}}}`.
"""
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


def pair_seconds(counts: Counts, spec: RunSpec, device: Device, cached: bool = False) -> Span:
    """Device-seconds of a training step for each of its pairs; `cached`: by the gradient cache,
    which makes the forward pass twice.
    """
    image_rate, text_rate, _ = (rate[::-1] for rate in device.rates(spec))
    image, text = counts.image_step, counts.text_step[spec.dataset] + counts.loss[kind_of(spec)]
    if cached:
        image, text = image + counts.image_forward, text + counts.text_forward[spec.dataset]
    return spec.num_views * (image / image_rate + text / text_rate)


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

    def ranks(self, spec: RunSpec) -> int:
        """GPUs of a run: as many as divide its BatchNorm groups; a cleaning run has one group."""
        groups = spec.schedule.global_batch_size // spec.schedule.norm_batch_size
        return max(n for n in range(1, groups + 1) if groups % n == 0 and n <= self.gpus)

    def seconds(self, work: Work, device: Device) -> tuple[Span, Span]:
        """Device-seconds of a run from its first step to its last evaluation: of training and of
        the evaluations.
        """
        spec, schedule, counts = work.spec, work.spec.schedule, self.counts

        # A gradient cache takes the groups of a rank one after another, each forward twice.
        groups = schedule.global_batch_size // schedule.norm_batch_size // self.ranks(spec)
        cached = groups > 1 and groups * group_bytes_of(spec) > MEMORY_SHARE * device.memory_bytes

        # The low end of the time is the high end of the rates, and of what is given up.
        pixels = self.profile.data.image_size**2
        decoded = self.assumptions.decoded_once(num_rows(self.profile, spec), pixels)
        step = pair_seconds(counts, spec, device, cached)
        wait = span_of(self.assumptions.host_seconds(pixels, spec.num_views, decoded))
        pair = np.maximum(step, wait / device.loaders) if device.loaders else step + wait
        training = work.pairs * pair * (1 + CHECKPOINT_SHARE)
        evaluations = counts.evaluations(work) / device.rates(spec).evaluation[::-1]

        # The runs that are given up are spread over all of a dataset's.
        kept = np.ones(3)
        if rule := spec.stop_early:
            given_up = span_of(self.assumptions.given_up[spec.dataset])[::-1]
            kept -= given_up * (1 - rule.epochs / schedule.epochs)
        return training * kept, evaluations * kept

    def hours(self, device: Device) -> dict[str, Span]:
        """Device-hours of each part and in all, and hours of the clock."""
        pretrainings, cleanings = map(self.works_of, STAGES)
        training, cleaning = (
            np.array([self.seconds(work, device) for work in works])  # (runs, 2, 3)
            for works in (pretrainings, cleanings)
        )

        # A process for each pre-training; cleaning runs on the same data share one a GPU. All ranks
        # of a process wait for what it compiles: a graph for each number of views.
        assumptions, clean = self.assumptions, self.profile.clean
        starting = span_of(assumptions.start_seconds[self.profile.data.source.kind])
        compiling = span_of(assumptions.compile_seconds)
        ranks = np.array([[self.ranks(work.spec)] for work in pretrainings])
        datasets = len({work.spec.dataset for work in cleanings})
        shared = min(len(cleanings), datasets * self.gpus)
        views = len({work.spec.num_views for work in cleanings})
        pretrain_start = starting + compiling * self.profile.pretrain.compile
        clean_start = starting + compiling * clean.compile * views
        starts = (ranks * pretrain_start).sum(axis=0) + shared * clean_start

        # Pre-trainings follow one another on all devices; cleaning runs go side by side.
        one_by_one = (pretrain_start + training.sum(axis=1) / ranks).sum(axis=0)
        longest = cleaning.sum(axis=1).max(axis=0) + clean_start
        busy = cleaning.sum(axis=(0, 1)) + shared * clean_start
        side_by_side = np.maximum(busy / self.gpus, longest)
        parts = {
            "pretrain": training[:, 0].sum(axis=0),
            "clean": cleaning[:, 0].sum(axis=0),
            "evaluate": training[:, 1].sum(axis=0) + cleaning[:, 1].sum(axis=0),
            "start": starts,
        }
        seconds = parts | {"total": sum(parts.values()), "wall": one_by_one + side_by_side}
        return {name: value / 3600 for name, value in seconds.items()}

    def disk(self) -> dict[str, int]:
        """Bytes by folder; DVC's cache is not in it (links where the file system can)."""
        data, assumptions, num_images = self.profile.data, self.assumptions, self.counts.num_images
        kind, pixels = data.source.kind, 3 * data.image_size**2
        pairs = sum(data.num_pairs[name] for name in self.datasets)
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
        once = assumptions.decoded_once
        decoded = sum(size for size in sizes if once(size, data.image_size**2))
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

    def works_of(self, stage: str, model_name: str = "") -> list[Work]:
        """The runs of a stage, of one model if named."""
        return [
            w for w in self.works if w.spec.stage == stage and model_name in ("", w.spec.model_name)
        ]

    def totals(self, stage: str, model_name: str = "") -> dict[str, Any]:
        """Sums over the runs of a stage, of one model if named; FLOPs without what a gradient cache
        computes twice and with what an early end leaves out.
        """
        works, counts = self.works_of(stage, model_name), self.counts
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
    models = dict.fromkeys((work.spec.stage, work.spec.model_name) for work in forecast.works)
    disk = forecast.disk()

    # A group of BatchNorm is the least that a GPU takes. Nobody trains on processors what is to be
    # computed in TF32 or bfloat16.
    largest = max(group_bytes_of(work.spec) for work in forecast.works_of("pretrain"))
    gpu_names = [
        name for name, of in devices.items() if name != "core" and largest <= of.memory_bytes
    ]
    precisions = {work.spec.precision for work in forecast.works}
    pair_bytes, num_pairs = assumptions.mirror_pair_bytes, profile.data.num_pairs
    mirrored = sum(pair_bytes[name] * num_pairs[name] for name in forecast.datasets)
    content = {
        "profile": profile.name,
        "gpus": gpus,
        "devices": [*gpu_names, "core"] if precisions == {"fp32"} else gpu_names,
        **{f"{stage}_eflop": totals["eflop"] for stage, totals in stages.items()},
        "stages": stages,
        "models": [{"stage": s, "model_name": of, **forecast.totals(s, of)} for s, of in models],
        "gpu_hours": {name: hours[name]["total"] for name in ("a100", "h100")},
        "hours": hours,
        "measured": measured_hours(forecast),
        "differences": forecast.differences(),
        "disk_bytes": sum(disk.values()),
        "disk_bytes_by_folder": disk,
        "incoming_bytes_of_a_mirror": mirrored if disk["incoming"] else 0,
    }
    return dict(json.loads(json.dumps(content, default=np.ndarray.tolist)))


def write_counted() -> None:
    """Count the models of all profiles anew, and write what was counted for their plans."""
    counted().clear()
    for name in profile_names():
        plan(name)
    replace_json(COUNTED, dict(sorted(counted().items())))


def fixed(device: Device, utilisation: float) -> Device:
    """The device with one share of its peak in every arithmetic."""
    shares = dict.fromkeys(device.image, (utilisation, utilisation))
    same = dict.fromkeys(device.evaluation, (1.0, 1.0))
    factors = {"text_in_parts": 1.0, "deterministic": 1.0, "compiled": (1.0, 1.0)}
    changes = {"image": shares, "text": shares, "evaluation": same, **factors}
    return device.model_copy(update=changes)


def measured_hours(forecast: Forecast) -> dict[str, Any] | None:
    """Hours at the rates that gpu-check measured; None if it has not, or not in this arithmetic."""
    if not MEASURED.exists():
        return None
    content, spec = json.loads(MEASURED.read_bytes()), forecast.works[0].spec
    of = content["flops"].get(arithmetic(spec.precision, spec))
    if of is None or spec.evaluation_precision != spec.precision:
        return None

    # A device with a peak of 1 TFLOP/s, of which the towers and evaluations have these multiples.
    image, text, evaluation = (of[name] / 1e12 for name in ("image", "text", "evaluation"))
    changes = {
        "peak_tflops": {spec.precision: 1.0},
        "memory_bytes": content["memory_bytes"],
        "image": {spec.precision: (image, image)},
        "text": {spec.precision: (text, text)},
        "evaluation": dict.fromkeys(("plain", "folded"), (evaluation / image, evaluation / image)),
    }
    gpu = fixed(forecast.assumptions.devices["a100"], 1.0).model_copy(update=changes)
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


def span(values: Sequence[float]) -> str:
    """Low, middle and high in three digits; one number where all are the same."""
    texts = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
    return ", ".join(dict.fromkeys(texts))
