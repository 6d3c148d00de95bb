"""What a run has to do: its pairs and evaluations, and the floating-point operations of its model.

All follows from the specifications, without torch. Counted are matrix products and convolutions; a
multiply-add is two operations. Normalisations and activations cost memory traffic instead, and the
losses less than a thousandth of the towers. What defences add is left out: PAR's frozen encoders,
the second pass of FT-SAM.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from repro.profile import classnames_file, load_classnames
from repro.spec import ModelSpec, Profile, ResNetConfig, RunSpec, ShardSource
from repro.train.schedule import evaluation_steps, num_steps

BACKWARD = 2
"""Operations of a backward pass over those of the forward pass."""


class Tower(NamedTuple):
    """Weights of a tower, biases and normalisations left out, and FLOPs of one input, forward."""

    weights: int
    flop: int


def image_tower(model: ModelSpec) -> Tower:
    """Of an image through the image tower."""
    vision = model.vision
    if isinstance(vision, ResNetConfig):
        return _resnet(vision, model.embed_dim)

    # A class token goes with the patches through all blocks.
    width = vision.width
    patches = (vision.image_size // vision.patch_size) ** 2
    patch = 3 * vision.patch_size**2 * width
    blocks = vision.layers * _block(width, patches + 1)
    head = width * model.embed_dim
    weights = patch + (patches + 1) * width + vision.layers * 12 * width**2 + head
    return Tower(weights, 2 * patch * patches + blocks + 2 * head)


def _resnet(vision: ResNetConfig, embed_dim: int) -> Tower:
    """CLIP's ResNet: three convolutions at its bottom, average pooling in place of strides, and
    attention at its top, where the mean alone asks.
    """
    half, width, side = vision.width // 2, vision.width, vision.image_size // 2
    # Weights of the convolutions, and at how many places each is taken.
    layers = [(3 * 9 * half, side**2), (half * 9 * half, side**2), (half * 9 * width, side**2)]
    side //= 2
    channels = width
    for stage, blocks in enumerate(vision.layers):
        planes = width * 2**stage
        for block in range(blocks):
            # The first block of a stage halves the side before its last convolution.
            pooled = side // 2 if stage and not block else side
            layers += [(channels * planes, side**2), (9 * planes * planes, side**2)]
            layers.append((planes * 4 * planes, pooled**2))
            if not block:
                layers.append((channels * 4 * planes, pooled**2))
            channels = 4 * planes
            side = pooled

    places = side**2 + 1
    layers += [(channels * channels, 1), (2 * channels * channels, places)]
    layers.append((channels * embed_dim, 1))
    weights = sum(weights for weights, _ in layers) + places * channels
    products = sum(weights * times for weights, times in layers)
    attention = 2 * places * channels
    return Tower(weights, 2 * (products + attention))


def text_tower(model: ModelSpec, tokens: int) -> Tower:
    """Of a caption of so many tokens; in the last block the end token alone asks."""
    text = model.text
    width = text.width
    blocks = (text.layers - 1) * _block(width, tokens)
    keys = 2 * 2 * width**2 * tokens
    last = keys + 2 * 10 * width**2 + 4 * tokens * width
    head = width * model.embed_dim
    embedded = (text.vocab_size + text.context_length) * width
    weights = embedded + text.layers * 12 * width**2 + head
    return Tower(weights, blocks + last + 2 * head)


def num_weights(model: ModelSpec) -> int:
    """Weights of both towers."""
    return image_tower(model).weights + text_tower(model, 1).weights


def _block(width: int, tokens: int) -> int:
    """FLOPs of a transformer block: 12 width^2 weights a token, and attention."""
    return 24 * width**2 * tokens + 4 * width * tokens**2


class Work(NamedTuple):
    """What one training run does, unless it ends early."""

    spec: RunSpec
    pairs: int
    """Training pairs processed, views not counted."""
    whole: int
    """Evaluations on all images. The cleaning runs of one model share that of their start model,
    and the first one has it.
    """
    partial: int
    """Evaluations on `images_between` images a class."""


def work_of(profile: Profile, specs: Sequence[RunSpec]) -> list[Work]:
    """The work of runs of the profile, in their order."""
    result = []
    starts: set[tuple[str, str, int]] = set()
    for spec in specs:
        batch = spec.schedule.global_batch_size
        steps_per_epoch = num_rows(profile, spec) // batch
        steps = evaluation_steps(spec, steps_per_epoch)
        within = [step for step in steps if spec.images_between and step % steps_per_epoch]
        whole = len(steps) - len(within)
        start = spec.stage, spec.model_name, spec.seed
        if start in starts:
            whole -= 1
        starts.add(start)
        pairs = num_steps(spec, steps_per_epoch) * batch
        result.append(Work(spec, pairs, whole, len(within)))
    return result


def num_rows(profile: Profile, spec: RunSpec) -> int:
    """Pairs that a run trains on, before its incomplete last batch is dropped
    (repro/data/poison.py).
    """
    data = profile.data
    if spec.clean_size is not None:
        return data.cleaning_sizes[spec.clean_size] + spec.poisons_left
    rows = data.num_pairs[spec.dataset] - data.num_validation
    if profile.switches.cleaning_pairs == "held_out":
        rows -= max(data.cleaning_sizes.values())
    return rows


def num_evaluation_images(profile: Profile) -> int:
    """Images of the zero-shot task: of every class as many as the source has."""
    source = profile.data.source
    names = load_classnames(profile)
    if isinstance(source, ShardSource):
        return len(names) * source.images_per_class

    # The committed list has a line for each evaluation image: its class, and its file.
    listed = classnames_file("icons-images").read_text(encoding="utf-8").splitlines()
    of_all = Counter(line.partition("\t")[0] for line in listed)
    counts = [of_all[name] for name in names]
    if limit := source.images_per_concept:
        counts = [min(count, limit) for count in counts]
    return sum(counts)
