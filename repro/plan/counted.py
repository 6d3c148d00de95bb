"""What was counted of the profiles' models, from a file, so that their forecast needs no torch."""

from functools import cache
from pathlib import Path
from typing import Any

from repro.files import read_json, replace_json
from repro.plan.assumptions import Assumptions, num_evaluation_images
from repro.plan.work import Counts, kind_of
from repro.profile import clean_runs, load_classnames, pretrain_runs
from repro.runs.layout import WORK
from repro.spec import Profile, RunSpec, digest

COUNTED = Path(__file__).with_name("counted.json")
"""By digest of what it follows from; `python -m repro counts` writes it."""
COUNTED_HERE = WORK / "counted.json"
"""In the same form, models of profiles of one's own, counted when they were first asked for."""


@cache
def counted() -> dict[str, Any]:
    """The content of both files."""
    return (read_json(COUNTED_HERE) or {}) | (read_json(COUNTED) or {})


def _keep(key: str, count: dict[str, Any] | int) -> None:
    counted()[key] = count
    WORK.mkdir(exist_ok=True)
    replace_json(COUNTED_HERE, (read_json(COUNTED_HERE) or {}) | {key: count}, sync=False)


def counts_of(profile: Profile, assumptions: Assumptions) -> Counts:
    """FLOPs of the profile's model, with captions as long as its data have them."""
    whole = profile.pretrain.text_parts == 1
    tokens = assumptions.caption_tokens if whole else assumptions.caption_tokens_in_parts
    length, images = tokens[profile.data.source.kind], num_evaluation_images(profile)
    runs = [*pretrain_runs(profile), *clean_runs(profile)]
    key = digest(
        [
            profile.pretrain.model.model_dump(mode="json"),
            sorted({(kind_of(run), run.num_views) for run in runs}),
            [profile.evaluate.templates, load_classnames(profile), profile.switches.truncation],
            [length, images],
        ]
    )
    if key not in counted():
        # Not at the top: torch takes seconds to load.
        from repro.plan.flops import count

        _keep(key, count(profile, length, images)._asdict())
    return Counts(**counted()[key])


def group_bytes_of(spec: RunSpec) -> int:
    """Bytes that backward keeps of a BatchNorm group of the run."""
    size = spec.schedule.norm_batch_size
    key = digest([spec.model.model_dump(mode="json"), spec.num_views, size, spec.precision])
    if key not in counted():
        from repro.train.gradient_cache import group_bytes

        _keep(key, group_bytes(spec))
    return int(counted()[key])
