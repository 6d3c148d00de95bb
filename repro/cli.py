"""The command line: every command, with its help in its docstring.

One rule holds for all: the profile is the bare argument, `--profile` means the same, and without
either it is that of params.yaml. A command imports the function that it calls when it is called,
so that `--help` and mistakes take a fraction of a second.
"""

import json
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from repro.names import DATASETS, GRAPH_OBJECTIVES, PROTOCOLS, TRIGGERS, Dataset
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
Command = Callable[..., int]


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
            return report_error(error)
    return status


def run(function: Callable[..., Any], *arguments: Any, prints: bool = False, **named: Any) -> int:
    """Call what a command stands for; returns the exit status. A stop signal ends it in order.

    `prints`: the result is printed, a table as JSON.
    """
    end_with_caller()
    try:
        with stoppable():
            result = function(*arguments, **named)
    except Stopped as stopped:
        say_interrupted()
        return 128 + stopped.number

    if prints:
        print(json.dumps(result, indent=1) if isinstance(result, dict) else result)
    return result if isinstance(result, int) else 0


def report_error(error: Exception) -> int:
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


class Ordered(click.Group):
    """Lists its commands in the order of this file."""

    def list_commands(self, context: click.Context) -> list[str]:
        """All names, the hidden ones too."""
        return list(self.commands)


@click.group(
    cls=Ordered,
    no_args_is_help=False,
    context_settings={"terminal_width": 100, "max_content_width": 100},
    epilog="Not listed, each with its own --help: the stages of dvc.yaml (resolve, data, poison, "
    f"pretrain, clean), run-one for a debugger, write for generated text.\n\n{EXIT}",
)
def commands() -> None:
    """Replication of "Effective Backdoor Mitigation Depends on the Pre-training Objective".

    `repro reproduce smoke` shows that all works here, `repro reproduce mini` runs the study at
    small scale. PROFILE is the name of a file of specs/; without one it is that of params.yaml.
    `repro` and `python -m repro` are the same.
    """


def command(name: str, example: str, hidden: bool = False) -> Callable[[Command], click.Command]:
    """A command whose help ends with an example and the exit statuses."""
    # The example is a line of its own, not wrapped into the next.
    return commands.command(name, epilog=f"\b\nExample: {example}\n{EXIT}", hidden=hidden)


def with_profile(function: Command) -> Command:
    """Give a command the argument PROFILE and its alias; the function gets a name that exists."""

    @click.argument("profile", required=False)
    @click.option("--profile", "same", metavar="PROFILE", help="The same as the argument.")
    @wraps(function)
    def named(profile: str | None, same: str | None, **values: Any) -> int:
        # Not at the top: `--help` does without it.
        from repro.profile import chosen_profile

        return function(profile=chosen_profile(one_of(profile, same)), **values)

    return named


def one_of(argument: str | None, option: str | None) -> str | None:
    """The value of an argument that an option may give too."""
    if argument and option and argument != option:
        raise click.UsageError(f"{argument!r} and --profile {option!r} (allowed: one of them)")
    return argument or option


def several(
    name: str, help: str, kind: "click.ParamType[Any]" = click.STRING
) -> Callable[[Any], Any]:
    """An option that takes several values, divided by commas or given one by one."""

    def split(context: click.Context, param: click.Parameter, given: Sequence[str]) -> list[Any]:
        texts = [text.strip() for each in given for text in each.split(",")]
        return [kind.convert(text, param, context) for text in texts]

    metavar = f"{kind.name.upper()}[,...]"
    return click.option(name, multiple=True, callback=split, metavar=metavar, help=help)


FILE = click.Path(path_type=Path)
PORT = click.IntRange(1, 65535)
as_json = click.option("--json", "as_json", is_flag=True, help="For programs.")
dataset = click.option("--dataset", type=click.Choice(list(DATASETS)), required=True)
objective = click.option("--objective", type=click.Choice(GRAPH_OBJECTIVES), required=True)


@command("reproduce", "repro reproduce mini --set clean.warmup_steps=20")
@with_profile
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="FIELD=VALUE",
    help="In place of the profile's value, such as 'clean.cells.*.learning_rates=[1e-3,2e-3]'; "
    "`repro resolve` writes all fields. May be repeated. Such runs stand behind no verdict of the "
    "report, and `check` leaves them out.",
)
def reproduce(profile: str, sets: Sequence[str]) -> int:
    """Run the whole study, data to report, through DVC; at its end it names page and PDF.

    Begin with smoke, then mini; `repro plan mini` says how long it takes here. PROFILE and --set
    are written to params.yaml, and stay there. `repro study` runs the other studies.
    """
    from repro.reproduce import reproduce

    return run(reproduce, profile, sets=sets)


@command("status", "repro status --watch")
@with_profile
@click.option("--study", metavar="NAME", help="A study, instead of the profile.")
@click.option("--watch", is_flag=True, help="Redraw until Ctrl-C.")
@as_json
def status(profile: str, study: str | None, watch: bool, as_json: bool) -> int:
    """Show how far every run is, also from another terminal.

    A run waits, is queued, runs, has stopped, is done or has failed.
    """
    from repro.view.stages import status

    return run(status, profile, study, watch, as_json)


@command("plan", "repro plan paper")
@with_profile
@as_json
@click.option("--gpus", type=click.IntRange(1), default=8, show_default=True, help="For wall time.")
@click.option("--dataset", type=click.Choice(list(DATASETS)), help="Its runs alone.")
def plan(profile: str, as_json: bool, gpus: int, dataset: Dataset | None) -> int:
    """Say what a profile costs, before anything runs: runs, hours by device, disk."""
    from repro.plan.forecast import plan_command

    return run(plan_command, profile, as_json, gpus, dataset)


@command("report", "repro report mini")
@with_profile
def report(profile: str) -> int:
    """Build the replication report, of one's own runs or else of the archives.

    The page is report/build/PROFILE/index.html; the PDF beside it needs LaTeX.
    """
    from repro.report.build import report_stage

    return run(report_stage, profile)


@command("check", "repro check mini")
@click.argument("target", required=False)
@click.option("--profile", "same", metavar="PROFILE", help="The same as TARGET.")
@click.option(
    "--keep",
    metavar="NAME",
    help="Keep the runs of a profile as the archive results/replicates/NAME.jsonl.gz.",
)
@as_json
def check(target: str | None, same: str | None, keep: str | None, as_json: bool) -> int:
    """Compare runs with the archived ones, bit for bit or by seeds.

    Are they equal, or within the spread of the archived seeds? TARGET is a profile, by default that
    of params.yaml, or the path of an archive, such as results/studies/bench.jsonl.gz. Status 0 says
    that they are, 1 that they are not, 2 that there are no runs. An archive whose settings no other
    has ends with 0.
    """
    from repro.report.check import check_command

    return run(check_command, one_of(target, same), keep, as_json)


@command("verify", "repro verify mini --all")
@with_profile
@click.option("--report", type=FILE, help="A report.json instead of that of the profile.")
@click.option(
    "--all", "everything", is_flag=True, help="Also every run; `dvc status` has the rest."
)
@as_json
def verify(profile: str, report: Path | None, everything: bool, as_json: bool) -> int:
    """Compute a report again from the results, and compare every file."""
    from repro.report.verify import verify_command

    return run(verify_command, report, everything, profile, as_json)


@command("study", "repro study confirmation --seed 15,16")
@click.argument("name", required=False)
@click.option("--list", "lists", is_flag=True, help="Names and questions of all studies.")
@several("--seed", "To run; else all.", click.INT)
@several("--variant", "To run; else all.")
@several("--model", "To train alone, such as cc6m-mmcl.")
@click.option("--dry-run", is_flag=True, help="Print what would run, with core-hours.")
@as_json
def study(name: str | None, lists: bool, as_json: bool, **options: Any) -> int:
    """Run the study specs/studies/NAME.yaml, whose results the report shows."""
    if (name is None) != lists:
        raise click.UsageError("allowed: the name of a study, or --list, which names all of them")

    from repro.view.stages import list_studies, study

    if name is None:
        return run(list_studies, as_json)
    return run(study, name, as_json=as_json, **options)


@command(
    "evaluate",
    "repro evaluate paper --checkpoint epoch_64.pt --format cleanclip --images val",
)
@with_profile
@click.option("--checkpoint", type=FILE, required=True)
@click.option("--format", type=click.Choice(("cleanclip", "open_clip")), required=True)
@click.option(
    "--images",
    type=FILE,
    required=True,
    help="ImageNet validation: class folders, or the official archives.",
)
@click.option("--model", help="open_clip's name of another model, such as ViT-B-32.")
@click.option("--trigger", type=click.Choice(list(TRIGGERS)))
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="authors",
    show_default=True,
    help="Whose trigger and geometry to use.",
)
@click.option("--target", help="Class that the attack evokes, a name or a number.")
def evaluate(
    checkpoint: Path, format: str, images: Path, profile: str, model: str | None, **attack: Any
) -> int:
    """Measure accuracy and attack success of somebody's checkpoint, as JSON."""
    from repro.evaluate.foreign import evaluate_foreign

    told = (checkpoint, format, images, profile, model)
    return run(evaluate_foreign, *told, prints=True, **attack)


@command("omniboard", "repro omniboard --port 9000")
@click.option("--port", type=PORT, default=9000, show_default=True)
def omniboard(port: int) -> int:
    """Browse recorded runs in Omniboard on this machine.

    It prints the address, and Ctrl-C ends it.
    """
    from repro.tracking.server.omniboard import omniboard

    return run(omniboard, port)


@command("tracking", "repro tracking backfill")
@click.argument("action", type=click.Choice(("up", "down", "status", "backfill")))
@click.option(
    "--port", type=PORT, default=27117, show_default=True, help="Of the embedded server (up)."
)
def tracking(action: str, port: int) -> int:
    """Work with the tracking server and the copies of the run records on it."""
    from repro.tracking.server.copies import tracking

    return run(tracking, action, port)


@command("publish", "repro publish mini")
@with_profile
@several("--seed", "Whose models to pack; else the first.", click.INT)
def publish(profile: str, seed: list[int]) -> int:
    """Build the folder to upload: report, models, metadata."""
    from repro.report.release import release

    return run(release, profile, seed, prints=True)


@command("write", "repro write", hidden=True)
def write() -> int:
    """Write all generated text: the tables of README.md, specs/README.md and docs.

    It takes them from the archives, and from the report of mini, which must be built.
    """
    from repro.report.readme import write_generated

    return run(write_generated)


@command("resolve", "repro resolve smoke", hidden=True)
@with_profile
def resolve(profile: str) -> int:
    """Write all fields of a profile with their values to results/PROFILE/resolved."""
    from repro.profile import resolve_stage

    return run(resolve_stage, profile)


@command("data", "repro data smoke", hidden=True)
@with_profile
def data(profile: str) -> int:
    """Obtain the image-text pairs and evaluation images."""
    from repro.sources.stage import data_stage

    return run(data_stage, profile)


@command("poison", "repro poison smoke --dataset cc3m", hidden=True)
@with_profile
@dataset
def poison(profile: str, dataset: str) -> int:
    """Poison pairs of a dataset and draw its clean subsets."""
    from repro.data.stages import poison_stage

    return run(poison_stage, profile, dataset)


@command("pretrain", "repro pretrain smoke --dataset cc3m --objective mmcl", hidden=True)
@with_profile
@dataset
@objective
def pretrain(profile: str, dataset: str, objective: str) -> int:
    """Pre-train the model of one dataset and objective."""
    from repro.view.stages import pretrain_stage

    return run(pretrain_stage, profile, dataset, objective)


@command("clean", "repro clean smoke --dataset cc3m --objective mmcl", hidden=True)
@with_profile
@dataset
@objective
def clean(profile: str, dataset: str, objective: str) -> int:
    """Finetune a pre-trained model on clean pairs: every size, loss and learning rate."""
    from repro.view.stages import clean_stage

    return run(clean_stage, profile, dataset, objective)


@command("run-job", "repro run-job work/jobs/0.json", hidden=True)
@click.argument("job", type=FILE)
def run_job(job: Path) -> int:
    """Run a job of training runs (the launcher calls this)."""
    from repro.launch.run_job import run_job

    return run(run_job, job)


@command(
    "run-one",
    "python -m pdb -m repro run-one pretrain smoke --dataset cc3m --objective mmcl",
    hidden=True,
)
@click.argument("stage", type=click.Choice(("pretrain", "clean")))
@with_profile
@dataset
@objective
@click.option("--run", "run_id", help="Its id (default: the first run of these models).")
def run_one(stage: str, profile: str, dataset: str, objective: str, run_id: str | None) -> int:
    """Train one run in this process, for a debugger."""
    from repro.launch.single import step_through

    return run(step_through, stage, profile, dataset, objective, run_id, prints=True)
