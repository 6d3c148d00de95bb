"""`python -m repro plan --profile P`: what a profile costs, before anything runs.

Device-seconds of a run are

    FLOP of its training / rate x (1 + checkpoints) + FLOP of its evaluations / rate,

each tower at a rate of its own. Rates are a range (specs/plan.yaml), because no GPU was measured:
the low end has all assumptions at their best, the middle has each at the middle of its range. Where
`make gpu-check` has measured a GPU, its rates give a row of their own.

Pre-trainings take all GPUs, one after another. Cleaning runs take one GPU each, from one queue; the
wall clock is that of a simulation of it (repro/plan/queue.py). On processor cores every run takes
one core, and a cleaning run begins as soon as its start model is there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from repro.data.memory import cores
from repro.markdown import table_lines
from repro.plan.assumptions import (
    Assumptions,
    Device,
    Rates,
    Span,
    gpus,
    load_assumptions,
    span_of,
)
from repro.plan.queue import Task, clock, longest_first
from repro.plan.work import (
    BACKWARD,
    Work,
    image_tower,
    num_evaluation_images,
    num_weights,
    text_tower,
    work_of,
)
from repro.profile import graph_profile, load_classnames, runs_of
from repro.runs.layout import cleaned_file
from repro.spec import Dataset, Profile, RunSpec
from repro.train.shares import CHECKPOINT_SHARE, KEEP_CHECKPOINTS, MEMORY_SHARE

AUTHORS_GPUS = 8
"""GPUs for the wall clock where none are named (code: attack-cleanclip README.md)."""
OPENAI_TEMPLATES = 80
STATE_BYTES = 12
"""Of a parameter on disk: weight and AdamW's two moments, float32."""
INDEX_BYTES = 250
"""Of a row in a store's index, caption included."""


@dataclass(frozen=True)
class Forecast:
    """A profile, and how many GPUs it would run on."""

    profile: Profile
    gpus: int = AUTHORS_GPUS
    dataset: Dataset | None = None
    """None for all."""
    assumptions: Assumptions = field(default_factory=load_assumptions)

    @cached_property
    def works(self) -> list[Work]:
        """All runs, in the order in which devices take them."""
        return work_of(self.profile, longest_first(runs_of(self.profile, self.dataset)))

    def works_of(self, stage: str) -> list[Work]:
        """The runs of a stage."""
        return [work for work in self.works if work.spec.stage == stage]

    @cached_property
    def num_images(self) -> int:
        """Images of a whole evaluation."""
        return num_evaluation_images(self.profile)

    @cached_property
    def num_classes(self) -> int:
        """Classes of the zero-shot task."""
        return len(load_classnames(self.profile))

    def group_bytes(self, spec: RunSpec) -> float:
        """Bytes that backward keeps of a BatchNorm group, with captions of full length."""
        pairs = spec.num_views * spec.schedule.norm_batch_size
        text = text_tower(spec.model, spec.model.text.context_length)
        kept = self.assumptions.kept_bytes * (image_tower(spec.model).flop + text.flop)
        return pairs * (kept / 2 if spec.precision == "bf16" else kept)

    def caption_tokens(self, spec: RunSpec) -> int:
        """Tokens that a training step computes for a mean caption."""
        of = self.assumptions
        tokens = of.caption_tokens if spec.text_parts == 1 else of.caption_tokens_in_parts
        return tokens[self.profile.data.source.kind][spec.dataset]

    def evaluation_flop(self, work: Work) -> int:
        """FLOPs of all evaluations: every image without and with trigger, and the prompts."""
        model = work.spec.model
        partial = (work.spec.images_between or 0) * self.num_classes
        images = work.whole * self.num_images + work.partial * partial

        templates = self.profile.evaluate.templates
        count = OPENAI_TEMPLATES if templates == "openai" else len(templates)
        tokens = self.assumptions.prompt_tokens[self.profile.data.source.kind]
        prompts = (work.whole + work.partial) * count * self.num_classes
        of_images = 2 * images * image_tower(model).flop
        return of_images + prompts * text_tower(model, tokens).flop

    def ranks(self, spec: RunSpec) -> int:
        """GPUs of a run: as many as divide its BatchNorm groups; a cleaning run has one group."""
        groups = norm_groups(spec)
        most = min(groups, self.gpus)
        return max(n for n in range(1, most + 1) if groups % n == 0)

    def seconds(self, work: Work, device: Device) -> tuple[Span, Span]:
        """Device-seconds of a whole run, of training and of its evaluations."""
        spec = work.spec
        rates = self.assumptions.rates(device, spec)
        groups = norm_groups(spec) // self.ranks(spec)
        too_much = groups * self.group_bytes(spec) > MEMORY_SHARE * device.memory_bytes
        cached = groups > 1 and too_much
        pair = pair_seconds(spec, rates, self.caption_tokens(spec), cached)

        training = work.pairs * pair * (1 + CHECKPOINT_SHARE)
        if device.update_seconds:
            steps = work.pairs / spec.schedule.global_batch_size
            training += steps * num_weights(spec.model) * device.update_seconds
        # The low end of the time is the high end of the rates.
        return training, self.evaluation_flop(work) / rates.evaluation[::-1]

    def kept(self, works: Sequence[Work]) -> np.ndarray:
        """Share of each run that an early end leaves, (runs, 3).

        Of a dataset's cleaning runs those of the lowest learning rates are given up: they clean
        nothing.
        """
        kept = np.ones((len(works), 3))
        for name, ends in self.assumptions.given_up.items():
            stoppable = [
                place
                for place, work in enumerate(works)
                if work.spec.dataset == name and work.spec.stop_early
            ]
            stoppable.sort(key=lambda place: works[place].spec.schedule.learning_rate)
            # The low end of the time is the high end of what is given up.
            for end, share in enumerate(span_of(ends)[::-1]):
                for place in stoppable[: round(share * len(stoppable))]:
                    spec = works[place].spec
                    assert spec.stop_early is not None
                    kept[place, end] = spec.stop_early.epochs / spec.schedule.epochs
        return kept

    def start_seconds(self, works: Sequence[Work]) -> Span:
        """From the start of a process to its first step; it compiles a graph for each number of
        views.
        """
        start = span_of(self.assumptions.start_seconds[self.profile.data.source.kind])
        views = {work.spec.num_views for work in works if work.spec.compile}
        start += len(views) * span_of(self.assumptions.compile_seconds)
        return start

    def hours(self, device: Device) -> dict[str, Span]:
        """Hours of GPUs for each part and in all, and of the wall clock on `gpus` of them."""
        training, evaluations, starts, wall = np.zeros((4, 3))
        for work in self.works_of("pretrain"):
            start = self.start_seconds([work])
            ranks = self.ranks(work.spec)
            trained, evaluated = self.seconds(work, device)
            training += trained
            evaluations += evaluated
            # All ranks of a process wait for what it compiles.
            starts += ranks * start
            wall += start + (trained + evaluated) / ranks

        works = self.works_of("clean")
        seconds = np.array([self.seconds(work, device) for work in works])  # (runs, 2, 3)
        seconds *= self.kept(works)[:, None]
        cleaning, cleaned_evaluations = seconds.sum(axis=0)
        start = self.start_seconds(works)
        starts += min(len(works), self.gpus) * start
        wall += start
        for end, of_runs in enumerate(seconds.sum(axis=1).T):
            wall[end] += clock([Task(of_run) for of_run in of_runs], self.gpus)

        parts = {
            "pretrain": training,
            "clean": cleaning,
            "evaluate": evaluations + cleaned_evaluations,
            "start": starts,
        }
        parts["total"] = np.sum(list(parts.values()), axis=0)
        parts["wall"] = wall
        return {name: value / 3600 for name, value in parts.items()}

    def hours_on_cores(self, count: int) -> Span:
        """Hours of the clock on so many processor cores, each of which takes a run at a time."""
        core = self.assumptions.devices["core"]
        kept = self.kept(self.works)
        parts = np.array([self.seconds(work, core) for work in self.works])  # (runs, 2, 3)
        seconds = parts.sum(axis=1) * kept
        hours = self.start_seconds(self.works) / 3600
        for end, of_runs in enumerate(seconds.T):
            tasks = []
            for work, of_run in zip(self.works, of_runs, strict=True):
                model = work.spec.model_name, work.spec.seed
                trains = work.spec.stage == "pretrain"
                tasks.append(Task(of_run, model, None) if trains else Task(of_run, None, model))
            hours[end] += clock(tasks, count) / 3600
        return hours

    def disk(self) -> dict[str, int]:
        """Bytes by folder; DVC's cache is not in it (links where the file system can)."""
        data = self.profile.data
        kind = data.source.kind
        datasets = [self.dataset] if self.dataset else list(data.num_pairs)
        pairs = sum(data.num_pairs[name] for name in datasets)
        poisons = sum(data.poison.num_poisoned[name] for name in datasets)
        index_bytes = pairs * INDEX_BYTES
        decoded_bytes = 3 * data.image_size**2  # of an image

        # Shards of a webdataset lie in `incoming`; other sources write their pairs into `data`.
        images = self.num_images * self.assumptions.image_bytes[kind]
        files = pairs * self.assumptions.pair_bytes[kind] + images
        brought = kind == "webdataset"

        # In memory maps: each set of pairs that fits, and the evaluation images, twice where
        # triggers come before resizing; those of partial evaluations have a file of their own.
        decoded = self.num_images + (self.profile.clean.images_between or 0) * self.num_classes
        if self.profile.switches.trigger_geometry == "squash":
            decoded *= 2
        for name in datasets:
            for size in (data.num_pairs[name], *data.cleaning_sizes.values()):
                if self.assumptions.decoded_once(size, data.image_size**2):
                    decoded += size

        # Weights and optimizer state of one model; of a cleaned one, one a setting and seed, the
        # weights alone.
        state = num_weights(self.profile.pretrain.model) * STATE_BYTES
        models = len(self.works_of("pretrain"))
        cleaned = {cleaned_file(work.spec) for work in self.works if work.spec.keeps_cleaned}
        return {
            "incoming": files if brought else 0,
            "data": index_bytes + (images if brought else files),
            "poisoned": index_bytes + poisons * decoded_bytes,
            "cache": decoded * decoded_bytes,
            "models": models * state + len(cleaned) * state // 3,
            "work": (models + KEEP_CHECKPOINTS * self.gpus) * state,
        }

    def content(self) -> dict[str, Any]:
        """The forecast as JSON content; of drawings, which nobody trains on GPUs, on the processor
        cores here.
        """
        stages = {}
        for stage in ("pretrain", "clean"):
            works = self.works_of(stage)
            stages[stage] = {
                "runs": len(works),
                "pairs": sum(work.pairs for work in works),
                "evaluations": sum(work.whole + work.partial for work in works),
            }
        content: dict[str, Any] = {
            "profile": self.profile.name,
            "dataset": self.dataset,
            "gpus": self.gpus,
            "stages": stages,
            "hours": {},
            "cores": None,
            "disk_bytes": self.disk(),
        }
        if self.profile.data.source.kind == "webdataset":
            content["hours"] = {
                name: self.hours(device)
                for name, device in gpus(self.assumptions).items()
                if self._fits(device)
            }
        else:
            content["cores"] = {"number": cores(), "hours": self.hours_on_cores(cores())}
        return dict(json.loads(json.dumps(content, default=np.ndarray.tolist)))

    def _fits(self, device: Device) -> bool:
        """Whether the device computes in the runs' arithmetic and holds their BatchNorm groups."""
        return all(
            device.knows(work.spec) and self.group_bytes(work.spec) <= device.memory_bytes
            for work in self.works
        )


def norm_groups(spec: RunSpec) -> int:
    """BatchNorm groups of a batch."""
    return spec.schedule.global_batch_size // spec.schedule.norm_batch_size


def pair_seconds(spec: RunSpec, rates: Rates, tokens: int, cached: bool = False) -> Span:
    """Device-seconds of a training step for each of its pairs, with captions of so many tokens;
    `cached`: by the gradient cache, which makes the forward pass twice.
    """
    # The low end of the time is the high end of the rates.
    image = image_tower(spec.model).flop / rates.image[::-1]
    text = text_tower(spec.model, tokens).flop / rates.text[::-1]
    passes = 1 + BACKWARD + cached
    return passes * spec.num_views * (image + text)


def plan(
    profile_name: str, gpus: int = AUTHORS_GPUS, dataset: Dataset | None = None
) -> dict[str, Any]:
    """The forecast of a profile, or of its runs on one dataset, as JSON content."""
    return Forecast(graph_profile(profile_name), gpus, dataset).content()


def plan_command(profile_name: str, as_json: bool, gpus: int, dataset: Dataset | None) -> None:
    """Print the forecast, as Markdown or as JSON."""
    content = plan(profile_name, gpus, dataset)
    print(json.dumps(content, indent=1) if as_json else cost_table(content))


def cost_table(content: dict[str, Any]) -> str:
    """The forecast as Markdown: runs, hours by device, disk."""
    rows = [
        (stage, *(f"{of[count]:,}" for count in ("runs", "pairs", "evaluations")))
        for stage, of in content["stages"].items()
    ]
    lines = table_lines((content["profile"], "runs", "pairs", "evaluations"), rows)

    if content["hours"]:
        rows = [(name, *map(span, parts.values())) for name, parts in content["hours"].items()]
        clock = f"clock, on {content['gpus']}"
        heads = ("device", "pretrain", "clean", "evaluate", "start and compile", "in all", clock)
        lines += ["", "Low, middle and high, in hours of one GPU, and at last of the clock:", ""]
        lines += table_lines(heads, rows)
    if of := content["cores"]:
        minutes = span([60 * hours for hours in of["hours"]])
        lines += [
            "",
            f"The runs take {minutes} minutes on {of['number']} cores, as there are here.",
        ]

    disk = content["disk_bytes"]
    folders = ", ".join(f"`{name}` {size / 1e9:.3g}" for name, size in disk.items() if size)
    lines += ["", f"Disk: {sum(disk.values()) / 1e9:,.3g} GB ({folders})."]
    return "\n".join([*lines, "Assumptions and their sources: specs/plan.yaml."])


def span(values: Sequence[float]) -> str:
    """Low, middle and high in three digits; one number where all are the same."""
    texts = [format(value, ",.0f" if value >= 100 else ".3g") for value in values]
    return ", ".join(dict.fromkeys(texts))
