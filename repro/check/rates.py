"""Checks of what things cost: evaluations, training steps, memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from repro.check.results import Check
from repro.check.work import Scale, Trainee, batch, wait
from repro.data.keyed import keyed_rng
from repro.data.templates import templates_of
from repro.data.triggers import stamp
from repro.evaluate.images import EvaluationSet
from repro.evaluate.prompts import PromptSet
from repro.evaluate.zero_shot import IMAGE_BATCH, evaluate_model, evaluating, predict
from repro.profile import load_classnames
from repro.spec import Objective
from repro.train.process.device import peak_bytes, reset_peak, set_arithmetic

VALIDATION_IMAGES = 50_000
STAMPED = 64
"""Images whose pasted trigger is compared with `stamp`."""


def evaluation(scale: Scale, device: torch.device) -> Iterator[Check]:
    """The project's evaluation of a random model on blocks: rates, stamping, the same twice."""
    images = _evaluation_set(scale)
    names = load_classnames(scale.profile)[: scale.classes]
    prompts = PromptSet(names, templates_of(scale.profile.evaluate), "keep_eot")
    set_arithmetic("tf32", True, device)
    model = Trainee(scale.spec("mmcl", "tf32"), device).model

    # The first evaluation also places images and draws triggers, the second is one of many.
    first = evaluate_model(model, images, prompts, device, precision="tf32")
    begun = time.monotonic()
    second = evaluate_model(model, images, prompts, device, precision="tf32")
    took = time.monotonic() - begun
    same = (first.classes == second.classes).all()
    same &= (first.classes_triggered == second.classes_triggered).all()
    yield Check("evaluation", "twice", "the same predictions" if same else "unlike", bool(same))

    home = images.homes["clean"]
    yield Check("evaluation", "images wait in", home)
    rate = 2 * len(images) / took
    yield Check("evaluation", "all in, TF32", f"{rate:.0f} images/s with prompts and triggers")

    batches = [range(begin, begin + IMAGE_BATCH) for begin in range(0, len(images), IMAGE_BATCH)]
    batches = [range(part.start, min(part.stop, len(images))) for part in batches]
    wait(device)
    begun = time.monotonic()
    for part in images.batches(batches, 0, device):
        part.triggered()
    wait(device)
    share = VALIDATION_IMAGES / len(images)
    seconds = (time.monotonic() - begun) * share
    yield Check("evaluation", "images and triggers alone", f"{seconds:.2f} s for 50,000")

    [part] = images.batches([range(min(STAMPED, len(images)))], 0, device)
    pasted = part.triggered().cpu().numpy()
    good = all(_is_stamp(images, number, twin) for number, twin in enumerate(pasted))
    yield Check("evaluation", "pasted = stamped", "to the byte" if good else "unlike", good)

    for precision in ("tf32", "bf16"):
        with evaluating(model, precision, device):
            yield from _towers(model, prompts, images, device, precision)


def _towers(
    model: torch.nn.Module,
    prompts: PromptSet,
    images: EvaluationSet,
    device: torch.device,
    precision: str,
) -> Iterator[Check]:
    """Rates of the two towers on what lies on the device."""
    prompts.classifier(model, device)
    wait(device)
    begun = time.monotonic()
    classifier = prompts.classifier(model, device)
    wait(device)
    text = time.monotonic() - begun
    yield Check("evaluation", f"prompts, {precision}", f"{len(prompts.tokens)} in {text:.2f} s")

    pixels = torch.from_numpy(images.images[:IMAGE_BATCH]).to(device)
    repeats = 10 if device.type == "cuda" else 1
    predict(model, pixels, classifier)
    wait(device)
    begun = time.monotonic()
    for _ in range(repeats):
        predict(model, pixels, classifier)
    wait(device)
    rate = repeats * len(pixels) / (time.monotonic() - begun)
    yield Check("evaluation", f"image tower, {precision}", f"{rate:.0f} images/s")


def speed(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Pairs a second with the batch on the device."""
    kinds: list[tuple[Objective, int, int, int]] = [
        ("mmcl", 1, scale.pairs, scale.long),
        ("mmcl", 1, scale.pairs, scale.short),
        ("mmcl_ssl", 2, scale.pairs // 2, scale.long),
    ]
    for precision in ("tf32", "bf16"):
        for kind in kinds:
            yield _rate(scale, device, precision, kind, deterministic=True, compiled=False)
        yield _rate(scale, device, precision, kinds[0], deterministic=False, compiled=False)
        if device.type == "cuda":
            yield _rate(scale, device, precision, kinds[0], deterministic=False, compiled=True)


def _rate(
    scale: Scale,
    device: torch.device,
    precision: str,
    kind: tuple[Objective, int, int, int],
    *,
    deterministic: bool,
    compiled: bool,
) -> Check:
    objective, views, pairs, length = kind
    spec = scale.spec(objective, precision)
    set_arithmetic(spec.precision, deterministic, device)
    trainee = Trainee(spec, device)
    if compiled:
        trainee.encoder = torch.compile(trainee.encoder)  # type: ignore[assignment]
    data = batch(scale, pairs, views, length, 0, device)

    how = "compiled" if compiled else "deterministic" if deterministic else "fast"
    name = f"{objective}, {precision}, {how}, {pairs} pairs x {views}, {length} tokens"
    try:
        begun = time.monotonic()
        for _ in range(3):
            trainee.step(*data)
        wait(device)
        first = time.monotonic() - begun

        begun = time.monotonic()
        for _ in range(scale.steps):
            trainee.step(*data)
        wait(device)
    except torch.OutOfMemoryError as error:
        return Check("speed", name, str(error), False)
    seconds = (time.monotonic() - begun) / scale.steps
    found = f"{pairs / seconds:.0f} pairs/s, {seconds * 1e3:.0f} ms, first three {first:.0f} s"
    return Check("speed", name, found)


def memory(scale: Scale, device: torch.device) -> Iterator[Check]:
    """The peak of two steps; on a CPU that of the process."""
    for precision in ("tf32", "bf16"):
        spec = scale.spec("mmcl", precision)
        set_arithmetic(spec.precision, True, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        reset_peak(device)

        trainee = Trainee(spec, device)
        for step in range(2):
            trainee.step(*batch(scale, scale.pairs, 1, scale.long, step, device))
        wait(device)
        peak = peak_bytes(device) / 1e9
        yield Check("memory", f"{scale.pairs} pairs, {precision}", f"peak {peak:.1f} GB")
        del trainee


def _evaluation_set(scale: Scale) -> EvaluationSet:
    """Coarse coloured blocks in the classes of the profile, with its trigger."""
    rng = np.random.default_rng(0)
    coarse = scale.size // 8
    blocks = rng.integers(0, 256, (scale.images, coarse, coarse, 3), dtype=np.uint8)
    images = blocks.repeat(8, axis=1).repeat(8, axis=2)
    labels = np.arange(scale.images) % scale.classes
    profile = scale.profile
    return EvaluationSet(
        images, images, labels, 1, profile.data.poison.trigger, profile.switches, 0
    )


def _is_stamp(images: EvaluationSet, number: int, twin: np.ndarray) -> bool:
    rng = keyed_rng("evaluation", images.seed, 0, number)
    expected = stamp(images.trigger, images.switches, images.images[number], rng).image
    return bool((expected == twin).all())
