"""Stages and studies as they are called by hand: with the board; and `repro status`."""

import json
import math
import threading
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.console import Console

from repro.launch import driver
from repro.runs.run import place_of
from repro.spec import Dataset, Objective, SpecError, Stage
from repro.study import run
from repro.study.spec import load_study, study_names
from repro.view.archive import means_of
from repro.view.board import Board, table, watching
from repro.view.watched import View, Watched

PIPE_WIDTH = 200
"""Columns of a table that no terminal shows."""


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
    if not model:
        print(means_of(name, seed, variant))


def status(profile: str, study: str | None, watch: bool, as_json: bool) -> None:
    """Print the state of every run; `watch` keeps the board up until Ctrl-C."""
    watched = Watched.of_study(study) if study else Watched.of_profile(profile)
    if as_json:
        print(json.dumps(content(watched.look()), indent=1, allow_nan=False))
    elif watch:
        Board(watched, watched.look).run(threading.Event())
    else:
        console = Console(highlight=False, markup=False, emoji=False)
        # A pipe has no width; its lines stay whole.
        if not console.is_terminal:
            console.width = PIPE_WIDTH
        console.print(table(watched.look()))


def content(view: View) -> dict[str, Any]:
    """The view as JSON content: shares as fractions, times in seconds."""
    return {
        "title": view.title,
        "began": view.began,
        "left_seconds": view.left,
        "stage": view.stage,
        "runs": [
            {
                "run": place_of(state.spec),
                "profile": state.spec.profile,
                **{name: _finite(value) for name, value in asdict(state).items() if name != "spec"},
                "share": state.share,
                "warning": state.warning,
            }
            for state in view.states
        ],
    }


def _finite(value: object) -> object:
    """The value, or None for the loss of a run that diverged: JSON has no NaN."""
    return value if not isinstance(value, float) or math.isfinite(value) else None
