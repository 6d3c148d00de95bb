"""Work on all cores, with a progress bar."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from repro.data.memory import cores
from repro.events import die_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_all_cores(
    function: Callable[[Item], Result], items: Collection[Item], label: str, chunk: int = 1
) -> Iterator[Result]:
    """Results in the order of the items, of which a process gets `chunk` at a time."""
    if len(items) < 2:
        yield from map(function, items)
        return

    console = Console(stderr=True)
    # Spawned, not forked: the progress bar runs a thread.
    context = get_context("spawn")
    with ProcessPoolExecutor(cores(), mp_context=context, initializer=die_with_parent) as pool:
        results = pool.map(function, items, chunksize=chunk)
        hidden = not console.is_terminal
        yield from track(results, label, len(items), console=console, disable=hidden)
