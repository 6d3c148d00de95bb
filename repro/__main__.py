"""Command line: one sub-command a stage, plus tools around them (`repro.commands`). Parses, calls, reports errors.

Exit codes: 0 done; 1 the work failed, with a message; 2 the call or a specification is wrong; 128 + signal: stopped.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from repro.commands import COMMANDS, Command
from repro.runs.signals import (
    Stopped,
    end_with_caller,
    leaving_at_once,
    say_interrupted,
    stoppable,
)


def build_parser() -> argparse.ArgumentParser:
    """All sub-commands; nothing heavy is imported to parse."""
    parser = argparse.ArgumentParser(prog="repro", description="The replication, step by step.")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        added = parsers.add_parser(
            command.name,
            help=command.help,
            description=command.help,
            epilog=f"example: python -m repro {command.example}",
        )
<<<<<<< HEAD
        added.set_defaults(chosen=command)
        for each in command.options:
            added.add_argument(each.name, **each.keywords)
=======
        if "dataset" in axes:
            command.add_argument("--dataset", required=True, choices=DATASETS)
        if "objective" in axes:
            command.add_argument("--objective", required=True, choices=OBJECTIVES)
        return command

    stage("data", "obtain the image-text pairs and evaluation images")
    command = commands.add_parser(
        "fetch", help="download CC3M or CC12M from a URL list or a mirror; calling again goes on"
    )
    command.add_argument("collection", choices=("cc3m", "cc12m"))
    command.add_argument(
        "--list", type=Path, help="the published tsv; without it, the mirror in specs/mirrors.yaml"
    )
    command.add_argument("--profile", default="paper", help="whose folder and image size to use")
    command.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="each with 64 connections"
    )
    command.add_argument(
        "--allow-network",
        action="append",
        default=[],
        metavar="CIDR",
        help="private network that may be asked too",
    )
    stage("poison", "poison pairs of a dataset and draw its clean subsets", "dataset")
    stage("pretrain", "pre-train the model of one dataset and objective", "dataset", "objective")
    stage(
        "clean",
        "finetune that model on clean pairs, over all losses, sizes and learning rates",
        "dataset",
        "objective",
    )
    stage("report", "build the replication report from the ledger")
    command = stage(
        "plan", "what a profile costs, before anything runs: runs, EFLOP, hours, disk, energy"
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument(
        "--table", type=Path, help="Markdown file whose generated block gets the table"
    )
    command.add_argument(
        "--gpus",
        type=int,
        help="devices for the wall time (default: 8, or this machine's with --calibrate)",
    )
    command.add_argument(
        "--utilisation",
        type=float,
        help="share of the device's peak, instead of that of specs/plan.yaml",
    )
    command.add_argument(
        "--calibrate",
        action="store_true",
        help="time this machine's steps for up to a minute, instead of assuming a device",
    )
    command = commands.add_parser("study", help="run a study of specs/studies and print its table")
    command.add_argument("name")
    command.add_argument(
        "--table", type=Path, help="Markdown file whose generated block gets the table"
    )
    command = commands.add_parser(
        "tracking", help="the tracking server and the copies of the run records on it"
    )
    command.add_argument(
        "action", choices=("up", "down", "status", "backfill", "reap", "dump", "restore")
    )
    command.add_argument("file", type=Path, nargs="?", help="where dump writes and restore reads")
    command.add_argument("--port", type=int, default=27117, help="of the embedded server (up)")
    command = commands.add_parser(
        "omniboard", help="browse the recorded runs in Omniboard on this machine"
    )
    command.add_argument("--port", type=int, default=9000)
    command.add_argument("--write", action="store_true", help="allow notes, tags and deletion")
    command = commands.add_parser(
        "evaluate", help="zero-shot accuracy and attack success of a foreign checkpoint, as JSON"
    )
    command.add_argument("--checkpoint", type=Path, required=True)
    command.add_argument("--format", choices=("cleanclip", "open_clip"), required=True)
    command.add_argument(
        "--images",
        type=Path,
        required=True,
        help="ImageNet validation: class folders, labels.csv or the official tar",
    )
    command.add_argument("--trigger", choices=("badnet", "blended", "sig", "wanet", "yellow"))
    command.add_argument(
        "--grid", type=Path, help="with wanet: the field the model was trained with (.npy)"
    )
    command.add_argument(
        "--strength", type=float, default=0.6, help="with wanet: factor on the field (CleanCLIP: 1)"
    )
    command.add_argument(
        "--profile", default="paper", help="whose model, prompts and image size to use"
    )
    command.add_argument(
        "--protocol",
        choices=("authors", "paper"),
        default="authors",
        help="whose trigger and geometry to use",
    )
    command.add_argument("--safetensors", type=Path, help="also leave the converted weights here")
    command = commands.add_parser(
        "replay", help="rebuild the report from the authors' published result files"
    )
    command.add_argument("folder", type=Path)
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser(
        "verify", help="recompute every number of a report from the ledger"
    )
    command.add_argument(
        "report", type=Path, nargs="?", default=Path("report/build/mini/report.json")
    )
    command = commands.add_parser(
        "findings", help="write docs/findings.md from the results of the studies"
    )
    command.add_argument("--profile", default="mini", help="whose studies to tell about")
    command = commands.add_parser(
        "readme", help="write the generated tables of README.md and specs/README.md"
    )
    command.add_argument("--profile", default="mini", help="whose report to read")
    command = commands.add_parser(
        "derive", help="write a profile like another but for the values of a file"
    )
    command.add_argument("base")
    command.add_argument("name")
    command.add_argument(
        "overrides", type=Path, help="YAML: dotted paths with values, such as `pretrain.seeds: [1]`"
    )
    command = commands.add_parser(
        "publish", help="build the folder to upload: report, ledger, metadata"
    )
    command.add_argument("--profile", default="mini")
    command = stage(
        "run-one",
        "train one run in this process, to step through it: python -m pdb -m repro run-one ...",
        "dataset",
        "objective",
    )
    command.add_argument("stage", choices=("pretrain", "clean"))
    command.add_argument("--run", help="its id (default: the first run of the cell)")
    command = commands.add_parser(
        "run-pack", help="run a pack of training runs (the launcher calls this)"
    )
    command.add_argument("pack", type=Path)
>>>>>>> e2ba386 (One command trains a run in this process, for a debugger)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; what went wrong becomes one message on standard error."""
    with leaving_at_once():
        arguments = build_parser().parse_args(argv)
        end_with_caller()
        command: Command = arguments.chosen
        try:
            function = load(command.function)
            with stoppable():
                result = function(*(getattr(arguments, each.dest) for each in command.options))
        except Stopped as stopped:
            say_interrupted()
            return 128 + stopped.number
        except Exception as error:
            return report(error)

    if command.prints:
        print(json.dumps(result, indent=1) if isinstance(result, dict) else result)
    return result if isinstance(result, int) else 0


def load(name: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def report(error: Exception) -> int:
    """Say in one message what is wrong; exit status. An error that nobody foresaw is raised, for its traceback."""
    from repro.ledger import LedgerError
    from repro.spec import SpecError

    if isinstance(error, SpecError):
        print(f"repro: {error}", file=sys.stderr)
        return 2
    if isinstance(error, LedgerError | OSError | RuntimeError | ValueError):
        print(f"repro: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
<<<<<<< HEAD
    raise error
=======
    except KeyboardInterrupt as error:
        print("repro: interrupted; the next call goes on from here", file=sys.stderr)
        return 128 + getattr(error, "number", 2)


def _dispatch(arguments: argparse.Namespace) -> int | None:
    match arguments.command:
        case "data":
            from repro.sources.stage import data_stage

            data_stage(arguments.profile)
        case "fetch":
            from repro.sources.download.fetch import fetch

            print(
                fetch(
                    arguments.collection,
                    arguments.list,
                    arguments.profile,
                    arguments.processes,
                    arguments.allow_network,
                )
            )
        case "poison":
            from repro.data.stages import poison_stage

            poison_stage(arguments.profile, arguments.dataset)
        case "pretrain" | "clean":
            from repro.launch.driver import clean_stage, pretrain_stage

            run = pretrain_stage if arguments.command == "pretrain" else clean_stage
            run(arguments.profile, arguments.dataset, arguments.objective)
        case "report":
            from repro.report.build import report_stage

            report_stage(arguments.profile)
        case "plan":
            import json

            from repro.markdown import fill
            from repro.plan.forecast import plan
            from repro.plan.table import cost_table

            content = plan(
                arguments.profile,
                arguments.gpus,
                arguments.utilisation,
                calibrated=arguments.calibrate,
            )
            print(json.dumps(content, indent=1) if arguments.json else cost_table(content))
            if arguments.table:
                fill(arguments.table, "plan", cost_table(content))
        case "study":
            from repro.markdown import fill
            from repro.study.run import run_study
            from repro.study.table import outcome_table

            run_study(arguments.name)
            print(outcome_table(arguments.name))
            if arguments.table:
                fill(arguments.table, arguments.name, outcome_table(arguments.name))
        case "tracking":
            from repro.tracking.server.commands import tracking

            tracking(arguments.action, arguments.file, arguments.port)
        case "omniboard":
            from repro.tracking.server.omniboard import omniboard

            omniboard(arguments.port, arguments.write)
        case "evaluate":
            import json

            from repro.evaluate.foreign import Attack, evaluate_foreign

            outcome = evaluate_foreign(
                arguments.checkpoint,
                arguments.format,
                arguments.images,
                Attack(arguments.trigger, arguments.protocol, arguments.grid, arguments.strength),
                arguments.profile,
                arguments.safetensors,
            )
            print(json.dumps(outcome, indent=1))
        case "replay":
            from repro.report.replay import replay

            replay(arguments.folder, arguments.out)
        case "verify":
            from repro.report.verify import verify

            differences = verify(arguments.report)
            print(
                "\n".join(differences)
                or f"{arguments.report}: every number follows from the ledger"
            )
            return int(bool(differences))
        case "findings":
            from repro.markdown import fill
            from repro.report.pages.findings import BLOCK, FINDINGS, findings_block

            fill(FINDINGS, BLOCK, findings_block(arguments.profile))
            print(FINDINGS)
        case "readme":
            from repro.report.pages.readme import write_blocks

            write_blocks(arguments.profile)
        case "derive":
            from repro.study.derive import derive

            print(derive(arguments.base, arguments.name, arguments.overrides))
        case "publish":
            from repro.report.release import release

            print(release(arguments.profile))
        case "run-one":
            from repro.single import step_through

            print(
                step_through(
                    arguments.stage,
                    arguments.profile,
                    arguments.dataset,
                    arguments.objective,
                    arguments.run,
                )
            )
        case "run-pack":
            from repro.launch.pack import run_pack

            run_pack(arguments.pack)
    return None
>>>>>>> e2ba386 (One command trains a run in this process, for a debugger)


if __name__ == "__main__":
    status = main()
    # The interpreter's own end has nothing left to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)
