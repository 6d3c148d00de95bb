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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jinja2 import StrictUndefined, Template

from repro.files import replace_json
from repro.plan.assumptions import Assumptions, Device, DeviceName, Span, load_assumptions, span_of
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
"""Of an evaluation in the ledger."""
STAGES = ("pretrain", "clean")


def arithmetic(precision: str, spec: RunSpec | PretrainSpec) -> str:
    """What the speed of a GPU depends on, in words, such as `bf16 compiled fast`."""
    words: list[str] = [precision]
    if spec.compile:
        words.append("compiled")
    if not spec.deterministic:
        words.append("fast")
    return " ".join(words)


def _norm_groups(spec: RunSpec) -> int:
    """BatchNorm groups of a batch."""
    return spec.schedule.global_batch_size // spec.schedule.norm_batch_size


def pair_seconds(counts: Counts, spec: RunSpec, device: Device, cached: bool = False) -> Span:
    """Device-seconds of a training step for each of its pairs; `cached`: by the gradient cache,
    which makes the forward pass twice.
    """
    image = counts.image_step
    text = counts.text_step[spec.dataset] + counts.loss[kind_of(spec)]
    if cached:
        image += counts.image_forward
        text += counts.text_forward[spec.dataset]

    # The low end of the time is the high end of the rates.
    rates = device.rates(spec)
    view = image / rates.image[::-1] + text / rates.text[::-1]
    return spec.num_views * view


class StageSeconds(NamedTuple):
    """What all runs of a stage take."""

    training: Span
    """Device-seconds, like the next two."""
    evaluations: Span
    starts: Span
    wall: Span
    """Seconds of the clock."""


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
        if self.dataset:
            return [self.dataset]
        return list(self.profile.data.num_pairs)

    def ranks(self, spec: RunSpec) -> int:
        """GPUs of a run: as many as divide its BatchNorm groups; a cleaning run has one group."""
        groups = _norm_groups(spec)
        most = min(groups, self.gpus)
        return max(n for n in range(1, most + 1) if groups % n == 0)

    def _is_cached(self, spec: RunSpec, device: Device) -> bool:
        """Whether the BatchNorm groups of a rank do not fit the device together, so that a gradient
        cache takes them one after another.
        """
        groups = _norm_groups(spec) // self.ranks(spec)
        return groups > 1 and groups * group_bytes_of(spec) > MEMORY_SHARE * device.memory_bytes

    def _kept(self, spec: RunSpec) -> Span:
        """Share of a run that an early end leaves. The runs that are given up are spread over all
        of a dataset's.
        """
        rule = spec.stop_early
        if rule is None:
            return np.ones(3)
        # The low end of the time is the high end of what is given up.
        given_up = span_of(self.assumptions.given_up[spec.dataset])[::-1]
        left_out = 1 - rule.epochs / spec.schedule.epochs
        return 1 - given_up * left_out

    def seconds(self, work: Work, device: Device) -> tuple[Span, Span]:
        """Device-seconds of a run from its first step to its last evaluation: of training and of
        the evaluations.
        """
        spec = work.spec
        step = pair_seconds(self.counts, spec, device, self._is_cached(spec, device))

        # Loaders make pairs ready meanwhile; without them the device does it itself.
        pixels = self.profile.data.image_size**2
        decoded = self.assumptions.decoded_once(num_rows(self.profile, spec), pixels)
        wait = span_of(self.assumptions.host_seconds(pixels, spec.num_views, decoded))
        if device.loaders:
            pair = np.maximum(step, wait / device.loaders)
        else:
            pair = step + wait

        training = work.pairs * pair * (1 + CHECKPOINT_SHARE)
        evaluation_rate = device.rates(spec).evaluation[::-1]
        evaluations = self.counts.evaluations(work) / evaluation_rate
        kept = self._kept(spec)
        return training * kept, evaluations * kept

    def _start_seconds(self, graphs: int) -> Span:
        """From the start of a process to its first step; it compiles so many graphs, one for each
        number of views.
        """
        kind = self.profile.data.source.kind
        start = span_of(self.assumptions.start_seconds[kind])
        if graphs:
            start += graphs * span_of(self.assumptions.compile_seconds)
        return start

    def _pretraining(self, device: Device) -> StageSeconds:
        """Pre-trainings follow one another on all devices, each in a process of its own."""
        start = self._start_seconds(1 if self.profile.pretrain.compile else 0)
        total = np.zeros((4, 3))
        for work in self.works_of("pretrain"):
            training, evaluations = self.seconds(work, device)
            # All ranks of a process wait for what it compiles.
            ranks = self.ranks(work.spec)
            wall = start + (training + evaluations) / ranks
            total += training, evaluations, ranks * start, wall
        return StageSeconds(*total)

    def _cleaning(self, device: Device) -> StageSeconds:
        """Cleaning runs go side by side; those on the same data share a process on each GPU."""
        works = self.works_of("clean")
        seconds = np.array([self.seconds(work, device) for work in works])  # (runs, 2, 3)
        training, evaluations = seconds.sum(axis=0)

        views = {work.spec.num_views for work in works}
        start = self._start_seconds(len(views) if self.profile.clean.compile else 0)
        datasets = {work.spec.dataset for work in works}
        processes = min(len(works), len(datasets) * self.gpus)
        starts = processes * start

        busy = seconds.sum(axis=(0, 1)) + starts
        longest = seconds.sum(axis=1).max(axis=0) + start
        wall = np.maximum(busy / self.gpus, longest)
        return StageSeconds(training, evaluations, starts, wall)

    def hours(self, device: Device) -> dict[str, Span]:
        """Device-hours of each part and in all, and hours of the clock."""
        pretraining = self._pretraining(device)
        cleaning = self._cleaning(device)
        seconds = {
            "pretrain": pretraining.training,
            "clean": cleaning.training,
            "evaluate": pretraining.evaluations + cleaning.evaluations,
            "start": pretraining.starts + cleaning.starts,
        }
        seconds["total"] = np.sum(list(seconds.values()), axis=0)
        seconds["wall"] = pretraining.wall + cleaning.wall
        return {name: value / 3600 for name, value in seconds.items()}

    def _decoded_images(self) -> int:
        """Images in memory maps: each set of pairs that fits, and the evaluation images, twice
        where triggers come before resizing; those of partial evaluations have a file of their own.
        """
        data = self.profile.data
        sizes: list[int] = []
        for name in self.datasets:
            sizes += [data.num_pairs[name], *data.cleaning_sizes.values()]
        pixels = data.image_size**2
        images = 0
        for size in sizes:
            if self.assumptions.decoded_once(size, pixels):
                images += size

        partial = (self.profile.clean.images_between or 0) * self.counts.classes
        evaluated = self.counts.num_images + partial
        if self.profile.switches.trigger_geometry == "squash":
            evaluated *= 2
        return images + evaluated

    def disk(self) -> dict[str, int]:
        """Bytes by folder; DVC's cache is not in it (links where the file system can)."""
        data = self.profile.data
        kind = data.source.kind
        pairs = sum(data.num_pairs[name] for name in self.datasets)
        poisons = sum(data.poison.num_poisoned[name] for name in self.datasets)
        index_bytes = pairs * INDEX_BYTES
        decoded_bytes = 3 * data.image_size**2  # of an image

        # Shards of a webdataset lie in `incoming`; other sources write their pairs into `data`.
        images = self.counts.num_images * self.assumptions.image_bytes[kind]
        files = pairs * self.assumptions.pair_bytes[kind] + images
        brought = kind == "webdataset"

        # Weights and optimizer state of one model; of a cleaned one, one a setting and seed, the
        # weights alone.
        state = self.counts.parameters * STATE_BYTES
        models = len(self.works_of("pretrain"))
        cleaned = {cleaned_file(work.spec) for work in self.works if work.spec.keeps_cleaned}
        evaluations = sum(work.evaluations for work in self.works)
        return {
            "incoming": files if brought else 0,
            "data": index_bytes + (images if brought else files),
            "poisoned": index_bytes + poisons * decoded_bytes,
            "cache": self._decoded_images() * decoded_bytes,
            "models": models * state + len(cleaned) * state // 3,
            "work": (models + KEEP_CHECKPOINTS * self.gpus) * state,
            "results": evaluations * ROW_BYTES,
        }

    def works_of(self, stage: str) -> list[Work]:
        """The runs of a stage."""
        return [work for work in self.works if work.spec.stage == stage]

    def totals(self, works: Sequence[Work]) -> dict[str, Any]:
        """Sums over runs; FLOPs without what a gradient cache computes twice and with what an early
        end leaves out.
        """
        counts = self.counts
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
        paper = load_profile("paper")
        if self.profile.data != paper.data:
            return []

        result = []
        device = self.assumptions.devices["h100"]
        hours = self.hours(device)["total"]
        for name, fields in _departures(self.profile, paper).items():
            other = self.profile
            for stage in STAGES:
                if f"{stage}.{name}" in fields:
                    changed = {name: getattr(getattr(paper, stage), name)}
                    part = getattr(other, stage).model_copy(update=changed)
                    other = other.model_copy(update={stage: part})
            counts = counts_of(other, self.assumptions)
            without = replace(self, profile=other, counts=counts)
            saved = without.hours(device)["total"] - hours

            theirs, ours = next(iter(fields.values()))
            # Of a mapping, the entries that differ.
            if isinstance(theirs, dict) and isinstance(ours, dict):
                differing = [key for key in ours if theirs.get(key) != ours[key]]
                theirs = {key: theirs.get(key) for key in differing}
                ours = {key: ours[key] for key in differing}
            row = {"field": name, "paper": theirs, "here": ours, "h100_hours": np.sort(saved)}
            result.append(row)
        return result


Departures: TypeAlias = dict[str, dict[str, tuple[Any, Any]]]
"""Name of a field to `stage.name`, with the value of `paper` and the one here."""


def _departures(here: Profile, paper: Profile) -> Departures:
    """The fields in which stages differ. A field that both stages have is one departure."""
    result: Departures = defaultdict(dict)
    for stage in STAGES:
        theirs = getattr(paper, stage).model_dump()
        ours = getattr(here, stage).model_dump()
        for name in ours:
            if ours[name] != theirs[name]:
                result[name][f"{stage}.{name}"] = theirs[name], ours[name]
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
    assumptions = load_assumptions()
    profile = graph_profile(profile_name)
    counts = counts_of(profile, assumptions)
    forecast = Forecast(profile, counts, gpus, assumptions, dataset)
    devices = assumptions.devices
    if utilisation is not None:
        devices = {name: fixed(device, utilisation) for name, device in devices.items()}

    hours = {name: _with_electricity(forecast, device) for name, device in devices.items()}
    stages = {stage: forecast.totals(forecast.works_of(stage)) for stage in STAGES}
    works_by_model = defaultdict(list)
    for work in forecast.works:
        works_by_model[work.spec.stage, work.spec.model_name].append(work)
    models = [
        {"stage": stage, "model_name": name, **forecast.totals(works)}
        for (stage, name), works in works_by_model.items()
    ]

    disk = forecast.disk()
    mirrored = 0
    if disk["incoming"]:
        for name in forecast.datasets:
            mirrored += assumptions.mirror_pair_bytes[name] * profile.data.num_pairs[name]
    content = {
        "profile": profile.name,
        "gpus": gpus,
        "devices": _fitting(forecast, devices),
        "pretrain_eflop": stages["pretrain"]["eflop"],
        "clean_eflop": stages["clean"]["eflop"],
        "stages": stages,
        "models": models,
        "gpu_hours": {name: hours[name]["total"] for name in ("a100", "h100")},
        "hours": hours,
        "measured": measured_hours(forecast),
        "differences": forecast.differences(),
        "disk_bytes": sum(disk.values()),
        "disk_bytes_by_folder": disk,
        "incoming_bytes_of_a_mirror": mirrored,
    }
    return dict(json.loads(json.dumps(content, default=np.ndarray.tolist)))


def _with_electricity(forecast: Forecast, device: Device) -> dict[str, Span]:
    """Hours on a device, and the electricity of its device-hours, data centre included."""
    assumptions = forecast.assumptions
    result = forecast.hours(device)
    kwh = result["total"] * device.watts / 1000 * assumptions.power_usage_effectiveness
    return result | {"kwh": kwh, "kg_co2e": kwh * assumptions.kg_co2e_per_kwh}


def _fitting(forecast: Forecast, devices: Mapping[DeviceName, Device]) -> list[DeviceName]:
    """The devices that the runs fit, in the order of the file."""
    # A group of BatchNorm is the least that a GPU takes.
    pretrainings = forecast.works_of("pretrain")
    largest = max(group_bytes_of(work.spec) for work in pretrainings)
    result: list[DeviceName] = []
    for name, device in devices.items():
        if name != "core" and largest <= device.memory_bytes:
            result.append(name)

    # Nobody trains on processors what is to be computed in TF32 or bfloat16.
    if all(work.spec.precision == "fp32" for work in forecast.works):
        result.append("core")
    return result


def write_counted() -> None:
    """Count the models of all profiles anew, and write what was counted for their plans."""
    counted().clear()
    for name in profile_names():
        plan(name)
    replace_json(COUNTED, dict(sorted(counted().items())))


def fixed(device: Device, utilisation: float) -> Device:
    """The device with one share of its peak in every arithmetic."""
    share = (utilisation, utilisation)
    same = (1.0, 1.0)
    changes = {
        "image": dict.fromkeys(device.image, share),
        "text": dict.fromkeys(device.text, share),
        "text_in_parts": 1.0,
        "deterministic": 1.0,
        "compiled": same,
        "evaluation": dict.fromkeys(device.evaluation, same),
    }
    return device.model_copy(update=changes)


def measured_hours(forecast: Forecast) -> dict[str, Any] | None:
    """Hours at the rates that gpu-check measured; None if it has not, or not in this arithmetic."""
    if not MEASURED.exists():
        return None
    content = json.loads(MEASURED.read_bytes())
    spec = forecast.works[0].spec
    [kind, *others] = {arithmetic(work.spec.precision, work.spec) for work in forecast.works}
    of = content["flops"].get(kind)
    if of is None or others or spec.evaluation_precision != spec.precision:
        return None

    # A device with a peak of 1 TFLOP/s, of which the towers and evaluations have these multiples.
    image = of["image"] / 1e12
    text = of["text"] / 1e12
    folded = of["evaluation"] / 1e12 / image
    changes = {
        "peak_tflops": {spec.precision: 1.0},
        "memory_bytes": content["memory_bytes"],
        "image": {spec.precision: (image, image)},
        "text": {spec.precision: (text, text)},
        "evaluation": dict.fromkeys(("plain", "folded"), (folded, folded)),
    }
    gpu = fixed(forecast.assumptions.devices["a100"], 1.0)
    hours = forecast.hours(gpu.model_copy(update=changes))
    return {"device": content["device"], **hours}


def cost_command(profile_name: str, as_json: bool, *options: Any) -> None:
    """Print the forecast, for people or as JSON; `options` are those of `plan`."""
    content = plan(profile_name, *options)
    print(json.dumps(content, indent=1) if as_json else cost_table(content))


def cost_table(content: dict[str, Any]) -> str:
    """The forecast as Markdown: work, hours by device, departures from the paper, disk."""
    text = Path(__file__).with_name("forecast.md.j2").read_text(encoding="utf-8")
    template = Template(text, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return str(template.render(content, span=span))


def span(values: Sequence[float]) -> str:
    """Low, middle and high in three digits; one number where all are the same."""
    texts = [format(value, ",.0f" if value >= 100 else ".3g") for value in values]
    return ", ".join(dict.fromkeys(texts))
