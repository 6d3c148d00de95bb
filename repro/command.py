"""What a command is, and the commands that are stages of the graph; repro/cli.py has the others.

A command imports the function that it calls when it is called, so that `--help` and mistakes take a
fraction of a second. One rule holds for all: what is optional has one default, and the profile's is
that of params.yaml; `--json` prints what programs read.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click

from repro.names import DATASETS, GRAPH_OBJECTIVES
from repro.runs.signals import (
    Stopped,
    end_with_caller,
    leaving_at_once,
    say_interrupted,
    stoppable,
)

USAGE = 2
"""Exit status of a call or specification that is wrong."""
EXIT = "Exit status: 0 done; 1 the work failed; 2 a wrong call or specification; 128 + n: signal n."
GROUPS: dict[str, list[str]] = {
    heading: [] for heading in ("Use", "Stages", "Studies", "Tracking", "Maintenance")
}
"""Commands by heading, in the order of `--help`."""


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


class Grouped(click.Group):
    """Lists its commands under headings."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each of GROUPS, its commands in the order of this file."""
        width = formatter.width - 6 - max(map(len, self.commands))
        for heading, names in GROUPS.items():
            listed = [self.commands[name] for name in names]
            with formatter.section(heading):
                formatter.write_dl(
                    [(str(of.name), of.get_short_help_str(width)) for of in listed if not of.hidden]
                )


@click.group(
    cls=Grouped,
    no_args_is_help=False,
    context_settings={"terminal_width": 100, "max_content_width": 100},
    epilog=EXIT,
)
def commands() -> None:
    """Replication of "Effective Backdoor Mitigation Depends on the Pre-training Objective".

    `repro reproduce` runs the study. A command that takes a profile works on that of params.yaml
    where none is named; `repro list profiles` has all of them, and says which that is. `repro` and
    `python -m repro` are the same.
    """


def command(
    name: str,
    target: str,
    example: str,
    help: str,
    *params: click.Parameter,
    heading: str,
    prints: bool = False,
    hidden: bool = False,
) -> None:
    """Add a command that calls `target` (module:function) with the values of `params` in order."""

    def callback(**values: Any) -> int:
        call = resolve_name(f"repro.{target}")
        return run(call, *(values[str(param.name)] for param in params), prints=prints)

    GROUPS[heading].append(name)
    commands.add_command(
        click.Command(
            name,
            # The example is a line of its own, not wrapped into the next.
            epilog=f"\b\nExample: {example}\n{EXIT}",
            callback=callback,
            params=list(params),
            help=help,
            hidden=hidden,
        )
    )


use, stage, study, track, maintain = (partial(command, heading=heading) for heading in GROUPS)


def option(name: str, help: str | None = None, **settings: Any) -> click.Option:
    """An option whose help shows its default, if it has one."""
    return click.Option([name], help=help, show_default="default" in settings, **settings)


def choice(name: str, values: Iterable[str], help: str | None = None, **how: Any) -> click.Option:
    """An option that takes one of some words."""
    return option(name, help, type=click.Choice(list(values)), **how)


def the_profile(_: click.Context, __: click.Parameter, name: str | None) -> str:
    """The profile that was named, or that of params.yaml."""
    # Not at the top: `--help` does without it.
    from repro.profile import chosen_profile

    return chosen_profile(name)


FILE = click.Path(path_type=Path)
NAMED = "One of `repro list profiles`; else that of params.yaml."
PROFILE = option("--profile", NAMED, callback=the_profile)
DATASET = choice("--dataset", DATASETS, required=True)
OBJECTIVE = choice("--objective", GRAPH_OBJECTIVES, required=True)
OF_MODEL = (PROFILE, DATASET, OBJECTIVE)

stage(
    "resolve",
    "profile:resolve_stage",
    "repro resolve",
    "Write all fields of a profile with their values to results/PROFILE/resolved.",
    PROFILE,
)
stage(
    "data",
    "sources.stage:data_stage",
    "repro data --profile smoke",
    "Obtain the image-text pairs and evaluation images.",
    PROFILE,
)
stage(
    "poison",
    "data.stages:poison_stage",
    "repro poison --dataset cc3m",
    "Poison pairs of a dataset and draw its clean subsets.",
    PROFILE,
    DATASET,
)
stage(
    "pretrain",
    "view.stages:pretrain_stage",
    "repro pretrain --dataset cc3m --objective mmcl",
    "Pre-train the model of one dataset and objective.",
    *OF_MODEL,
)
stage(
    "clean",
    "view.stages:clean_stage",
    "repro clean --dataset cc3m --objective mmcl",
    "Finetune a pre-trained model on clean pairs: every size, loss and learning rate.",
    *OF_MODEL,
)
stage(
    "run-job",
    "launch.run_job:run_job",
    "repro run-job work/jobs/0.json",
    "Run a job of training runs (the launcher calls this).",
    click.Argument(["job"], type=FILE),
    hidden=True,
)
