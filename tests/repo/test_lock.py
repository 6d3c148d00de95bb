"""dvc.lock against the graph: every stage with the values of today, outputs that fit each other; and
report/metrics, which the archives give.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import chdir
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from repro.profile import load_profile
from repro.report.build import metrics
from repro.report.claims import load_claims
from repro.report.document import build_document, plain
from repro.report.measures import MAIN
from repro.report.studies import evidence_of, read_study_results

PROFILES = ("smoke", "mini")
"""Those of which dvc.lock has all stages."""
Stage = dict[str, Any]


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def filled(content: Any, item: dict[str, str]) -> Any:
    """A definition with the values of its axes."""
    if isinstance(content, dict):
        return {filled(key, item): filled(value, item) for key, value in content.items()}
    if isinstance(content, list):
        return [filled(part, item) for part in content]
    for name, value in item.items() if isinstance(content, str) else ():
        content = content.replace(f"${{item.{name}}}", value)
    return content


def expanded(graph: dict[str, Stage]) -> Iterator[tuple[str, Stage]]:
    """Every stage of PROFILES and of the studies by the name that DVC gives it."""
    for name, stage in graph.items():
        axes = dict(stage["matrix"])
        if "profile" in axes:
            axes["profile"] = PROFILES
        for values in product(*axes.values()):
            item = dict(zip(axes, values, strict=True))
            yield f"{name}@{'-'.join(values)}", filled(stage, item)


def paths(listed: list[Any]) -> set[str]:
    return {next(iter(path)) if isinstance(path, dict) else path for path in listed}


def value_of(content: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        content = content[key]
    return content


def fits(locked: Any, today: Any) -> bool:
    """Whether values are those of today, but for fields that are newer than the lock: these have
    their default, for which no run is made again.
    """
    if isinstance(locked, dict) and isinstance(today, dict):
        return all(key in today and fits(value, today[key]) for key, value in locked.items())
    if isinstance(locked, list) and isinstance(today, list):
        return len(locked) == len(today) and all(map(fits, locked, today))
    return bool(locked == today)


def outputs_of(stages: Iterable[Stage]) -> dict[str, str]:
    """The hash of every output by its path."""
    return {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}


def problems(
    graph: dict[str, Stage], lock: dict[str, Stage], profiles: dict[str, Any]
) -> Iterator[str]:
    """What in a lock file does not fit the graph or the values of the profiles."""
    stages = dict(expanded(graph))
    for name in stages.keys() - lock.keys():
        yield f"{name}: not in the lock"
    for name in lock.keys() - stages.keys():
        yield f"{name}: not in the graph"
    both = [name for name in stages if name in lock]
    made = outputs_of(lock[name] for name in both)
    for name in both:
        stage, locked = stages[name], lock[name]
        for part in ("deps", "outs"):
            here = paths(stage.get(part, []))
            there = {of["path"] for of in locked.get(part, [])}
            # Which code a stage depends on, tests/repo/test_graph.py says.
            for path in here ^ there:
                if not path.startswith("repro/"):
                    yield f"{name}: {part}: {path}"
        for dep in locked.get("deps", []):
            if made.get(dep["path"], dep["md5"]) != dep["md5"]:
                yield f"{name}: {dep['path']}: not the output of its stage"
        profile = profiles.get(name.partition("@")[2].partition("-")[0])
        for params in stage.get("params", []):
            ((file, fields),) = params.items()
            for field in fields or ():
                values = locked["params"][file]
                if field in values and not fits(values[field], value_of(profile, field)):
                    yield f"{name}: {field}: another value"


def test_the_lock_has_every_stage_and_the_values_of_today(root: Path) -> None:
    graph = read(root / "dvc.yaml")["stages"]
    lock = read(root / "dvc.lock")["stages"]
    profiles = {of: load_profile(of, root / "specs").model_dump(mode="json") for of in PROFILES}
    assert list(problems(graph, lock, profiles)) == []

    # A lock without a stage.
    clean = "clean@smoke-cc3m-mmcl"
    short = {name: stage for name, stage in lock.items() if name != clean}
    assert list(problems(graph, short, profiles)) == [f"{clean}: not in the lock"]

    # An output of another run.
    other = deepcopy(lock)
    other["data@smoke"]["outs"][0]["md5"] = "0" * 32
    lines = list(problems(graph, other, profiles))
    assert any("not the output of its stage" in line for line in lines)

    # A value that was edited afterwards.
    edited = deepcopy(profiles)
    edited["mini"]["switches"]["gather"] = "no"
    lines = list(problems(graph, lock, edited))
    assert any("switches: another value" in line for line in lines)


def test_the_committed_metrics_are_those_of_the_archives(root: Path) -> None:
    committed = json.loads((root / "report/metrics/mini.json").read_bytes())
    with chdir(root):
        studies = read_study_results("mini")
        evidence = evidence_of(load_profile("mini"))
        document = plain(build_document(evidence, load_claims(), studies))
    computed = metrics(document)
    assert committed.keys() == computed.keys() == set(MAIN)
    for measure, settings in computed.items():
        for setting, found in settings.items():
            there = committed[measure][setting]["archive"]
            for name, value in found["archive"].items():
                # The last digits depend on the processor.
                same = value if isinstance(value, str) else pytest.approx(value)
                assert there[name] == same, f"{measure}, {setting}: {name}"
