"""From YAML to runs: the only place that reads specifications.

A profile is a file `specs/<name>.yaml`: all values (`paper`), or those in which it differs from the
profile that it `extends`. `load_profile` checks it before anything runs and reports every problem
at once; `pretrain_runs` and `clean_runs` expand it into `RunSpec`s, one a training run, complete
enough for a worker that reads nothing else.
"""

import difflib
import json
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from repro.consistency import fields_at, models_of, problem_list, problems_of, problems_of_graph
from repro.files import replace_file
from repro.spec import (
    Dataset,
    IconTask,
    Objective,
    Profile,
    RunSpec,
    Schedule,
    Spec,
    SpecError,
    Stage,
    Training,
)

SPECS = Path("specs")
PARAMS = Path("params.yaml")
T = TypeVar("T", bound=Spec)


def read_yaml(path: Path) -> Any:
    """Parse a YAML file without tags and anchors, in UTF-8; SpecError for anything else."""
    text = _read_text(path)
    try:
        # A copy, so that no caller changes what another one gets.
        return deepcopy(_parse(text))
    except (YAMLError, ValueError, RecursionError, TypeError) as error:
        raise SpecError(f"{path}: not valid YAML: {error}") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        elsewhere = "" if SPECS.is_dir() else "; call again from the project's folder"
        raise SpecError(f"{path}: {getattr(error, 'strerror', error)}{elsewhere}") from None


@cache
def _parse(text: str) -> Any:
    """Content of a specification; cached, since a study reads the same files for each variant."""
    yaml = YAML(typ="safe", pure=True)
    # Event by event: a bomb is refused at its first anchor.
    for event in yaml.parse(text):
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            line = event.start_mark.line + 1
            raise ValueError(f"line {line}: an anchor, an alias or a tag (allowed: plain values)")
    return yaml.load(text)


def check(
    model: type[T], content: Any, path: Path | str, origins: Mapping[str, str] | None = None
) -> T:
    """Validate `content` as `model`.

    SpecError lists all problems at once, each with field, value and what is allowed. `origins` maps
    dotted paths to the files that set them, where these are others than `path`.
    """
    lines = []
    try:
        return model.model_validate(content)
    except ValidationError as error:
        for item in error.errors():
            field = ".".join(map(str, item["loc"]))
            if item["type"] == "value_error":  # of a validator of ours, which names a field below
                lines.append(f"{field}.{item['ctx']['error']}".lstrip("."))
            else:
                value = "" if item["type"] == "missing" else f" (got {reprlib.repr(item['input'])})"
                if item["type"] == "literal_error":
                    value += nearest(item["input"], re.findall(r"'(.+?)'", item["msg"]))
                if item["type"] == "extra_forbidden":
                    allowed = ", ".join(sorted(fields_at(model, item["loc"][:-1])))
                    value += f" (allowed: {allowed})"
                lines.append(f"{field or 'file'}: {item['msg']}{value}")

    # Raised outside the handler, so that pydantic's own error is not printed above it.
    raise problem_list(path, lines, origins or {})


def merge(base: Any, change: Any, source: str, origins: dict[str, str], field: str = "") -> Any:
    """`base` with `change` laid over it; `origins` gets the source of every path that changes.

    Mappings are merged key by key and anything else is replaced. A mapping over a list changes the
    entries that its keys count, `*` all of them. A mapping of another `kind` is replaced.
    """
    if isinstance(change, dict) and isinstance(base, dict | list):
        is_list = isinstance(base, list)
        entries: dict[Any, Any] = dict(enumerate(base) if is_list else base)
        if entries.get("kind") == change.get("kind", entries.get("kind")):
            for key, value in change.items():
                for each in list(entries) if key == "*" else [key]:
                    path = f"{field}.{each}".lstrip(".")
                    if is_list and each not in entries:
                        allowed = ", ".join(map(str, [*entries, "*"]))
                        raise SpecError(f"{source}: {path}: no such entry (allowed: {allowed})")
                    entries[each] = merge(entries.get(each), value, source, origins, path)
            return list(entries.values()) if is_list else entries

    for path in [path for path in origins if path.startswith(f"{field}.")]:
        del origins[path]
    origins[field] = source
    return change


def profile_names(specs: Path = SPECS) -> list[str]:
    """Profiles of `specs`: the files that name a protocol or extend a profile."""
    key = re.compile(r"^(extends|protocol):", re.MULTILINE)
    return sorted(
        path.stem
        for path in specs.glob("*.yaml")
        if key.search(path.read_text(encoding="utf-8", errors="replace"))
    )


def nearest(name: object, names: Iterable[str]) -> str:
    """The name that a wrong one may mean, as `; nearest: NAME`; empty where none is like it."""
    close = difflib.get_close_matches(str(name), list(names), 1)
    return f"; nearest: {close[0]}" if close else ""


def check_profile_name(name: object, where: str, specs: Path = SPECS) -> None:
    """SpecError unless `specs` has a profile of that name; `where` says which field names it."""
    names = profile_names(specs)
    if not names:
        raise SpecError(f"{specs.absolute()}: no profiles; call again from the project's folder")
    if name not in names:
        path = specs / f"{name}.yaml"
        unfit = f"{path} is none; " if path in [*specs.glob("*.yaml")] else ""
        allowed = f"allowed: {', '.join(names)}; files with `extends` or `protocol`"
        raise SpecError(f"{where}: {name!r} ({unfit}{allowed}{nearest(name, names)})")


def _merged(
    name: str, specs: Path, where: str, origins: dict[str, str], above: tuple[str, ...] = ()
) -> Any:
    """A profile laid over those that it extends; `where` is the field that names it."""
    check_profile_name(name, where, specs)
    if name in above:
        raise SpecError(f"{where}: {name!r} extends itself by way of {', '.join(above)}")

    path = specs / f"{name}.yaml"
    base = {}
    content = read_yaml(path)
    if "extends" in content:
        extends = content.pop("extends")
        base = _merged(extends, specs, f"{path}: extends", origins, (*above, name))
    return merge(base, content, path.as_posix(), origins)


def load_profile(
    name: str,
    specs: Path = SPECS,
    overrides: Mapping[str, Any] | None = None,
    source: str = "overrides",
) -> Profile:
    """Read and check the profile `specs/<name>.yaml`.

    `overrides` maps dotted paths (`data.poison.num_poisoned.cc6m`, `clean.cells.*.learning_rates`)
    to values: how a study, whose file is `source`, varies a profile. SpecError lists every problem.
    """
    origins: dict[str, str] = {}
    where = "profile" if overrides is None else f"{source}: profile"
    merged = _merged(name, specs, where, origins)
    last = f"{specs.as_posix()}/{name}.yaml"
    for dotted, value in (overrides or {}).items():
        for key in reversed(dotted.split(".")):
            value = {int(key) if key.isdecimal() else key: value}
        last = source
        merged = merge(merged, value, last, origins)

    profile = check(Profile, merged | {"name": name}, last, origins)
    problems = problems_of(profile, load_classnames(profile, specs), clean_runs(profile))
    if overrides is None:
        # Who overrides says what is made: a study itself, `whole_profile` for the user.
        problems += problems_of_graph(profile)
    if problems:
        raise problem_list(last, problems, origins)
    return profile


def chosen_profile(name: str | None = None) -> str:
    """The profile that a command means: `name`, or else that of params.yaml, as `dvc repro`."""
    named = name or _params().get("profile")
    check_profile_name(named, "profile" if name else f"{PARAMS}: profile")
    return str(named)


def _params() -> dict[str, Any]:
    """The content of params.yaml; empty where it is no mapping."""
    content = read_yaml(PARAMS)
    if not isinstance(content, dict):
        return {}
    if unknown := sorted(content.keys() - {"profile", "overrides"}):
        raise SpecError(f"{PARAMS}: {unknown} (allowed: profile, overrides)")
    return content


def overrides_of(name: str) -> dict[str, Any]:
    """Overrides of params.yaml, dotted path to value, if they are of that profile."""
    params = _params() if PARAMS.exists() else {}
    overrides = params.get("overrides") or {}
    if not isinstance(overrides, dict):
        raise SpecError(f"{PARAMS}: overrides: {overrides!r} (allowed: fields of the profile)")
    return flat(overrides) if params.get("profile") == name else {}


def flat(content: Mapping[Any, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted paths; an empty mapping stays a value."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        path = f"{above}{key}"
        found |= flat(value, f"{path}.") if isinstance(value, dict) and value else {path: value}
    return found


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names, in order, whose values differ or that one of both lacks."""
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def parse_override(text: str) -> tuple[str, Any]:
    """Dotted path and value of `FIELD=VALUE`; the value is YAML, as in a specification."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise SpecError(f"--set: {text!r} (allowed: FIELD=VALUE, as clean.warmup_steps=20)")
    try:
        return path.strip(), _parse(value)
    except (YAMLError, ValueError, RecursionError, TypeError) as error:
        problem = " ".join(str(error).split())
        raise SpecError(f"--set: {path}: {value!r} (allowed: a YAML value; {problem})") from None


def graph_profile(name: str) -> Profile:
    """The profile as the stages run it: with the overrides of params.yaml, if they are its own."""
    return whole_profile(name, overrides_of(name), f"{PARAMS}: overrides")


def whole_profile(name: str, overrides: Mapping[str, Any], source: str) -> Profile:
    """The profile with overrides of the user's, of which, unlike a study's, everything is made."""
    if not overrides:
        return load_profile(name)
    profile = load_profile(name, overrides=overrides, source=source)
    if problems := problems_of_graph(profile):
        raise problem_list(source, problems, {})
    return profile


def departures(profile: Profile) -> list[str]:
    """Every field in which a profile differs from that of its name in specs/."""
    if profile.name not in profile_names():
        return []
    theirs = flat(load_profile(profile.name).model_dump(mode="json"))
    here = flat(profile.model_dump(mode="json"))
    return [
        f"{field}: {here.get(field)} instead of the profile's {theirs.get(field)}"
        for field in differing(theirs, here)
    ]


def resolved_file(profile: str) -> Path:
    """The values of a profile after `extends`, which DVC cannot follow: its parameters lie here."""
    return Path("results") / profile / "resolved" / "profile.json"


def resolve_stage(profile_name: str) -> None:
    """Write `resolved_file`: the first stage of the graph, on whose values the others depend."""
    path = resolved_file(profile_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = graph_profile(profile_name)
    content = profile.model_dump(mode="json")
    replace_file(path, (json.dumps(content, indent=2) + "\n").encode())
    # DVC hashes specs/ when this stage has ended, and would take its output for that of the edit.
    if graph_profile(profile_name) != profile:
        raise SpecError(f"specs of {profile_name} changed while they were read: call again")


def resolved_profile(name: str) -> Profile:
    """The values that a stage works with, and all that it reads of them: an edit of specs/ while it
    runs cannot matter. A stage that is called by hand resolves them first, as does one of which DVC
    found that the missing file would be the same (`--allow-missing`).
    """
    path = resolved_file(name)
    if "DVC_STAGE" not in os.environ or not path.exists():
        resolve_stage(name)
    return check(Profile, json.loads(path.read_bytes()), path)


def classnames_file(classnames: str, specs: Path = SPECS) -> Path:
    """The list of class names, one a line in label order."""
    return specs / "classnames" / f"{classnames}.txt"


def load_classnames(profile: Profile, specs: Path = SPECS) -> list[str]:
    """Class names of the profile's zero-shot task in label order, with the target class."""
    names = _read_text(classnames_file(profile.evaluate.classnames, specs)).splitlines()
    source = profile.data.source
    if isinstance(source, IconTask):
        # The target must be a class: it takes the last place where it is not among the first.
        target = profile.data.poison.target_class
        first = names[: source.num_concepts]
        names = first if target in first or target not in names else [*first[:-1], target]
    return names


def pretrain_runs(
    profile: Profile,
    dataset: Dataset | None = None,
    objective: Objective | None = None,
    *,
    variant: str = "",
    poisoned: bool = True,
) -> list[RunSpec]:
    """Pre-training runs of the profile, or of one dataset and objective; one per seed."""
    spec = profile.pretrain
    return [
        _run(
            profile,
            spec,
            stage="pretrain",
            dataset=data,
            pretrain_objective=goal,
            clean_size=None,
            loss=goal,
            variant=variant,
            poisoned=poisoned,
            seed=seed,
            schedule=spec.objectives[goal],
            model_age=spec.model_age[data][goal],
            evaluations_per_epoch=1 / spec.evaluate_every_epochs,
            evaluate_every_steps=None,
        )
        for data, goal in models_of(profile, dataset, objective)
        for seed in spec.seeds
    ]


def clean_runs(
    profile: Profile,
    dataset: Dataset | None = None,
    objective: Objective | None = None,
    *,
    variant: str = "",
    poisoned: bool = True,
) -> list[RunSpec]:
    """Cleaning runs of the profile, or of one pre-trained model; runs of one size stay together."""
    spec = profile.clean
    # A restored AdamW state brings its hyper-parameters along, so the cleaning's own weight decay
    # has no effect (code: CleanCLIP src/main.py loads the checkpoint's optimizer after its own).
    restored = profile.switches.optimizer_state == "restored"
    optimizer = profile.pretrain.optimizer if restored else spec.optimizer
    return [
        _run(
            profile,
            spec,
            stage="clean",
            dataset=data,
            pretrain_objective=goal,
            clean_size=size,
            loss=loss,
            variant=variant,
            poisoned=poisoned,
            seed=seed,
            optimizer=optimizer,
            schedule=Schedule(
                learning_rate=rate,
                epochs=spec.epochs,
                warmup_steps=spec.warmup_steps,
                global_batch_size=cell.global_batch_size,
                norm_batch_size=cell.global_batch_size,
            ),
            model_age="last",
        )
        for data, goal in models_of(profile, dataset, objective)
        for cell in spec.cells
        if data in cell.datasets and goal in cell.pretrain_objectives
        for size in cell.clean_sizes
        for seed in profile.pretrain.seeds
        for loss in cell.losses
        for rate in cell.learning_rates
    ]


def runs_of(profile: Profile, dataset: Dataset | None = None) -> list[RunSpec]:
    """Every run of the profile, or those on one dataset, pre-trainings first."""
    return pretrain_runs(profile, dataset) + clean_runs(profile, dataset)


STAGE_RUNS: dict[Stage, Callable[..., list[RunSpec]]] = {
    "pretrain": pretrain_runs,
    "clean": clean_runs,
}
"""What makes the runs of a stage."""


def _run(profile: Profile, part: Training, **fields: Any) -> RunSpec:
    """A run with `fields`, and all others by their names from its part of the profile."""
    names = RunSpec.model_fields.keys() & type(part).model_fields.keys()
    common: dict[str, Any] = {name: getattr(part, name) for name in names}
    return RunSpec(
        profile=profile.name,
        switches=profile.switches,
        trigger=profile.data.poison.trigger,
        target_class=profile.data.poison.target_class,
        evaluate=profile.evaluate,
        **(common | {"model": profile.pretrain.model} | fields),
    )
