"""Stages and studies as they are called by hand: with the board."""

import json
from collections.abc import Collection
from functools import partial

from repro.launch import driver
from repro.spec import Dataset, Objective, SpecError, Stage
from repro.study import run
from repro.view.watch import watching
from repro.view.watched import Watched


def pretrain_stage(profile_name: str, dataset: Dataset, objective: Objective) -> None:
    """Pre-train the models of one dataset and objective, one a seed."""
    _train("pretrain", profile_name, dataset, objective)


def clean_stage(profile_name: str, dataset: Dataset, objective: Objective) -> None:
    """Clean the models of one dataset and objective: every size, loss and learning rate."""
    _train("clean", profile_name, dataset, objective)


def _train(stage: Stage, profile_name: str, dataset: Dataset, objective: Objective) -> None:
    with watching(partial(Watched.of_profile, profile_name)):
        driver.train_stage(stage, profile_name, dataset, objective)


def study(
    name: str,
    seeds: Collection[int],
    variants: Collection[str],
    dry_run: bool,
    as_json: bool,
    models: Collection[str],
) -> None:
    """Make a study's runs, or its `models` alone, or say what is due."""
    if models and dry_run:
        raise SpecError("--dry-run: with --models (allowed: --seeds, --variants, --json)")
    if as_json and not dry_run:
        raise SpecError("--json: without --dry-run (allowed: with it)")

    if dry_run:
        due = run.due_runs(name, seeds, variants)
        content = [of._asdict() for of in due]
        print(json.dumps(content, indent=1) if as_json else run.due_text(due))
        return
    with watching(partial(Watched.of_study, name, seeds, variants, models)):
        run.run_study(name, seeds, variants, models)
