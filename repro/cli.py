"""Command line: `command` lists every command with the function that it calls and its help.

A command imports that function when it is called, so that `--help` and mistakes take a fraction of
a second. One rule holds for all: what is optional has one default, and the profile's is that of
params.yaml; `--json` prints what programs read.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click

from repro.names import DATASETS, GRAPH_OBJECTIVES, PROTOCOLS, TRIGGERS
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
LISTS = ("profiles", "studies", "triggers", "objectives", "defences", "measures")
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
PORT = click.IntRange(1, 65535)
NAMED = "One of `repro list profiles`; else that of params.yaml."
PROFILE = option("--profile", NAMED, callback=the_profile)
DATASET = choice("--dataset", DATASETS, required=True)
OBJECTIVE = choice("--objective", GRAPH_OBJECTIVES, required=True)
OF_MODEL = (PROFILE, DATASET, OBJECTIVE)
JSON = option("--json", "For programs.", is_flag=True)
AGAIN = option(
    "--again",
    "A finished run to make anew, by its name in `status --json`, such as "
    "clean/cc6m-mmcl/200k-mmcl_ssl-lr0.0005-seed15; may be repeated. Others stay.",
    multiple=True,
)

use(
    "reproduce",
    "reproduce:reproduce",
    "repro reproduce mini --set clean.warmup_steps=20",
    """Run the whole study, data to report, through DVC; at the end it names page and PDF.

    Begin with PROFILE mini; `repro plan --profile mini` says how long it takes here. PROFILE and
    --set hold for this call only, instead of params.yaml. `repro study` runs the other studies.""",
    click.Argument(["profile"], required=False),
    click.Option(["--profile", "same"], help="The same as PROFILE."),
    option(
        "--set",
        "FIELD=VALUE in place of the profile's, such as "
        "'clean.cells.*.learning_rates=[1e-3, 2e-3]'; `repro resolve` writes all fields. May be "
        "repeated. Such runs stand behind no verdict of the report, and `check` leaves them out.",
        multiple=True,
    ),
    AGAIN,
)
use(
    "status",
    "view.status:status",
    "repro status --watch",
    """Show how far every run is, also from another terminal.

    Without --profile it shows the `repro reproduce` that runs, or else the profile of params.yaml.
    A run waits, is queued, runs, has stopped, is done or has failed.""",
    PROFILE,
    option("--study", "A study, instead of the profile."),
    option("--watch", "Redraw until Ctrl-C.", is_flag=True),
    JSON,
)
use(
    "plan",
    "view.plan:plan_command",
    "repro plan --profile paper",
    "Say what a profile costs, before anything runs.",
    PROFILE,
    JSON,
    option("--details", "Runs, EFLOP, hours by device, disk, energy, as Markdown.", is_flag=True),
    option("--table", "Markdown file whose generated block gets the details.", type=FILE),
    option("--gpus", "GPUs for the wall time.", type=click.IntRange(1), default=8),
    option(
        "--utilisation",
        "Share of the GPU's peak, for all precisions.",
        type=click.FloatRange(0, 1, min_open=True),
    ),
    choice("--dataset", DATASETS, "Its runs alone."),
)
use(
    "list",
    "listing:list_command",
    "repro list defences",
    "List what specifications can name, and what there is.",
    click.Argument(["kind"], type=click.Choice(LISTS)),
    JSON,
)
use(
    "report",
    "report.build:report_stage",
    "repro report --profile mini",
    """Build the replication report, of one's own runs or else of the archives.

    The page is report/build/PROFILE/index.html; the PDF beside it needs LaTeX.""",
    PROFILE,
)
use(
    "check",
    "report.check:check_command",
    "repro check",
    """Compare runs with the archived ones, bit for bit or by seeds.

    Are they equal, or within the spread of the archived seeds? TARGET is a profile, by default that
    of params.yaml, or the path of an archive, such as results/studies/bench.jsonl.gz. Status 0 says
    that they are, 1 that they are not, 2 that there is nothing to compare.""",
    click.Argument(["target"], required=False),
    option(
        "--keep",
        "Keep the runs of a profile as the archive results/replicates/NAME.jsonl.gz.",
        metavar="NAME",
    ),
    JSON,
)
use(
    "verify",
    "report.verify:verify_command",
    "repro verify --all",
    "Compute a report again and compare; --all: check every file.",
    click.Argument(["report"], type=FILE, required=False),
    option("--all", "Also data, pairs, models and results.", is_flag=True),
    PROFILE,
    JSON,
)
use(
    "evaluate",
    "evaluate.foreign:evaluate_command",
    "repro evaluate --checkpoint epoch_64.pt --format cleanclip --images val --profile paper",
    "Measure accuracy and attack success of somebody's checkpoint, as JSON.",
    option("--checkpoint", type=FILE, required=True),
    choice("--format", ("cleanclip", "open_clip"), required=True),
    option(
        "--images",
        "ImageNet validation: class folders, archives, or files and a list.",
        type=FILE,
        required=True,
    ),
    PROFILE,
    option("--model", "open_clip's name of another model, such as ViT-B-32."),
    choice("--trigger", TRIGGERS),
    choice("--protocol", PROTOCOLS, "Whose trigger and geometry to use.", default="authors"),
    option("--target", "Class that the attack evokes, a name or a number."),
    prints=True,
)
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
    "run-one",
    "launch.single:step_through",
    "python -m pdb -m repro run-one pretrain --dataset cc3m --objective mmcl",
    "Train one run in this process, for a debugger.",
    click.Argument(["stage"], type=click.Choice(("pretrain", "clean"))),
    *OF_MODEL,
    option("--run", "Its id (default: the first run of these models)."),
    prints=True,
)
study(
    "study",
    "view.stages:study",
    "repro study confirmation --seeds 15",
    "Run the study specs/studies/NAME.yaml, whose results the report shows.",
    click.Argument(["name"]),
    option("--seeds", "One to run, again for more; else all.", type=int, multiple=True),
    option("--variants", "One to run, again for more; else all.", multiple=True),
    option("--dry-run", "Print what would run, with core-hours.", is_flag=True),
    JSON,
    option("--models", "Train this model alone, such as cc6m-mmcl; again for more.", multiple=True),
    AGAIN,
)
study(
    "replay",
    "report.replay:replay",
    "repro replay attack-cleanclip/results --out replayed",
    "Rebuild the report from the authors' result files in FOLDER.",
    click.Argument(["folder"], type=FILE),
    option("--out", type=FILE, required=True),
)
track(
    "omniboard",
    "view.archived_records:browse",
    "repro omniboard --port 9000",
    """Browse recorded and archived runs in Omniboard on this machine.

    It prints the address, and Ctrl-C ends it.""",
    option("--port", type=PORT, default=9000),
)
track(
    "tracking",
    "tracking.server.copies:tracking",
    "repro tracking backfill",
    "Work with the tracking server and the copies of the run records on it.",
    click.Argument(["action"], type=click.Choice(("up", "down", "status", "backfill"))),
    option("--port", "Of the embedded server (up).", type=PORT, default=27117),
)
maintain(
    "publish",
    "report.release:release",
    "repro publish",
    "Build the folder to upload: report, models, metadata.",
    PROFILE,
    option(
        "--seeds",
        "One whose models to pack, again for more; else the first.",
        type=int,
        multiple=True,
    ),
    prints=True,
)
maintain(
    "accept",
    "runs.version:accept",
    "repro accept",
    """Accept an edit of the code if the profile smoke still gives the same digits.

    Trains smoke at the last accepted commit and here, and compares rows, bits and weights.""",
)
maintain(
    "findings",
    "report.pages.findings:write_findings",
    "repro findings",
    "Write the tables of docs/findings.md, data.md and history.md from the archives.",
)
maintain(
    "readme",
    "report.readme:write_blocks",
    "repro readme",
    "Write the generated tables of README.md and specs/README.md.",
)
maintain(
    "counts",
    "plan.forecast:write_counted",
    "repro counts",
    "Count the FLOPs of all profiles' models anew, for `plan`.",
)
stage(
    "run-job",
    "launch.run_job:run_job",
    "repro run-job work/jobs/0.json",
    "Run a job of training runs (the launcher calls this).",
    click.Argument(["job"], type=FILE),
    hidden=True,
)
