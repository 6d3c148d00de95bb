"""`repro.load` and `repro.points`: models and evaluations of the repository it is called in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from repro.files import file_sha256
from repro.ledger import CLEANED, LedgerError
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs.deliver import best_cleaned
from repro.runs.layout import MODELS, RESULTS, WEIGHTS, cleaned_file, model_dir
from repro.runs.published import RECORD, read_record
from repro.spec import RunSpec, SpecError
from repro.study.spec import archive_of, load_study, study_names

if TYPE_CHECKING:
    import pandas as pd


def load(
    profile: str, cell: str, seed: int | None = None, clean: str | None = None
) -> tuple[Any, Any, Any]:
    """open_clip model in eval mode, preprocessing of a PIL image to (3, H, W), and tokenizer of N
    texts to (N, 77).

    `cell` is dataset and objective, such as "cc6m-mmcl_ssl". The model is the poisoned one, or with
    `clean`, such as "200k", the cleaned one of Table 1; of the first seed where none is given.
    SpecError for a name that the profile lacks, LedgerError for a model that is missing or altered.
    """
    runs = pretrain_runs(load_profile(profile))
    if clean is not None:
        runs = [run for run in clean_runs(load_profile(profile)) if run.keeps_cleaned]
    runs = _chosen(runs, "cell", cell)
    runs = _chosen(runs, "seed", runs[0].seed if seed is None else seed)
    if clean is not None:
        runs = _chosen(runs, "clean_size", clean)
    spec = runs[0]
    path = model_dir(spec) / WEIGHTS[0] if clean is None else cleaned_file(spec)
    if not path.is_file():
        files = sorted((MODELS / profile).rglob("model.safetensors"))
        raise LedgerError(
            f"{path}: missing (there: {', '.join(map(str, files)) or 'no model'}); `make reproduce "
            f"PROFILE={profile}` makes it, a cleaned one if an ASR of at most "
            f"{spec.evaluate.asr_cap:.0%} is reached"
        )
    if clean is None:
        made = read_record(path.with_name(RECORD)).files.get(path.name)
    else:
        best = best_cleaned(runs, RESULTS)
        made = best and best[1].files.get(CLEANED)
    if file_sha256(path) != made:
        stage, run = ("pretrain", "its run") if clean is None else ("clean", "the best run")
        raise LedgerError(
            f"{path}: not the weights that {run} in results/ left; remove the file and call "
            f"`dvc repro --force --single-item {stage}@{profile}-{cell}`"
        )

    import open_clip
    from safetensors.torch import load_file

    from repro.train.model import build_model
    from repro.train.views.tokens import tokenize

    model = build_model(spec.model, spec.seed, spec.switches.initialisation)
    model.load_state_dict(load_file(path))
    preprocess = open_clip.image_transform(spec.model.vision.image_size, is_train=False)
    return model.eval(), preprocess, partial(tokenize, truncation=spec.switches.truncation)


def _chosen(runs: Sequence[RunSpec], field: str, value: object) -> list[RunSpec]:
    """The runs whose field has the value; SpecError if there is none."""
    chosen = [run for run in runs if getattr(run, field) == value]
    if not chosen:
        allowed = ", ".join(dict.fromkeys(str(getattr(run, field)) for run in runs))
        raise SpecError(f"{field}: {value!r} (allowed: {allowed})")
    return chosen


def points(profile: str) -> pd.DataFrame:
    """Every evaluation of a profile, a row each: own runs, whose `study` is empty, and archives.

    Columns are those of repro/report/points.py, shares are fractions. LedgerError if there is none.
    """
    import pandas as pd

    from repro.report.points import evaluations, read_runs
    from repro.report.studies.results import read_study_results

    denominator = load_profile(profile).switches.asr_denominator
    own = evaluations(read_runs(RESULTS / profile), denominator)
    frames = [own, *(study.frame for study in read_study_results(profile))]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        there = {load_study(name).profile for name in study_names() if archive_of(name).is_file()}
        raise LedgerError(
            f"{RESULTS / profile}: no evaluations (archives in results/studies are of: "
            f"{', '.join(sorted(there)) or 'no profile'})"
        )
    return pd.concat(frames, ignore_index=True)
