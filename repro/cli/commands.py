"""The sub-commands of `python -m repro`: what each is for, what it takes and what it calls.

Only names stand here, so that parsing imports nothing heavy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As in repro/spec.py, whose import would bring pydantic with it.
DATASETS = ("cc3m", "cc6m")
OBJECTIVES = ("mmcl", "mmcl_ssl")
TRIGGERS = ("badnet", "blended", "sig", "wanet", "yellow")
PROTOCOLS = ("authors", "paper")


@dataclass(frozen=True)
class Option:
    """One argument of a command: its name, and the keywords of argparse's `add_argument`."""

    name: str
    keywords: dict[str, Any]
    names: str = ""
    """Glob of the folders or files whose names are allowed, from the project's folder."""

    @property
    def dest(self) -> str:
        """Name under which argparse keeps the value."""
        return self.name.lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Command:
    """One sub-command."""

    name: str
    help: str
    example: str
    function: str
    """`module:function`: gets the options in their order; a number it returns is the status."""
    options: tuple[Option, ...]
    prints: bool = False
    """Whether what the function returns is printed, a table as JSON."""
    needs: tuple[str, ...] = ("specs",)
    """Folders of which one must be in the working folder; none where any folder will do."""


def option(name: str, *, names: str = "", **keywords: Any) -> Option:
    """An `Option`, written as a call of argparse would be."""
    return Option(name, keywords, names)


PROFILES = "specs/*/data.yaml"
STUDIES = "specs/studies/*.yaml"
RECORDED = ("specs", "sacred")
"""Either shows that records of runs belong here."""
PROFILE = option(
    "--profile", names=PROFILES, required=True, help="a folder of specs/: smoke, mini, midi, paper"
)
DATASET = option("--dataset", required=True, choices=DATASETS)
OBJECTIVE = option("--objective", required=True, choices=OBJECTIVES)
TABLE = option("--table", type=Path, help="Markdown file whose generated block gets the table")

COMMANDS = (
    # The whole, for whoever wants no more than the report.
    Command(
        "reproduce",
        "run the whole study, data to report, through DVC",
        "reproduce smoke",
        "repro.cli.reproduce:reproduce",
        (
            option(
                "profile",
                names=PROFILES,
                nargs="?",
                help="for this call only, instead of params.yaml's",
            ),
        ),
    ),
    # The graph of dvc.yaml calls these, up to `report`; `fetch` comes before it at full scale.
    Command(
        "data",
        "obtain the image-text pairs and evaluation images",
        "data --profile smoke",
        "repro.sources.stage:data_stage",
        (PROFILE,),
    ),
    Command(
        "fetch",
        "download CC3M or CC12M from a URL list or a mirror; calling again goes on",
        "fetch cc3m --list Train_GCC-training.tsv",
        "repro.sources.download.fetch:fetch",
        (
            option("collection", choices=("cc3m", "cc12m")),
            option(
                "--list",
                type=Path,
                help="the published tsv; without it, the mirror in specs/mirrors.yaml",
            ),
            option(
                "--profile",
                names=PROFILES,
                default="paper",
                help="whose folder and image size to use",
            ),
            option(
                "--processes",
                type=int,
                default=os.cpu_count() or 1,
                help="each with 64 connections",
            ),
            option(
                "--allow-network",
                action="append",
                default=[],
                metavar="CIDR",
                help="private network that may be asked too",
            ),
        ),
        prints=True,
    ),
    Command(
        "poison",
        "poison pairs of a dataset and draw its clean subsets",
        "poison --profile smoke --dataset cc3m",
        "repro.data.stages:poison_stage",
        (PROFILE, DATASET),
    ),
    Command(
        "pretrain",
        "pre-train the model of one dataset and objective",
        "pretrain --profile smoke --dataset cc3m --objective mmcl",
        "repro.launch.driver:pretrain_stage",
        (PROFILE, DATASET, OBJECTIVE),
    ),
    Command(
        "clean",
        "finetune that model on clean pairs, over all losses, sizes and learning rates",
        "clean --profile smoke --dataset cc3m --objective mmcl",
        "repro.launch.driver:clean_stage",
        (PROFILE, DATASET, OBJECTIVE),
    ),
    Command(
        "report",
        "build the replication report from the ledger",
        "report --profile smoke",
        "repro.report.build:report_stage",
        (PROFILE,),
    ),
    # Around the graph: what it will cost, how results vary, what runs have told.
    Command(
        "plan",
        "what a profile costs, before anything runs: runs, EFLOP, hours, disk, energy",
        "plan --profile paper --gpus 8",
        "repro.plan.forecast:plan_command",
        (
            PROFILE,
            option("--json", action="store_true", help="for programs"),
            TABLE,
            option(
                "--gpus",
                type=int,
                help="devices for the wall time (default: 8, or this machine's with --calibrate)",
            ),
            option(
                "--utilisation",
                type=float,
                help="share of the device's peak, instead of that of specs/plan.yaml",
            ),
            option(
                "--calibrate",
                action="store_true",
                help="time this machine's steps for up to a minute, instead of assuming a device",
            ),
        ),
    ),
    Command(
        "study",
        "run a study of specs/studies and print its table; with --table run nothing",
        "study seeds",
        "repro.study.run:study_command",
        (
            option("name", names=STUDIES, help="a file of specs/studies, without .yaml"),
            TABLE,
            option("--seeds", type=int, nargs="+", help="those to run; all if none"),
        ),
    ),
    Command(
        "tracking",
        "the tracking server and the copies of the run records on it",
        "tracking status",
        "repro.tracking.server.commands:tracking",
        (
            option(
                "action",
                choices=("up", "down", "status", "backfill", "reap", "dump", "restore"),
            ),
            option("file", type=Path, nargs="?", help="where dump writes and restore reads"),
            option("--port", type=int, default=27117, help="of the embedded server (up)"),
        ),
        needs=RECORDED,
    ),
    Command(
        "omniboard",
        "browse the recorded runs in Omniboard on this machine",
        "omniboard --port 9000",
        "repro.tracking.server.omniboard:omniboard",
        (
            option("--port", type=int, default=9000),
            option("--write", action="store_true", help="allow notes, tags and deletion"),
        ),
        needs=RECORDED,
    ),
    # Models and results of others, held to the same yardstick.
    Command(
        "evaluate",
        "zero-shot accuracy and attack success of a foreign checkpoint, as JSON",
        "evaluate --checkpoint epoch_64.pt --format cleanclip --images validation --trigger badnet",
        "repro.evaluate.foreign:evaluate_command",
        (
            option("--checkpoint", type=Path, required=True),
            option("--format", choices=("cleanclip", "open_clip"), required=True),
            option(
                "--images",
                type=Path,
                required=True,
                help="ImageNet validation: class folders, labels.csv or the official tar",
            ),
            option("--trigger", choices=TRIGGERS),
            option(
                "--grid",
                type=Path,
                help="with wanet: the field the model was trained with (.npy)",
            ),
            option(
                "--strength",
                type=float,
                default=0.6,
                help="with wanet: factor on the field (CleanCLIP: 1)",
            ),
            option(
                "--profile",
                names=PROFILES,
                default="paper",
                help="whose model, prompts and image size to use",
            ),
            option(
                "--protocol",
                choices=PROTOCOLS,
                default="authors",
                help="whose trigger and geometry to use",
            ),
            option("--target", help="class that the attack evokes, a name or a number"),
            option(
                "--place",
                choices=("after", "before"),
                default="after",
                help="when the trigger is put on: after resizing, or on the file's own pixels",
            ),
            option("--safetensors", type=Path, help="also leave the converted weights here"),
        ),
        prints=True,
    ),
    Command(
        "replay",
        "rebuild the report from the authors' published result files",
        "replay results_of_the_authors --out replayed",
        "repro.report.replay:replay",
        (option("folder", type=Path), option("--out", type=Path, required=True)),
    ),
    # What has been made: checked, written into the documents, varied, handed on.
    Command(
        "verify",
        "compute a report again and compare; with --all, hold every file to its hashes",
        "verify --all --profile smoke",
        "repro.report.verify_all:verify_command",
        (
            option("report", type=Path, nargs="?", help="a report.json"),
            option("--all", action="store_true", help="also data, pairs, models and results"),
            option(
                "--profile",
                names=PROFILES,
                help="whose report or files; without it, that of params.yaml",
            ),
        ),
    ),
    Command(
        "findings",
        "write docs/findings.md from the results of the studies",
        "findings",
        "repro.report.pages.findings:write_findings",
        (option("--profile", names=PROFILES, default="mini", help="whose studies to tell about"),),
    ),
    Command(
        "readme",
        "write the generated tables of README.md and specs/README.md",
        "readme",
        "repro.report.pages.readme:write_blocks",
        (option("--profile", names=PROFILES, default="mini", help="whose report to read"),),
    ),
    Command(
        "derive",
        "write a profile like another but for the values of a file",
        "derive paper rehearsal specs/rehearsal.yaml",
        "repro.study.derive:derive",
        (
            option("base", names=PROFILES),
            option("name"),
            option(
                "overrides",
                type=Path,
                help="YAML: dotted paths with values, such as `pretrain.seeds: [1]`",
            ),
        ),
        prints=True,
    ),
    Command(
        "publish",
        "build the folder to upload: report, ledger, metadata",
        "publish --profile mini",
        "repro.report.release:release",
        (option("--profile", names=PROFILES, default="mini"),),
        prints=True,
    ),
    # A single process of the chain, for a debugger or called by the process above it.
    Command(
        "run-one",
        "train one run in this process, to step through it: python -m pdb -m repro run-one ...",
        "run-one pretrain --profile smoke --dataset cc3m --objective mmcl",
        "repro.cli.single:step_through",
        (
            option("stage", choices=("pretrain", "clean")),
            PROFILE,
            DATASET,
            OBJECTIVE,
            option("--run", help="its id (default: the first run of the cell)"),
        ),
        prints=True,
    ),
    Command(
        "run-pack",
        "run a pack of training runs (the launcher calls this)",
        "run-pack work/packs/0123456789abcdef.1.json",
        "repro.launch.pack:run_pack",
        (option("pack", type=Path),),
        needs=(),
    ),
)
