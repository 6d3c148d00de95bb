"""`repro.load` and `repro.points`: models and evaluations of the repository it is called in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.ledger import LedgerError
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs.layout import MODELS, RESULTS
from repro.spec import RunSpec, SpecError
from repro.study.models import cleaned_model, command_for, poisoned_model, released_model
from repro.study.spec import archive_of, load_study, study_names

if TYPE_CHECKING:
    import pandas as pd


def load(
    profile: str,
    model_name: str,
    seed: int | None = None,
    clean: str | None = None,
    release: str | Path | None = None,
) -> tuple[Any, Any, Any]:
    """open_clip model in eval mode, preprocessing of a PIL image to (3, H, W), and tokenizer of N
    texts to (N, 77).

    `model_name` is dataset and objective, such as "cc6m-mmcl_ssl". The model is the poisoned one,
    or with `clean`, such as "200k", the cleaned one of Table 1; of the profile's first seed where
    none is given. It is taken from models/, or from the folder `release`, an unpacked release: its
    weights have the hash in their run's record, or in the SHA256SUMS of the release.
    SpecError for a name that the profile lacks, LedgerError for a model that is missing or altered.
    """
    runs = pretrain_runs(load_profile(profile))
    if clean is not None:
        runs = [run for run in clean_runs(load_profile(profile)) if run.keeps_cleaned]
    runs = _chosen(runs, "model_name", model_name)
    if clean is not None:
        runs = _chosen(runs, "clean_size", clean)
    # A study may have trained the model of another seed than the profile's, or a release have it.
    chosen = runs[0].seed if seed is None else seed
    runs = [run.model_copy(update={"seed": chosen}) for run in runs if run.seed == runs[0].seed]
    spec = runs[0]
    if release is not None:
        path = released_model(Path(release), spec)
    elif trained := poisoned_model(spec) if clean is None else cleaned_model(runs):
        path, _ = trained
    else:
        raise LedgerError(_remedy(spec))

    import open_clip
    from safetensors.torch import load_file

    from repro.train.build import build_model
    from repro.train.views.tokens import tokenize

    model = build_model(spec.model, spec.seed, spec.switches.initialisation)
    model.load_state_dict(load_file(path))
    preprocess = open_clip.image_transform(spec.model.vision.image_size, is_train=False)
    return model.eval(), preprocess, partial(tokenize, truncation=spec.switches.truncation)


def _remedy(spec: RunSpec) -> str:
    """What to do about a model that is not there."""
    there = sorted(map(str, MODELS.rglob(f"{spec.profile}/**/model.safetensors")))
    kind = "poisoned"
    only = ""
    if spec.clean_size:
        kind = f"cleaned on {spec.clean_size}"
        only = f", if an ASR of at most {spec.evaluate.asr_cap:.0%} is reached"
    return (
        f"{spec.model_name}, seed {spec.seed}, {kind}: no such model in models/ (there: "
        f"{', '.join(there) or 'no model'}); {command_for(spec)} makes it{only}"
    )


def _chosen(runs: Sequence[RunSpec], field: str, value: object) -> list[RunSpec]:
    """The runs whose field has the value; SpecError if there is none."""
    chosen = [run for run in runs if getattr(run, field) == value]
    if not chosen:
        allowed = ", ".join(dict.fromkeys(str(getattr(run, field)) for run in runs))
        raise SpecError(f"{field}: {value!r} (allowed: {allowed})")
    return chosen


def points(profile: str) -> pd.DataFrame:
    """Every evaluation of a profile, a row each: own runs, whose `study` is empty, and archives.

    Columns are those of repro/report/points.py, shares are fractions. LedgerError if there is none;
    a warning for an archive that is not the committed one.
    """
    import pandas as pd

    from repro.report.points import evaluations, read_runs
    from repro.report.studies import archive_problems, read_study_results

    for problem in archive_problems(profile):
        warnings.warn(problem, stacklevel=2)
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
