"""Command line: each command is a function whose docstring is its help.

A command imports what it calls inside, so that `--help` and mistakes take a fraction of a second.
Exit status: 0 done; 1 the work failed, with a message; 2 the call or a specification is wrong; 128
+ signal: stopped.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
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

ROOT = Path(__file__).resolve().parents[1]
"""The project's folder, where the package was not copied elsewhere."""
USAGE = 2
"""Exit status of a call or specification that is wrong."""

PROTOCOLS = ("authors", "paper")

FILE = click.Path(path_type=Path)


def profile_name(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuse what could lead out of specs/; whether there is such a profile is seen later."""
    if value is not None and not re.fullmatch(r"\w+", value):
        raise click.BadParameter(f"{value!r} (allowed: letters, digits and _)")
    return value


def profile_default(name: str | None, about: str) -> Callable[..., Any]:
    """`--profile` where one is meant if none is named."""
    return click.option(
        "--profile", default=name, show_default=True, callback=profile_name, help=about
    )


profile_option = click.option(
    "--profile",
    required=True,
    callback=profile_name,
    help="Of specs/: smoke, mini, midi, paper, ...",
)
dataset_option = click.option("--dataset", required=True, type=click.Choice(list(DATASETS)))
objective_option = click.option(
    "--objective", required=True, type=click.Choice(get_args(Objective))
)
table_option = click.option(
    "--table", type=FILE, help="Markdown file whose generated block gets the table."
)


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


def run(
    function: Callable[..., Any], *arguments: Any, prints: bool = False, anywhere: bool = False
) -> int:
    """Call what a command stands for; returns the exit status. A stop signal ends it in order.

    `prints`: the result is printed, a table as JSON. `anywhere`: it needs no specifications.
    """
    if not (anywhere or Path("specs").is_dir()):
        folder = ROOT if (ROOT / "specs").is_dir() else "the project's folder"
        raise click.UsageError(f"{Path.cwd()} has no specs/: `cd {folder}` and call again")

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

    # Not at the top: these bring numpy and pydantic, which `--help` does without.
    from repro.ledger import LedgerError
    from repro.spec import SpecError

    # Before the others, for it is a ValueError too.
    if isinstance(error, SpecError):
        print(f"repro: {error}", file=sys.stderr)
        return USAGE
    if isinstance(error, LedgerError | OSError | RuntimeError | ValueError):
        print(f"repro: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    raise error


@click.group(no_args_is_help=False, context_settings={"terminal_width": 100})
def commands() -> None:
    """Replication of "Effective Backdoor Mitigation Depends on the Pre-training Objective".

    `reproduce` runs all of it; data, poison, pretrain, clean and report are its stages.
    """


@commands.command()
@click.argument("profile", required=False, callback=profile_name)
def reproduce(profile: str | None) -> int:
    """Run the whole study, data to report, through DVC.

    PROFILE holds for this call only, instead of that of params.yaml.
    """
    from repro.reproduce import reproduce

    return run(reproduce, profile)


@commands.command()
@profile_option
def resolve(profile: str) -> int:
    """Write all values of a profile, inherited ones included."""
    from repro.profile import resolve_stage

    return run(resolve_stage, profile)


@commands.command()
@profile_option
def data(profile: str) -> int:
    """Obtain the image-text pairs and evaluation images."""
    from repro.sources.stage import data_stage

    return run(data_stage, profile)


@commands.command()
@profile_option
@dataset_option
def poison(profile: str, dataset: str) -> int:
    """Poison pairs of a dataset and draw its clean subsets."""
    from repro.data.stages import poison_stage

    return run(poison_stage, profile, dataset)


@commands.command()
@profile_option
@dataset_option
@objective_option
def pretrain(profile: str, dataset: str, objective: str) -> int:
    """Pre-train the model of one dataset and objective."""
    from repro.launch.driver import pretrain_stage

    return run(pretrain_stage, profile, dataset, objective)


@commands.command()
@profile_option
@dataset_option
@objective_option
def clean(profile: str, dataset: str, objective: str) -> int:
    """Finetune that model on clean pairs, over all settings."""
    from repro.launch.driver import clean_stage

    return run(clean_stage, profile, dataset, objective)


@commands.command("report")
@profile_option
def build_report(profile: str) -> int:
    """Build the replication report from the ledger."""
    from repro.report.build import report_stage

    return run(report_stage, profile)


@commands.command()
@profile_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@table_option
@click.option("--gpus", type=int, help="GPUs for the wall time (default: 8).")
@click.option("--utilisation", type=float, help="Share of the GPU's peak, for all precisions.")
def plan(
    profile: str, as_json: bool, table: Path | None, gpus: int | None, utilisation: float | None
) -> int:
    """Print what a profile costs: runs, EFLOP, hours, disk, energy."""
    from repro.plan.forecast import plan_command

    return run(plan_command, profile, as_json, table, gpus, utilisation)


@commands.command()
@click.argument("name")
@table_option
@click.option("--seeds", type=int, multiple=True, help="One to run, again for more; else all.")
def study(name: str, table: Path | None, seeds: tuple[int, ...]) -> int:
    """Run the study specs/studies/NAME.yaml and print its table.

    With --table nothing is run: the table is made of the archived results.
    """
    from repro.study.run import study_command

    return run(study_command, name, table, list(seeds) or None)


@commands.command()
def accept() -> int:
    """Accept an edit of the code if the profile smoke still gives the same digits.

    Trains smoke at the last accepted commit and here, and compares rows, bits and weights.
    """
    from repro.runs.version import accept

    return run(accept)


@commands.command()
@click.argument("action", type=click.Choice(("up", "down", "status", "backfill")))
@click.option("--port", default=27117, show_default=True, help="Of the embedded server (up).")
def tracking(action: str, port: int) -> int:
    """Work with the tracking server and the copies of the run records on it."""
    from repro.tracking.server.commands import tracking

    return run(tracking, action, port, anywhere=True)


@commands.command()
@click.option("--port", default=9000, show_default=True)
@click.option("--write", is_flag=True, help="Allow notes, tags and deletion.")
def omniboard(port: int, write: bool) -> int:
    """Browse the recorded runs in Omniboard on this machine."""
    from repro.tracking.server.omniboard import omniboard

    return run(omniboard, port, write, anywhere=True)


@commands.command()
@click.option("--checkpoint", type=FILE, required=True)
@click.option("--format", type=click.Choice(("cleanclip", "open_clip")), required=True)
@click.option(
    "--images",
    type=FILE,
    required=True,
    help="ImageNet validation: class folders (by synset or label) or the official archives.",
)
@click.option("--trigger", type=click.Choice(list(TRIGGERS)))
@click.option("--grid", type=FILE, help="With wanet: the field of the attack (.npy).")
@click.option(
    "--strength", default=0.6, show_default=True, help="With wanet: factor on it (CleanCLIP: 1)."
)
@profile_default("paper", "Whose model, prompts and image size to use.")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="authors",
    show_default=True,
    help="Whose trigger and geometry to use.",
)
@click.option("--target", help="Class that the attack evokes, a name or a number.")
@click.option(
    "--place",
    type=click.Choice(("after", "before")),
    default="after",
    show_default=True,
    help="When the trigger is put on: after resizing, or on the file's own pixels.",
)
@click.option("--safetensors", type=FILE, help="Also leave the converted weights here.")
def evaluate(**options: Any) -> int:
    """Measure accuracy and attack success of somebody's checkpoint, as JSON."""
    from repro.evaluate.foreign import evaluate_command

    options["profile_name"] = options.pop("profile")
    return run(lambda: evaluate_command(**options), prints=True)


@commands.command()
@click.argument("folder", type=FILE)
@click.option("--out", type=FILE, required=True)
def replay(folder: Path, out: Path) -> int:
    """Rebuild the report from the authors' result files in FOLDER."""
    from repro.report.replay import replay

    return run(replay, folder, out)


@commands.command()
@click.argument("report", type=FILE, required=False)
@click.option("--all", "everything", is_flag=True, help="Also data, pairs, models and results.")
@profile_default(None, "Whose report or files; else that of params.yaml.")
def verify(report: Path | None, everything: bool, profile: str | None) -> int:
    """Compute a report again and compare; --all: check every file."""
    from repro.report.verify import verify_command

    return run(verify_command, report, everything, profile)


@commands.command()
@profile_default("mini", "Whose studies to tell about.")
def findings(profile: str) -> int:
    """Write the tables of docs/findings.md and docs/mini.md from the archives."""
    from repro.report.pages.findings import write_findings

    return run(write_findings, profile)


@commands.command()
@profile_default("mini", "Whose report to read.")
def readme(profile: str) -> int:
    """Write the generated tables of README.md and specs/README.md."""
    from repro.report.readme import write_blocks

    return run(write_blocks, profile)


@commands.command()
@profile_default("mini", "Whose report to pack.")
def publish(profile: str) -> int:
    """Build the folder to upload: report, ledger, metadata."""
    from repro.report.release import release

    return run(release, profile, prints=True)


@commands.command("run-one")
@click.argument("stage", type=click.Choice(("pretrain", "clean")))
@profile_option
@dataset_option
@objective_option
@click.option("--run", "run_id", help="Its id (default: the first run of the cell).")
def run_one(stage: str, profile: str, dataset: str, objective: str, run_id: str | None) -> int:
    """Train one run in this process: `python -m pdb -m repro run-one ...`."""
    from repro.launch.single import step_through

    return run(step_through, stage, profile, dataset, objective, run_id, prints=True)


@commands.command("run-pack")
@click.argument("pack", type=FILE)
def run_pack(pack: Path) -> int:
    """Run a job of training runs (the launcher calls this)."""
    from repro.launch.pack import run_pack

    return run(run_pack, pack, anywhere=True)
