"""Command line: `command` lists every command with the function that it calls and its help.

A command imports that function when it is called, so that `--help` and mistakes take a fraction of
a second. Exit status: 0 done; 1 the work failed, with a message; 2 the call or a specification is
wrong; 128 + signal: stopped.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, get_args

import click

from repro.names import DATASETS, TRIGGERS, Objective
from repro.runs.signals import (
    Stopped,
    end_with_caller,
    leaving_at_once,
    say_interrupted,
    stoppable,
)

USAGE = 2
"""Exit status of a call or specification that is wrong."""
PROTOCOLS = ("authors", "paper")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status. What failed is one message on standard error."""
    # Modules load inside, which can take seconds; `run` takes over while the command works.
    with leaving_at_once():
        try:
            status: int = commands.main(argv, prog_name="repro", standalone_mode=False)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "repro"
            hint = f"`python -m {path} --help` says more"
            print(f"{path}: {error.format_message()} ({hint})", file=sys.stderr)
            return USAGE
        except Exception as error:
            return report(error)
    return status


def run(function: Callable[..., Any], *arguments: Any, prints: bool = False) -> int:
    """Call what a command stands for; returns the exit status. A stop signal ends it in order.

    `prints`: the result is printed, a table as JSON.
    """
    end_with_caller()
    try:
        with stoppable():
            result = function(*arguments)
    except Stopped as stopped:
        say_interrupted()
        return 128 + stopped.number

    if prints:
        print(json.dumps(result, indent=1) if isinstance(result, dict) else result)
    return result if isinstance(result, int) else 0


def report(error: Exception) -> int:
    """Print in one message what is wrong; returns the exit status.

    An error that nobody foresaw is raised again.
    """
    if isinstance(error, ModuleNotFoundError) and not (error.name or "repro").startswith("repro"):
        remedy = "`make setup`, then `source .venv/bin/activate`, and call again"
        print(f"repro: {sys.executable} has no package {error.name!r}: {remedy}", file=sys.stderr)
        return USAGE

    # Not at the top: it brings pydantic, which `--help` does without.
    from repro.spec import SpecError

    # Before the others, for it is a ValueError too.
    if isinstance(error, SpecError):
        print(f"repro: {error}", file=sys.stderr)
        return USAGE
    if isinstance(error, OSError | RuntimeError | ValueError):
        print(f"repro: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    raise error


@click.group(no_args_is_help=False, context_settings={"terminal_width": 100})
def commands() -> None:
    """Replication of "Effective Backdoor Mitigation Depends on the Pre-training Objective".

    `reproduce` runs all of it; data, poison, pretrain, clean and report are its stages.
    """


def command(
    name: str, target: str, help: str, *params: click.Parameter, prints: bool = False
) -> None:
    """Add a command that calls `target` (module:function) with the values of `params` in order."""

    def callback(**values: Any) -> int:
        call = resolve_name(f"repro.{target}")
        return run(call, *(values[str(param.name)] for param in params), prints=prints)

    commands.add_command(click.Command(name, callback=callback, params=list(params), help=help))


def option(name: str, help: str | None = None, **settings: Any) -> click.Option:
    """An option whose help shows its default, if it has one."""
    return click.Option([name], help=help, show_default="default" in settings, **settings)


def choice(name: str, values: Iterable[str], help: str | None = None, **how: Any) -> click.Option:
    """An option that takes one of some words."""
    return option(name, help, type=click.Choice(list(values)), **how)


FILE = click.Path(path_type=Path)
PORT = click.IntRange(1, 65535)
PROFILE = option("--profile", "Of specs/: smoke, mini, midi, paper, ...", required=True)
DATASET = choice("--dataset", DATASETS, required=True)
CELL = (PROFILE, DATASET, choice("--objective", get_args(Objective), required=True))

command(
    "reproduce",
    "reproduce:reproduce",
    """Run the whole study, data to report, through DVC.

    PROFILE holds for this call only, instead of that of params.yaml.""",
    click.Argument(["profile"], required=False),
)
command(
    "resolve",
    "profile:resolve_stage",
    "Write all values of a profile, inherited ones included.",
    PROFILE,
)
command(
    "data",
    "sources.stage:data_stage",
    "Obtain the image-text pairs and evaluation images.",
    PROFILE,
)
command(
    "poison",
    "data.stages:poison_stage",
    "Poison pairs of a dataset and draw its clean subsets.",
    PROFILE,
    DATASET,
)
command(
    "pretrain",
    "launch.driver:pretrain_stage",
    "Pre-train the model of one dataset and objective.",
    *CELL,
)
command(
    "clean",
    "launch.driver:clean_stage",
    "Finetune a pre-trained model on clean pairs: every size, loss and learning rate.",
    *CELL,
)
command(
    "report", "report.build:report_stage", "Build the replication report from the ledger.", PROFILE
)
command(
    "plan",
    "plan.forecast:plan_command",
    "Print what a profile costs: runs, EFLOP, hours, disk, energy.",
    PROFILE,
    option("--json", "For programs.", is_flag=True),
    option("--table", "Markdown file whose generated block gets the table.", type=FILE),
    option("--gpus", "GPUs for the wall time.", type=click.IntRange(1), default=8),
    option(
        "--utilisation",
        "Share of the GPU's peak, for all precisions.",
        type=click.FloatRange(0, 1, min_open=True),
    ),
    choice("--dataset", DATASETS, "Its runs alone."),
)
command(
    "study",
    "study.run:run_study",
    "Run the study specs/studies/NAME.yaml, whose results the report shows.",
    click.Argument(["name"]),
    option("--seeds", "One to run, again for more; else all.", type=int, multiple=True),
    option("--variants", "One to run, again for more; else all.", multiple=True),
    option("--dry-run", "Print what would run, with core-hours.", is_flag=True),
    option("--models", "Train this model alone, such as cc6m-mmcl; again for more.", multiple=True),
)
command(
    "accept",
    "runs.version:accept",
    """Accept an edit of the code if the profile smoke still gives the same digits.

    Trains smoke at the last accepted commit and here, and compares rows, bits and weights.""",
)
command(
    "tracking",
    "tracking.server.copies:tracking",
    "Work with the tracking server and the copies of the run records on it.",
    click.Argument(["action"], type=click.Choice(("up", "down", "status", "backfill"))),
    option("--port", "Of the embedded server (up).", type=PORT, default=27117),
)
command(
    "omniboard",
    "tracking.server.omniboard:omniboard",
    "Browse the recorded runs in Omniboard on this machine.",
    option("--port", type=PORT, default=9000),
)
command(
    "evaluate",
    "evaluate.foreign:evaluate_command",
    "Measure accuracy and attack success of somebody's checkpoint, as JSON.",
    option("--checkpoint", type=FILE, required=True),
    choice("--format", ("cleanclip", "open_clip"), required=True),
    option(
        "--images",
        "ImageNet validation: class folders, archives, or files and a list.",
        type=FILE,
        required=True,
    ),
    option("--profile", "Whose model, image size and prompts to use.", default="paper"),
    option("--model", "open_clip's name of another model, such as ViT-B-32."),
    choice("--trigger", TRIGGERS),
    choice("--protocol", PROTOCOLS, "Whose trigger and geometry to use.", default="authors"),
    option("--target", "Class that the attack evokes, a name or a number."),
    prints=True,
)
command(
    "replay",
    "report.replay:replay",
    "Rebuild the report from the authors' result files in FOLDER.",
    click.Argument(["folder"], type=FILE),
    option("--out", type=FILE, required=True),
)
command(
    "verify",
    "report.verify:verify_command",
    "Compute a report again and compare; --all: check every file.",
    click.Argument(["report"], type=FILE, required=False),
    option("--all", "Also data, pairs, models and results.", is_flag=True),
    option("--profile", "Whose report or files; else that of params.yaml."),
)
command(
    "check",
    "report.check:check_command",
    """Compare runs with the archives: equal bit for bit, or like the archived seeds?

    TARGET is a profile, by default that of params.yaml, or an archive (.jsonl.gz). Exit status: 0
    like the archive, 1 not, 2 nothing to compare.""",
    click.Argument(["target"], required=False),
    option("--json", "For programs.", is_flag=True),
)
command(
    "findings",
    "report.pages.findings:write_findings",
    "Write the tables of docs/findings.md, data.md and history.md from the archives.",
)
command(
    "readme",
    "report.readme:write_blocks",
    "Write the generated tables of README.md and specs/README.md.",
)
command(
    "publish",
    "report.release:release",
    "Build the folder to upload: report, models, metadata.",
    option("--profile", "Whose report to pack.", default="mini"),
    option(
        "--seeds",
        "One whose models to pack, again for more; else the first.",
        type=int,
        multiple=True,
    ),
    prints=True,
)
command(
    "run-one",
    "launch.single:step_through",
    "Train one run in this process: `python -m pdb -m repro run-one ...`.",
    click.Argument(["stage"], type=click.Choice(("pretrain", "clean"))),
    *CELL,
    option("--run", "Its id (default: the first run of the cell)."),
    prints=True,
)
command(
    "run-pack",
    "launch.pack:run_pack",
    "Run a job of training runs (the launcher calls this).",
    click.Argument(["pack"], type=FILE),
)
