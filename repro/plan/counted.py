"""What was counted of the profiles' models, from a file, so that their forecast needs no torch."""

from functools import cache
from pathlib import Path
from typing import Any

from repro.files import read_json, replace_json
from repro.plan.assumptions import Assumptions, num_evaluation_images
from repro.plan.work import Counts, kind_of
from repro.profile import load_classnames, runs_of
from repro.runs.layout import WORK
from repro.spec import Profile, RunSpec, digest

COUNTED = Path(__file__).with_name("counted.json")
"""By digest of what it follows from; `python -m repro write` writes it."""
COUNTED_HERE = WORK / "counted.json"
"""In the same form, models of profiles of one's own, counted when they were first asked for."""


@cache
def counted() -> dict[str, Any]:
    """The content of both files."""
    here = read_json(COUNTED_HERE) or {}
    return here | (read_json(COUNTED) or {})


def _keep(key: str, count: dict[str, Any] | int) -> None:
    counted()[key] = count
    WORK.mkdir(exist_ok=True)
    here = read_json(COUNTED_HERE) or {}
    replace_json(COUNTED_HERE, here | {key: count}, sync=False)


def counts_of(profile: Profile, assumptions: Assumptions) -> Counts:
    """FLOPs of the profile's model, with captions as long as its data have them."""
    whole = profile.pretrain.text_parts == 1
    tokens = assumptions.caption_tokens if whole else assumptions.caption_tokens_in_parts
    length = tokens[profile.data.source.kind]
    images = num_evaluation_images(profile)

    key = digest([*_what_counts(profile), [length, images]])
    if key not in counted():
        # Not at the top: torch takes seconds to load.
        from repro.plan.flops import count

        _keep(key, count(profile, length, images)._asdict())
    return Counts(**counted()[key])


def _what_counts(profile: Profile) -> list[Any]:
    """What the FLOPs follow from but for the data: model, losses and prompts."""
    model = profile.pretrain.model.model_dump(mode="json")
    kinds = {(kind_of(run), run.num_views) for run in runs_of(profile)}
    prompts = [profile.evaluate.templates, load_classnames(profile), profile.switches.truncation]
    return [model, sorted(kinds), prompts]


def group_bytes_of(spec: RunSpec) -> int:
    """Bytes that backward keeps of a BatchNorm group of the run."""
    size = spec.schedule.norm_batch_size
    model = spec.model.model_dump(mode="json")
    key = digest([model, spec.num_views, size, spec.precision])
    if key not in counted():
        from repro.train.gradient_cache import group_bytes

        _keep(key, group_bytes(spec))
    return int(counted()[key])
