"""Several ranks on this machine's processor, by gloo; a single thread each."""

import json
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from repro.train.process import distributed
from tests.support.processes import free_port

SECONDS = 300
"""Longest time of a call."""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["repro.worker", __name__])
"""A process of its own that has imported torch and done nothing: ranks are forked from it, since
what this process has computed leaves threads that no fork survives."""


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function of a module returns on each of so many ranks; JSON carries the values."""
    group = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": free_port()}
    group |= {"MASTER_ADDR": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank in range(ranks):
            place = {key: str(n) for key, n in {**group, "RANK": rank, "LOCAL_RANK": rank}.items()}
            call = os.environ | place, Path(folder, str(rank)), function, arguments
            processes.append(FORKS.Process(target=_rank, args=call))
            processes[-1].start()

        # The first that fails leaves the others waiting.
        left = {process.sentinel: process for process in processes}
        while left and (ended := wait([*left], SECONDS)):
            if any(left.pop(sentinel).exitcode for sentinel in ended):
                break
        for process in left.values():
            process.kill()
        failures = [file.read_text() for file in sorted(Path(folder).glob("*.error"))]
        assert not failures, "\n".join(failures)
        assert not left, f"{len(left)} of {ranks} ranks waited {SECONDS} s, or one of them died"
        return [json.loads(Path(folder, str(rank)).read_text()) for rank in range(ranks)]


def _rank(
    environment: Mapping[str, str], file: Path, function: Callable[..., Any], arguments: Any
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        distributed.start()
        file.write_text(json.dumps(function(*json.loads(json.dumps(arguments)))))
        distributed.stop()
    except BaseException:
        file.with_suffix(".error").write_text(traceback.format_exc())
        raise


@contextmanager
def one_thread() -> Iterator[None]:
    """A single thread within the block, as many as before after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
