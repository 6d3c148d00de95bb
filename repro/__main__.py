"""Command line: parses one of `repro.cli.commands`, calls it, and reports its errors.

Exit codes: 0 done; 1 the work failed, with a message; 2 the call or a specification is wrong; 128 +
signal: stopped.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from repro.cli.calls import USAGE, WrongCall, missing_package, parsed
from repro.cli.commands import Command
from repro.runs.signals import (
    Stopped,
    end_with_caller,
    leaving_at_once,
    say_interrupted,
    stoppable,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; what went wrong becomes one message on standard error."""
    # Modules load inside, which can take seconds; `stoppable` takes over while the command runs.
    with leaving_at_once():
        try:
            arguments = parsed(argv)
        except WrongCall as wrong:
            print(f"repro: {wrong}", file=sys.stderr)
            return USAGE

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
    """Say in one message what is wrong; exit status. An unforeseen error is raised again."""
    # First, for what is imported below would be missing too.
    if isinstance(error, ModuleNotFoundError) and (wrong := missing_package(error)):
        print(f"repro: {wrong}", file=sys.stderr)
        return USAGE

    # Not at the top: these bring numpy and pydantic, which parsing does without.
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


if __name__ == "__main__":
    status = main()
    # The interpreter's own end has nothing left to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)
