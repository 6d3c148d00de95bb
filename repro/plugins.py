"""Triggers, objectives and defences of other packages, by entry points.

A package offers one as an entry point in a group of GROUPS that refers to a `Plugin`. A profile or
study lists those that it names, each with package and version: `plugins: {l2_sp: repro-l2sp==0.2}`.
A run that names one has this line in its specification, and so in its fingerprint.
"""

from collections import defaultdict
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from threading import Lock
from typing import Any, NamedTuple

from repro.names import DEFENCES, LOSSES, TRIGGERS, DefenceNames, LossName

GROUPS: dict[str, dict[Any, Any]] = {
    "repro.triggers": TRIGGERS,
    "repro.objectives": LOSSES,
    "repro.defences": DEFENCES,
}
"""Group of entry points to the list of repro/names.py that gets its names."""
_used: dict[tuple[str, str], "Plugin"] = {}
_implementations: defaultdict[str, list[dict[Any, Any]]] = defaultdict(list)
_filling = Lock()


class Plugin(NamedTuple):
    """What an entry point refers to; its module should import neither torch nor numpy."""

    about: str | LossName | DefenceNames
    """The entry in the list of repro/names.py: of a trigger its label."""
    implementation: str
    """`module:object`, the entry in the list beside the code, imported when something trains."""


def offered() -> list[tuple[str, EntryPoint, str]]:
    """Group, entry point and `package==version` of every plug-in that is installed."""
    return [
        (group, entry, f"{entry.dist.name}=={entry.dist.version}")
        for group in GROUPS
        for entry in entry_points(group=group)
        if entry.dist is not None
    ]


def use(name: str, requirement: str) -> None:
    """Enter a plug-in into the lists.

    ValueError if it is missing, of another version, or has the name of an entry that is there.
    """
    found = [(group, entry, made) for group, entry, made in offered() if entry.name == name]
    matching = [(group, entry) for group, entry, made in found if made == requirement]
    if not matching:
        others = ", ".join(made for *_, made in found)
        raise ValueError(
            f"plugins.{name}: {requirement!r} is not installed"
            f" (allowed: {others or 'none, because no installed package offers this name'})"
        )
    for group, entry in matching:
        if (group, name) not in _used:
            if name in GROUPS[group]:
                raise ValueError(f"plugins.{name}: {requirement!r} has the name of another entry")
            plugin = _used[group, name] = entry.load()
            GROUPS[group][name] = plugin.about
    _fill()


def implemented(group: str, entries: dict[Any, Any]) -> None:
    """Let `entries` have the implementations of the plug-ins of a group, now and later."""
    _implementations[group].append(entries)
    _fill()


def _fill() -> None:
    """Enter what the lists of implementations lack."""
    # The import of an implementation may bring the next list: the outermost call fills that too,
    # when the implementation's module is whole.
    if not _filling.acquire(blocking=False):
        return
    try:
        while lacking := [
            (entries, name, plugin.implementation)
            for (group, name), plugin in _used.items()
            for entries in _implementations[group]
            if name not in entries
        ]:
            for entries, name, implementation in lacking:
                entries[name] = resolve_name(implementation)
    finally:
        _filling.release()
