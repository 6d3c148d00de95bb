"""Stages and studies as they are called by hand: with the board."""

import json
from collections.abc import Collection
from functools import partial

from repro.launch import driver
from repro.spec import Dataset, Objective, SpecError, Stage
from repro.study import run
from repro.study.spec import load_study, study_names
from repro.view.board import watching
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


def list_studies(as_json: bool) -> None:
    """Print name and question of every study."""
    questions = {name: load_study(name).question for name in study_names()}
    if as_json:
        print(json.dumps(questions, indent=1, ensure_ascii=False))
        return
    width = max(map(len, questions), default=0)
    for name, question in questions.items():
        print(f"{name:{width}}  {question}")


def study(
    name: str,
    seed: Collection[int],
    variant: Collection[str],
    model: Collection[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a study's runs, or the models of these names alone, or say what is due."""
    if model and dry_run:
        raise SpecError("--dry-run: with --model (allowed: --seed, --variant, --json)")
    if as_json and not dry_run:
        raise SpecError("--json: without --dry-run (allowed: with it)")

    if dry_run:
        due = run.due_runs(name, seed, variant)
        content = [of._asdict() for of in due]
        print(json.dumps(content, indent=1) if as_json else run.due_text(due))
        return
    with watching(partial(Watched.of_study, name, seed, variant, model)):
        run.run_study(name, seed, variant, model)
