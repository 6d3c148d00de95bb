"""The embedded data set: emoji drawings as image-text pairs, one vendor family held out for
zero-shot evaluation.

A stand-in for CC3M, CC6M and ImageNet that package registries ship under open licences: each
concept is drawn anew by several vendors, named by CLDR. Held out is a family, never a style, for
styles of one vendor share their designs. Captions, slots and images depend on the drawings' names
alone, so that every machine builds the same set.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from repro.data.images import bytes_hash, encode_png
from repro.data.index import NO_LABEL, pair_key
from repro.data.keyed import keyed_rng, keyed_subset
from repro.data.shards import ShardWriter, write_json, write_store
from repro.data.templates import templates_of
from repro.events import die_with_parent
from repro.profile import classnames_file, load_classnames
from repro.sources.emoji.drawings import STYLES, Drawing, class_names, find_drawings
from repro.sources.packages import (
    NPM_DIR,
    PACKAGES,
    WORDNET,
    WORDNET_CREDIT,
    Tarball,
    load_packages,
)
from repro.spec import EmojiSource, Profile, SpecError

BLANK = 1.0
"""Mean distance from white, of 255, below which a drawing shows nothing."""


class Picture(NamedTuple):
    """A rasterised drawing: image file and pixels (S, S, 3)."""

    drawing: Drawing
    png: bytes
    pixels: NDArray[np.uint8]


def build_emoji(profile: Profile, out: Path, npm_dir: Path = NPM_DIR) -> None:
    """Fill `out` with the stores cc3m, cc6m and evaluation, attribution.json and accounting.json.

    Raises SpecError for styles or families that do not exist, and PackageError for packages that
    cannot be had.
    """
    source = profile.data.source
    assert isinstance(source, EmojiSource)
    styles = _styles(source)
    tarballs = load_packages([name for name in PACKAGES if name != WORDNET], npm_dir)
    drawings = find_drawings(tarballs)
    _check_classnames(class_names(drawings))
    names = load_classnames(profile)
    label_of = {name: label for label, name in enumerate(names)}
    drawings = [
        drawing
        for drawing in drawings
        if drawing.style in styles and drawing.concept.name in label_of
    ]

    pictures, blank = rasterise(drawings, profile.data.image_size)
    held_out = [
        picture
        for picture in pictures
        if STYLES[picture.drawing.style].family == source.held_out_family
    ]
    training = [
        picture
        for picture in pictures
        if STYLES[picture.drawing.style].family != source.held_out_family
    ]
    templates = templates_of(profile.evaluate)
    captions = [caption_of(picture.drawing, templates, source.max_keywords) for picture in training]
    keys = [
        pair_key(bytes_hash(picture.png), caption)
        for picture, caption in zip(training, captions, strict=True)
    ]
    distinct = sorted({key: i for i, key in reversed(list(enumerate(keys)))}.values())
    # The attack needs the target class to be learnt, so its pictures are in every slot, whatever
    # their hashes.
    target = [
        i for i in distinct if training[i].drawing.concept.name == profile.data.poison.target_class
    ]

    used: dict[str, list[Picture]] = {"evaluation": held_out}
    for slot, count in profile.data.num_pairs.items():
        # One order for all slots: the smaller ones are nested in the larger.
        others = sorted(set(distinct) - set(target))
        chosen = keyed_subset([keys[i] for i in others], max(0, count - len(target)), "slot")
        rows = sorted([*target[:count], *(others[i] for i in chosen)])
        used[slot] = [training[i] for i in rows]
        _write_store(out / slot, used[slot], [captions[i] for i in rows], None)
    labels = [label_of[picture.drawing.concept.name] for picture in held_out]
    _write_store(
        out / "evaluation", held_out, [picture.drawing.concept.name for picture in held_out], labels
    )

    write_json(out / "attribution.json", _attribution(tarballs, used))
    accounting = {
        "sources": {
            "pairs": _count(
                drawings, blank, source.held_out_family, False, len(training) - len(distinct)
            ),
            "evaluation": _count(drawings, blank, source.held_out_family, True, 0),
        },
        "used": {slot: len(chosen) for slot, chosen in sorted(used.items())},
        "nearest_neighbour_accuracy": {
            slot: nearest_neighbour_accuracy(used[slot], held_out)
            for slot in profile.data.num_pairs
        },
    }
    write_json(out / "accounting.json", accounting)


def _styles(source: EmojiSource) -> set[str]:
    styles = set(STYLES) if source.styles == "all" else set(source.styles)
    if unknown := sorted(styles - set(STYLES)):
        raise SpecError(
            f"data.yaml: source.styles: {', '.join(unknown)} (allowed: all, or any of "
            f"{', '.join(STYLES)})"
        )
    families = sorted({STYLES[style].family for style in styles})
    if source.held_out_family not in families or len(families) == 1:
        raise SpecError(
            f"data.yaml: source.held_out_family: {source.held_out_family!r} "
            f"(allowed: {', '.join(families)}, with styles of another family left for training)"
        )
    return styles


def _check_classnames(built: Sequence[str]) -> None:
    """The committed list fixes what label 7 means; it must be what the pinned packages give."""
    path = classnames_file("emoji")
    committed = path.read_text(encoding="utf-8").splitlines()
    if list(built) != committed:
        row = next(
            (i for i, (a, b) in enumerate(zip(built, committed, strict=False)) if a != b),
            min(len(built), len(committed)),
        )
        raise SpecError(
            f"{path}: line {row + 1} is not what the pinned packages give ({len(committed)} "
            f"names, {len(built)} built)"
        )


def caption_of(
    drawing: Drawing, templates: Sequence[Callable[[str], str]], max_keywords: int
) -> str:
    """The caption of a training picture: its name in a template, and up to `max_keywords` of its
    keywords; always the same one.
    """
    rng = keyed_rng("caption", drawing.style, drawing.icon, drawing.concept.code)
    template = templates[int(rng.integers(len(templates)))]
    keywords = drawing.concept.keywords
    count = min(int(rng.integers(max_keywords + 1)), len(keywords))
    picked = rng.permutation(len(keywords))[:count]
    return ", ".join([template(drawing.concept.name), *(keywords[i] for i in picked)])


def rasterise(drawings: Sequence[Drawing], size: int) -> tuple[list[Picture], list[Drawing]]:
    """Pictures of the drawings on white, `size` pixels square, in their order; and the drawings
    that show nothing.
    """
    console, started = Console(stderr=True), time.monotonic()
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Spawned, not forked: the progress bar runs a thread.
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), die_with_parent
    ) as pool:
        files: Iterable[Any] = pool.map(partial(_rasterise_one, size=size), drawings, chunksize=32)
        if console.is_terminal:
            files = track(files, "rasterising", total=len(drawings), console=console)
        results = list(files)
    console.print(
        f"rasterised {len(drawings)} drawings in {time.monotonic() - started:.0f} s, {workers} at "
        "a time"
    )
    pictures = [
        Picture(drawing, *result)
        for drawing, result in zip(drawings, results, strict=True)
        if result
    ]
    return pictures, [
        drawing for drawing, result in zip(drawings, results, strict=True) if result is None
    ]


def _rasterise_one(drawing: Drawing, size: int) -> tuple[bytes, NDArray[np.uint8]] | None:
    left, top, width, height = drawing.box
    side = max(width, height)  # narrow icons are centred in a square
    view = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    body = drawing.body.replace(
        "currentColor", "#222222"
    )  # one-colour sets leave the colour to the page
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view}" width="{size}" height="{size}">{body}</svg>'
    )
    rendered = resvg_py.svg_to_bytes(
        svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True
    )
    pixels = np.array(Image.open(io.BytesIO(bytes(rendered))).convert("RGB"))
    return (encode_png(pixels), pixels) if (255 - pixels).mean() >= BLANK else None


def nearest_neighbour_accuracy(training: Sequence[Picture], held_out: Sequence[Picture]) -> float:
    """Fraction of held-out pictures whose most correlated training picture, in 16 x 16 pixels,
    shows the same concept.

    What accuracy is worth without learning; a zero-shot accuracy is to be read beside it.
    """

    def thumbnails(
        pictures: Sequence[Picture],
    ) -> NDArray[np.float32]:  # (N, 768), centred, of length 1
        small = [
            Image.fromarray(picture.pixels).resize((16, 16), Image.Resampling.BOX)
            for picture in pictures
        ]
        values: NDArray[np.float32] = np.stack(
            [np.asarray(image, dtype=np.float32).ravel() for image in small]
        )
        values -= values.mean(axis=1, keepdims=True)
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
        return values

    nearest = (thumbnails(held_out) @ thumbnails(training).T).argmax(axis=1)
    hits = [
        training[j].drawing.concept == picture.drawing.concept
        for j, picture in zip(nearest, held_out, strict=True)
    ]
    return float(np.mean(hits))


def _count(
    drawings: Sequence[Drawing],
    blank: Sequence[Drawing],
    family: str,
    held_out: bool,
    duplicate: int,
) -> dict[str, Any]:
    def of_family(some: Sequence[Drawing]) -> int:
        return sum((STYLES[drawing.style].family == family) == held_out for drawing in some)

    listed, dropped = of_family(drawings), of_family(blank)
    return {
        "listed": listed,
        "obtained": listed,
        "decoded": listed - dropped,
        "duplicate": duplicate,
        "dropped": {"blank": dropped} if dropped else {},
    }


def _write_store(
    folder: Path, pictures: Sequence[Picture], captions: Sequence[str], labels: Sequence[int] | None
) -> None:
    folder.mkdir(parents=True)
    writer = ShardWriter(folder)
    for picture, caption, label in zip(
        pictures, captions, labels or [NO_LABEL] * len(pictures), strict=True
    ):
        writer.add(picture.png, "png", caption, label)
    write_store(folder, *writer.close())


def _attribution(
    tarballs: Mapping[str, Tarball], used: Mapping[str, Sequence[Picture]]
) -> dict[str, Any]:
    """Who drew and wrote what, and under which licence, as each package states it."""
    images = []
    for style, (name, family, copyright_holder) in STYLES.items():
        info = tarballs[name].json("info.json")
        counts = {
            slot: Counter(picture.drawing.style for picture in chosen)[style]
            for slot, chosen in sorted(used.items())
        }
        if any(counts.values()):
            images.append(
                {
                    "style": style,
                    "title": info["name"],
                    "family": family,
                    "package": name,
                    "version": PACKAGES[name].version,
                    "license": info["license"]["spdx"],
                    "license_url": info["license"].get("url"),
                    "copyright": copyright_holder,
                    "source": info["author"].get("url"),
                    "images": counts,
                }
            )
    words = [
        (
            "emojibase-data",
            "MIT",
            "Miles Johnson",
            "names and keywords in captions and class names",
        ),
        (
            "emojibase-data",
            "Unicode-3.0",
            "Unicode, Inc. (CLDR)",
            "the same names and keywords, at their origin",
        ),
    ]
    text = [
        {
            "package": name,
            "version": PACKAGES[name].version,
            "license": license,
            "copyright": holder,
            "use": use,
        }
        for name, license, holder, use in words
    ]
    return {
        "changes": "rasterised, resized, set on white",
        "images": images,
        "text": [*text, WORDNET_CREDIT],
    }
