"""Calls that cannot work, each told in one line with what to do: a wrong word, folder or
environment.

The standard library alone, since what is missing may be everything else.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from repro.cli.commands import COMMANDS, Command

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder, where the package was not copied elsewhere."""

OLDEST_PYTHON = (3, 11)

USAGE = 2
"""Exit status of a call that is wrong."""


class WrongCall(Exception):
    """A call that cannot work here; the message says what to do."""


class Parser(argparse.ArgumentParser):
    """argparse's, but for a mistake in one line: without the usage, with the nearest word."""

    def error(self, message: str) -> NoReturn:
        """End the process with what is wrong and where to read on."""
        hint = self.epilog or f"`python -m {self.prog} --help` lists the commands"
        self.exit(USAGE, f"{self.prog}: {message}; {hint}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, not_allowed(value, action.choices))


def build_parser() -> argparse.ArgumentParser:
    """All sub-commands; nothing heavy is imported to parse."""
    parser = Parser(prog="repro", description="The replication, step by step.")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        added = parsers.add_parser(
            command.name,
            help=command.help,
            description=command.help,
            epilog=f"example: python -m repro {command.example}",
        )
        added.set_defaults(chosen=command, parser=added)
        for each in command.options:
            added.add_argument(each.name, **each.keywords)
    return parser


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a call that can work here.

    WrongCall for an interpreter, a folder or a name that cannot; argparse ends the process itself.
    """
    _require_python()
    arguments, unknown = build_parser().parse_known_args(argv)
    command: Command = arguments.chosen
    parser: argparse.ArgumentParser = arguments.parser

    if unknown:
        options = [each.name for each in command.options if each.name.startswith("-")]
        parser.error(f"unknown argument {not_allowed(unknown[0], [*options, '--help'])}")

    # The folder before the names, which are those of files in it.
    _require_folder(command)
    for each in command.options:
        value = getattr(arguments, each.dest)
        if each.names and value and value not in (known := _names(each.names)):
            what = "study" if "studies" in each.names else "profile"
            raise WrongCall(f"{what}: {not_allowed(value, known)}")
    return arguments


def not_allowed(value: object, allowed: Iterable[object]) -> str:
    """The value, what is allowed in its place, and which of that is spelt most like it."""
    words = [str(word) for word in allowed]
    near = difflib.get_close_matches(str(value), words, n=1)
    question = f": did you mean {near[0]!r}?" if near else ""
    return f"{str(value)!r} (allowed: {', '.join(words)}){question}"


def _require_folder(command: Command) -> None:
    """WrongCall if the command cannot work in this folder."""
    if not command.needs or any(Path(name).is_dir() for name in command.needs):
        return
    place = ROOT if (ROOT / command.needs[0]).is_dir() else "the project's folder"
    raise WrongCall(f"{Path.cwd()} has no {command.needs[0]}/: `cd {place}` and call again")


def _require_python() -> None:
    """WrongCall if this interpreter is too old for the package."""
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        raise WrongCall(f"{sys.executable} is older than Python {wanted}: {_remedy()}")


def require_package(name: str) -> None:
    """ModuleNotFoundError, as an import would raise it, for a package that is only called."""
    if importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def missing_package(error: ModuleNotFoundError) -> str:
    """What to do where a package of somebody else is missing; empty for a module of our own."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "repro"):
        return ""
    return f"{sys.executable} has no package {package!r}: {_remedy()}"


def _names(pattern: str) -> list[str]:
    """The names that a glob stands for: of the folders where `*` is one, else of the files."""
    found = Path().glob(pattern)
    of_folders = "*/" in pattern
    return sorted(path.parent.name if of_folders else path.stem for path in found)


def _remedy() -> str:
    """How to come to an interpreter that has all that is needed."""
    venv = ROOT / ".venv"
    if Path(sys.prefix).resolve() == venv.resolve():
        return "`make setup` completes the environment"
    if not (venv / "bin" / "activate").exists():
        return "`make setup`, then `source .venv/bin/activate`, and call again"

    # As it is typed where the user most likely is.
    shown = ".venv" if Path.cwd() == ROOT else venv
    return f"`source {shown}/bin/activate` and call again"
