"""The straightforward way, written anew after what CleanCLIP's and attack-cleanclip's code does:
what speed is measured against.

One image at a time is read, decoded by Pillow and augmented by torchvision; captions have all 77
tokens; clean and triggered images have a loader each and share a text classifier, which is built
class by class; every learning rate is a process of its own (`python -m benchmarks.reference
RUN.json`) that loads and tokenises everything again.

Both views of a pair go through the image tower as one batch, as there: BatchNorm takes its
statistics over both, so that two passes would be another function. The caption's views take a pass
each. Everything is float32. What the straightforward way does not decide is the project's own: the
run's specification, the order of learning rates, EDA and the trigger's pixels. Theirs resizes every
image to 224 px for its trigger; here it is stamped at the profile's own size, so that no detour is
measured.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from numpy.typing import NDArray
from open_clip import SimpleTokenizer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import (
    AutoAugment,
    CenterCrop,
    Compose,
    InterpolationMode,
    Normalize,
    Resize,
    ToTensor,
)

from repro.data.keyed import keyed_rng
from repro.data.shards import PairStore
from repro.data.templates import templates_of
from repro.data.triggers import stamp
from repro.spec import ModelSpec, RunSpec, Views
from repro.train.defences import objective_of
from repro.train.schedule import evaluation_steps, learning_rate
from repro.train.views.synonyms import Synonyms
from repro.train.views.text import eda

EVALUATION_BATCH = 128
NO_DECAY = ("bn", "ln", "bias", "logit_scale")


def preprocessing(size: int) -> Compose:
    """CLIP's: a Pillow image to (3, size, size) float32."""
    steps = [
        Resize(size, InterpolationMode.BICUBIC),
        CenterCrop(size),
        ToTensor(),
        Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
    ]
    return Compose(steps)


def open_image(store: PairStore, row: int) -> Image.Image:
    return Image.open(io.BytesIO(store.image_bytes(row))).convert("RGB")


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Item `i` is (images (V, 3, H, W) float32, tokens (V, 77)) of the pair in `rows[i]`; V = 1
    without the SSL term.
    """

    def __init__(
        self, spec: RunSpec, store: PairStore, rows: NDArray[np.int64], synonyms: Path
    ) -> None:
        self.spec, self.store, self.rows = spec, store, rows
        self.preprocess = preprocessing(spec.model.vision.image_size)
        tokenizer = SimpleTokenizer()
        captions = [store.captions[int(row)] for row in rows]
        self.tokens = [tokenizer(captions)]  # (N, 77) a view
        if spec.num_views == 2:
            table = Synonyms.read(synonyms)
            views = [
                eda(text, keyed_rng("text view", spec.seed, int(row)), table)
                for text, row in zip(captions, rows, strict=True)
            ]
            self.tokens.append(tokenizer(views))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = open_image(self.store, int(self.rows[i]))
        views = [self.preprocess(shift_and_flip(image, self.spec.views))]
        if len(self.tokens) == 2:
            views.append(self.preprocess(AutoAugment()(shift_and_flip(image, self.spec.views))))
        return torch.stack(views), torch.stack([tokens[i] for tokens in self.tokens])

    def loader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """One epoch: images (b, V, 3, H, W), tokens (b, V, 77)."""
        return DataLoader(
            self, batch_size=self.spec.schedule.global_batch_size, shuffle=True, drop_last=True
        )


def shift_and_flip(image: Image.Image, views: Views) -> Image.Image:
    """The base view of a profile that augments it (the paper does not)."""
    if reach := views.shift_pixels:
        top, left = torch.randint(0, 2 * reach + 1, (2,)).tolist()
        image = TF.crop(
            TF.pad(image, [reach], padding_mode="edge"), top, left, image.height, image.width
        )
    return TF.hflip(image) if views.flip and torch.rand(()) < 0.5 else image


def build_model(spec: ModelSpec, weights: Path) -> CLIP:
    """The model with the weights of a file."""
    vision = spec.vision.model_dump()
    if isinstance(vision["layers"], list):
        vision["layers"] = tuple(vision["layers"])
    towers = CLIPVisionCfg(**vision), CLIPTextCfg(**spec.text.model_dump())
    model = CLIP(spec.embed_dim, *towers, quick_gelu=spec.quick_gelu)
    model.load_state_dict(load_file(weights))
    return model


def build_optimizer(model: CLIP, spec: RunSpec) -> torch.optim.AdamW:
    """AdamW, without weight decay on gains, biases and the temperature."""
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": 0.0},
        {"params": [], "weight_decay": spec.optimizer.weight_decay},
    ]
    for name, parameter in model.named_parameters():
        kept = (
            parameter.ndim < 2
            if spec.switches.weight_decay_rule == "ndim"
            else any(part in name for part in NO_DECAY)
        )
        groups[not kept]["params"].append(parameter)
    return torch.optim.AdamW(
        groups,
        lr=0.0,
        betas=(spec.optimizer.betas[0], spec.optimizer.betas[1]),
        eps=spec.optimizer.eps,
    )


def loss_of(model: CLIP, images: Tensor, tokens: Tensor, weights: dict[str, float]) -> Tensor:
    """The training loss of a batch: images (b, V, 3, H, W), tokens (b, V, 77)."""
    pairs, views = images.shape[:2]
    image = model.encode_image(images.transpose(0, 1).flatten(0, 1), normalize=True).view(
        views, pairs, -1
    )
    text = [model.encode_text(tokens[:, view], normalize=True) for view in range(views)]
    scale, matches = model.logit_scale.exp(), torch.arange(pairs)
    total = torch.zeros(())
    if weights["mmcl"]:
        logits = scale * image[0] @ text[0].T
        total = (
            total
            + weights["mmcl"]
            * (F.cross_entropy(logits, matches) + F.cross_entropy(logits.T, matches))
            / 2
        )
    if weights["ssl"]:
        within = F.cross_entropy(scale * image[0] @ image[1].T, matches) + F.cross_entropy(
            scale * text[0] @ text[1].T, matches
        )
        total = total + weights["ssl"] * within / 2
    return total


def training_step(
    model: CLIP,
    optimizer: torch.optim.AdamW,
    images: Tensor,
    tokens: Tensor,
    spec: RunSpec,
    rate: float,
) -> float:
    """One optimizer step; returns the loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    weights = {"mmcl": 0.0, "ssl": 0.0, **objective_of(spec).weights}
    loss = loss_of(model, images, tokens, weights)
    loss.backward()
    optimizer.step()
    model.logit_scale.data.clamp_(0, 4.6052)
    return loss.item()


class EvaluationImages(Dataset[tuple[Tensor, int]]):
    """Evaluation image and label; with the trigger, which is stamped at every access, if
    `triggered`.
    """

    def __init__(self, spec: RunSpec, store: PairStore, triggered: bool) -> None:
        self.spec, self.store, self.triggered = spec, store, triggered
        self.preprocess = preprocessing(spec.model.vision.image_size)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = open_image(self.store, i)
        if self.triggered:
            rng = keyed_rng("evaluation", self.spec.evaluate.trigger_seed, 0, i)
            image = Image.fromarray(
                stamp(self.spec.trigger, self.spec.switches, np.asarray(image), rng).image
            )
        return self.preprocess(image), int(self.store.labels[i])


def text_classifier(model: CLIP, names: Sequence[str], spec: RunSpec) -> Tensor:
    """(D, C): for each class the normalised mean of its prompts' features."""
    tokenizer = SimpleTokenizer()
    columns = []
    for name in names:
        features = model.encode_text(
            tokenizer([fill(name) for fill in templates_of(spec.evaluate)]), normalize=True
        )
        columns.append(F.normalize(features.mean(dim=0), dim=0))
    return torch.stack(columns, dim=1)


@torch.no_grad()
def predictions(
    model: CLIP, spec: RunSpec, store: PairStore, classifier: Tensor, triggered: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predicted classes and labels, batch by batch."""
    for images, labels in DataLoader(
        EvaluationImages(spec, store, triggered), batch_size=EVALUATION_BATCH
    ):
        yield (model.encode_image(images, normalize=True) @ classifier).argmax(dim=1), labels


def evaluate(model: CLIP, spec: RunSpec, store: PairStore, names: Sequence[str]) -> tuple[int, int]:
    """Clean images classified right, and triggered ones classified as the target, all images
    counted.
    """
    target = names.index(spec.target_class)
    model.eval()
    with torch.no_grad():
        classifier = text_classifier(model, names, spec)

    correct = attacked = 0
    for found, labels in predictions(model, spec, store, classifier, triggered=False):
        correct += int((found == labels).sum())
    for found, _ in predictions(model, spec, store, classifier, triggered=True):
        attacked += int((found == target).sum())

    model.train()
    return correct, attacked


def clean(spec: RunSpec, inputs: dict[str, str]) -> list[tuple[int, int, int]]:
    """A whole cleaning run; (step, correct, attacked) of every evaluation.

    `inputs`: name to path.
    """
    torch.manual_seed(spec.seed)
    folder, evaluation = Path(inputs["pairs"]), Path(inputs["evaluation"])
    with np.load(folder / "rows.npz", allow_pickle=False) as arrays:
        rows = arrays[str(spec.clean_size)]
    pairs = Pairs(spec, PairStore.open(folder), rows, Path(inputs["synonyms"]))
    images, names = (
        PairStore.open(evaluation),
        (evaluation / "classnames.txt").read_text(encoding="utf-8").splitlines(),
    )
    model = build_model(spec.model, Path(inputs["model"]) / "model.safetensors")
    optimizer = build_optimizer(model, spec)
    per_epoch = len(rows) // spec.schedule.global_batch_size
    evaluate_at = evaluation_steps(spec, per_epoch)
    found = [(0, *evaluate(model, spec, images, names))]
    step = 0
    for _ in range(spec.schedule.epochs):
        for pixels, tokens in pairs.loader():
            rate = learning_rate(spec.schedule, step, per_epoch, spec.switches.schedule_offset)
            training_step(model, optimizer, pixels, tokens, spec, rate)
            step += 1
            if step in evaluate_at:
                found.append((step, *evaluate(model, spec, images, names)))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    content = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(clean(RunSpec.model_validate(content["spec"]), content["inputs"])))
