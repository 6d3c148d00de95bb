"""`python -m repro`, or `repro`: the command line of repro/cli.py."""

import signal
import sys

try:
    from repro.cli import main
except ModuleNotFoundError as error:
    # An interpreter without the environment lacks click before anything else.
    sys.exit(f"repro: {error}: `make setup`, then `source .venv/bin/activate`, and call again")


def run() -> None:
    """The console script `repro`."""
    status = main()
    # The interpreter's own end has nothing left to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)


if __name__ == "__main__":
    run()
