"""The commands that people call: each with the function that it calls and its help."""

import click

from repro.command import (
    FILE,
    OF_MODEL,
    PROFILE,
    choice,
    commands,
    main,
    maintain,
    option,
    stage,
    study,
    track,
    use,
)
from repro.names import DATASETS, PROTOCOLS, TRIGGERS

__all__ = ["commands", "main"]

LISTS = ("profiles", "studies", "triggers", "objectives", "defences", "measures")
PORT = click.IntRange(1, 65535)
JSON = option("--json", "For programs.", is_flag=True)

use(
    "reproduce",
    "reproduce:reproduce",
    "repro reproduce mini --set clean.warmup_steps=20",
    """Run the whole study, data to report, through DVC; at the end it names page and PDF.

    Begin with PROFILE mini; `repro plan --profile mini` says how long it takes here. PROFILE and
    --set are written to params.yaml, and stay there. `repro study` runs the other studies.""",
    click.Argument(["profile"], required=False),
    click.Option(["--profile", "same"], help="The same as PROFILE."),
    option(
        "--set",
        "FIELD=VALUE in place of the profile's, such as "
        "'clean.cells.*.learning_rates=[1e-3, 2e-3]'; `repro resolve` writes all fields. May be "
        "repeated. Such runs stand behind no verdict of the report, and `check` leaves them out.",
        multiple=True,
    ),
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
    that they are, 1 that they are not, 2 that there are no runs. An archive whose settings no other
    has ends with 0.""",
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
    "Compute a report again and compare; --all: read every run.",
    click.Argument(["report"], type=FILE, required=False),
    option(
        "--all",
        "Also every run; `dvc status` has the rest.",
        is_flag=True,
    ),
    PROFILE,
    JSON,
)
use(
    "evaluate",
    "evaluate.foreign:evaluate_foreign",
    "repro evaluate --checkpoint epoch_64.pt --format cleanclip --images val --profile paper",
    "Measure accuracy and attack success of somebody's checkpoint, as JSON.",
    option("--checkpoint", type=FILE, required=True),
    choice("--format", ("cleanclip", "open_clip"), required=True),
    option(
        "--images",
        "ImageNet validation: class folders, or the official archives.",
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
    "tracking.server.omniboard:omniboard",
    "repro omniboard --port 9000",
    """Browse recorded runs in Omniboard on this machine.

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
