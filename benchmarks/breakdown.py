"""`python -m benchmarks.breakdown [NAME...]`: where the time goes, written into docs/profile.md.

Blocks: `mini-step`, `rn50-step` (one training step by groups of operations, against the FLOP floor)
and `mini-run` (the whole study). Times are processor time on one thread, so that other programs do
not show; the profiler's wall times give the shares only. The floor of convolutions and matrix
products is their FLOPs over the measured rate of a large matrix product, the floor of BatchNorm the
bytes it must move over the measured rate of a large sum of two arrays.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from repro.markdown import fill
from repro.plan.assumptions import load_assumptions, num_evaluation_images
from repro.plan.flops import count
from repro.plan.measure import load_task, matrix_rate, measure, random_batch
from repro.plan.rates import Rates, Seconds
from repro.plan.work import work_of
from repro.profile import load_profile, pretrain_runs
from repro.runs.layout import WORK
from repro.runs.machine import environment
from repro.spec import RunSpec
from repro.train.model import PairEncoder, build_model, build_optimizer
from repro.train.process import distributed
from repro.train.step import training_step
from repro.worker import Resident

PAGE = Path("docs/profile.md")
CPU = torch.device("cpu")
GROUPS = {
    "convolutions, forward": ("aten::mkldnn_convolution",),
    "convolutions, backward": ("aten::convolution_backward",),
    "matrix products and attention": (
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::baddbmm",
        "aten::_scaled_dot_product_flash",
    ),
    "BatchNorm": ("aten::native_batch_norm", "aten::batch_norm", "aten::_batch_norm"),
    "AdamW": ("aten::_fused_adamw_",),
    "copies and fills": (
        "aten::copy_",
        "aten::fill_",
        "aten::zero_",
        "aten::clone",
        "aten::cat",
        "aten::_to_copy",
        "aten::stack",
    ),
}
"""Groups of operations, by the beginnings of their names in the profiler; the rest are activations,
norms, sums and Python.
"""
REST = "activations, sums and the rest"
FLOPS_OF = {
    "convolution": "convolutions, forward",
    "convolution_backward": "convolutions, backward",
}
"""Groups by the counter's names of operations; its others are matrix products."""
NORM_PASSES = 3 + 5
"""Reads and writes of an activation by BatchNorm: mean and variance, then scaling; backward two
sums, then the gradient.
"""
SECONDS = 60.0
"""Of steps and evaluations for the rates of `mini-run`."""


def mini_step() -> str:
    """A pre-training step of each objective, on the profile's data."""
    lines = []
    resident = Resident(WORK / "cache", CPU)
    for spec in pretrain_runs(load_profile("mini"), "cc6m"):
        task = load_task(resident, spec)
        if task is None:
            raise SystemExit("data/mini: missing; make it by `dvc repro poison@mini-cc6m`")
        title = spec.loss.replace("mmcl_ssl", "MMCL + SSL").replace("mmcl", "MMCL")
        fetch = partial(next, task.pairs.batches(0, 100, 0))
        lines += [f"**{title}**", "", *step_table(spec, fetch, 20), ""]
    return "\n".join(lines)


def rn50_step() -> str:
    """A step of the paper's model in float32: 32 pairs of 224 px, captions of 32 tokens."""
    spec = pretrain_runs(load_profile("paper"), "cc3m", "mmcl")[0]
    schedule = spec.schedule.model_copy(update={"global_batch_size": 32, "norm_batch_size": 32})
    spec = spec.model_copy(update={"schedule": schedule, "precision": "fp32"})
    drawn = random_batch(spec, 1, 32, 32)
    return "\n".join(step_table(spec, lambda: drawn, 2))


def step_table(spec: RunSpec, batch: Callable[[], tuple[Tensor, Tensor]], steps: int) -> list[str]:
    """Milliseconds of a step by groups, each beside its floor."""
    model = build_model(spec.model, 0, "fp32")
    model.train()
    optimizer = build_optimizer(model, spec.optimizer, spec.switches.weight_decay_rule)
    encoder = PairEncoder(model, spec.schedule.global_batch_size // spec.schedule.norm_batch_size)
    drawn = batch()

    def step() -> None:
        float(training_step(encoder, model, optimizer, *drawn, spec, 1e-4)["loss"])

    step()
    step()
    fetching = _processor_seconds(batch, steps)
    took = _processor_seconds(step, steps)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    with FlopCounterMode(display=False) as counter:
        step()
    rate, bandwidth = matrix_rate(CPU, "fp32"), _bandwidth()
    flops: Counter[str] = Counter()
    for operation, number in counter.get_flop_counts()["Global"].items():
        flops[FLOPS_OF.get(str(operation).partition(".")[2], "matrix products and attention")] += (
            number
        )
    floors = {group: number / rate for group, number in flops.items()}
    floors["BatchNorm"] = _norm_bytes(encoder, model, drawn) / bandwidth
    spent: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        group = next((name for name, names in GROUPS.items() if event.key.startswith(names)), REST)
        spent[group] += event.self_cpu_time_total
    total = sum(spent.values())
    floor = sum(flops.values()) / rate
    lines = [
        f"{environment()['device']}, one thread: {rate / 1e9:.0f} GFLOP/s in matrix products,"
        f" {bandwidth / 1e9:.1f} GB/s in sums of arrays.",
        f"A step takes {_ms(took)} ms, its batch {_ms(fetching)} ms before it."
        f" Its {sum(flops.values()) / 1e9:.4g} GFLOP would take"
        f" {_ms(floor)} ms: the step runs at **{floor / took:.0%} of the FLOP floor**.",
        "",
        "| operations | ms | share | floor, ms | at |",
        "|---|---|---|---|---|",
    ]
    for group in [*GROUPS, REST]:
        seconds = spent[group] / total * took
        bound = (
            f"{_ms(floors[group])} | {floors[group] / seconds:.0%}"
            if group in floors and seconds
            else " | "
        )
        lines.append(f"| {group} | {_ms(seconds)} | {seconds / took:.0%} | {bound} |")
    return lines


def mini_run() -> str:
    """The whole study: what its runs should take at rates measured now, by what they do."""
    mini = load_profile("mini")
    assumptions, _ = load_assumptions()
    counts = count(
        mini, assumptions.caption_tokens[mini.data.source.kind], num_evaluation_images(mini)
    )
    works = work_of(mini)
    speed = measure(mini, SECONDS, works)
    rates = Rates(speed.step, speed.wait, speed.evaluation, speed.start, run=speed.run)
    lines = [
        f"{environment()['device']}, one thread:"
        f" {speed.matrix_flops / 1e9:.0f} GFLOP/s in matrix products."
        " Minutes of one core, without start-up, data and report:",
        "",
        "| stage | runs | training steps | waiting for batches | evaluations | sum | FLOP floor"
        " | at |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in ("pretrain", "clean"):
        of_stage = [work for work in works if work.spec.stage == stage]
        spent = sum(map(rates.seconds, of_stage), Seconds())
        floor = (
            sum(counts.training(work) + work.evaluations * counts.evaluation for work in of_stage)
            / speed.matrix_flops
        )
        minutes = [
            f"{value / 60:.1f}"
            for value in (spent.training, spent.host, spent.evaluation, spent.total, floor)
        ]
        lines.append(
            f"| {stage} | {len(of_stage)} | {' | '.join(minutes)} | {floor / spent.total:.0%} |"
        )
    return "\n".join(lines)


def _norm_bytes(encoder: nn.Module, model: CLIP, batch: tuple[Tensor, Tensor]) -> float:
    """Bytes that the BatchNorms of a step read and write, float32."""
    elements: list[int] = []
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [
        norm.register_forward_hook(lambda module, inputs, output: elements.append(output.numel()))
        for norm in norms
    ]
    with torch.no_grad():
        encoder(*batch)
    for handle in handles:
        handle.remove()
    return 4.0 * NORM_PASSES * sum(elements)


def _bandwidth() -> float:
    """Bytes a second of a sum of two arrays far larger than any cache, counting two reads and a
    write.
    """
    left, right, out = (torch.ones(2**26) for _ in range(3))
    return (
        3
        * 4
        * 2**26
        / min(_processor_seconds(lambda: torch.add(left, right, out=out), 1) for _ in range(3))
    )


def _processor_seconds(call: Callable[[], object], repetitions: int) -> float:
    begun = time.process_time()
    for _ in range(repetitions):
        call()
    return (time.process_time() - begun) / repetitions


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.3g}" if seconds < 1 else f"{1000 * seconds:,.0f}"


BLOCKS = {"mini-step": mini_step, "mini-run": mini_run, "rn50-step": rn50_step}


if __name__ == "__main__":
    distributed.repeatable(threads=1)
    for name in sys.argv[1:] or BLOCKS:
        if name not in BLOCKS:
            sys.exit(f"{name} (allowed: {', '.join(BLOCKS)})")
        block = BLOCKS[name]()
        print(block)
        fill(PAGE, name, block)
