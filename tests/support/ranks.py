"""Several ranks on this machine's processor, by torchrun and gloo; a single thread."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

SCRIPT = """
import json, sys
from importlib import import_module
from pathlib import Path
from repro.train.process import distributed
folder, module, function, *arguments = sys.argv[1:]
distributed.start()
found = getattr(import_module(module), function)(*map(json.loads, arguments))
Path(folder, str(distributed.rank())).write_text(json.dumps(found))
distributed.stop()
"""


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function of a module returns on each of so many ranks; JSON carries the values."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += [f"--nproc-per-node={ranks}", "--no-python", sys.executable, "-c", SCRIPT]
    call = [function.__module__, function.__name__, *map(json.dumps, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*torchrun, folder, *call], timeout=120, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(Path(folder, str(rank)).read_text()) for rank in range(ranks)]


@contextmanager
def one_thread() -> Iterator[None]:
    """A single thread within the block, as many as before after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
