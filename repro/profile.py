"""From YAML to runs: the only place that reads specifications.

A profile is a folder of `specs/` with four files (data, pretrain, clean, evaluate) on top of a
protocol file, which settles every detail in which the paper and the authors' code differ.
`load_profile` checks all of them before anything runs and reports every problem of a file at once;
`pretrain_runs` and `clean_runs` expand a profile into `RunSpec`s, one per training run, complete
enough for a worker that sees nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from repro.consistency import cells_of, problems_of
from repro.files import file_sha256
from repro.spec import (
    CleanSpec,
    Dataset,
    DataSpec,
    EvaluateSpec,
    IconSource,
    Objective,
    PretrainSpec,
    Profile,
    RunSpec,
    Schedule,
    Spec,
    SpecError,
    Switches,
    digest,
)

SPECS = Path("specs")
MAX_CHARACTERS = 2**18
MAX_DEPTH = 32
"""Limits of a specification file."""
T = TypeVar("T", bound=Spec)


def read_yaml(path: Path) -> Any:
    """Parse a YAML file without tags, without duplicate keys and without anchors; SpecError says
    what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    if len(text) > MAX_CHARACTERS:
        raise SpecError(f"{path}: {len(text)} characters (allowed: at most {MAX_CHARACTERS})")

    try:
        # A copy, so that no caller changes what another one gets.
        return deepcopy(_parsed(text))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """The content of a specification; kept, since studies read the same files for each variant."""
    yaml = YAML(typ="safe", pure=True)
    depth = 0
    try:
        # Event by event: a bomb is refused at its first anchor or its 33rd level.
        for event in yaml.parse(text):
            if getattr(event, "anchor", None):
                raise SpecError("anchors and aliases are not allowed")
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise SpecError(f"nested more than {MAX_DEPTH} levels deep")
        return yaml.load(text)
    except SpecError:
        raise
    except (YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"not valid YAML: {error}") from None


def check(model: type[T], content: Any, path: Path) -> T:
    """Validate `content` as `model`.

    SpecError tells all problems at once, each with field, value and what is allowed.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [line for item in error.errors() for line in _told(item)]

    # Raised outside the handler, so that pydantic's own error is not shown above it.
    shown = [f"{path}: {len(lines)} problem(s)", *(f"  {line}" for line in lines)]
    raise SpecError("\n".join(shown))


def _told(item: Mapping[str, Any]) -> list[str]:
    """One of pydantic's errors in our words; a validator of ours may tell several problems."""
    field = ".".join(map(str, item["loc"]))
    if item["type"] == "value_error":
        prefix = field + "." if field else ""
        return [prefix + line for line in str(item["ctx"]["error"]).split("\n")]
    value = "" if item["type"] == "missing" else f" (got {item['input']!r})"
    return [f"{field or 'file'}: {item['msg']}{value}"]


class Protocol(Spec):
    """specs/<profile>/protocol.yaml: the named protocol and the switches in which this profile
    departs from it.
    """

    protocol: Literal["paper", "authors"]
    overrides: dict[str, Any]
    """Switch name to value; every entry is a deviation that the report lists."""


def _merge(content: Any, overrides: dict[str, Any], path: Path) -> Any:
    """`content` with dotted-path overrides applied; SpecError for a path that names no field."""
    # A copy, so that several variations start from the same file.
    content = json.loads(json.dumps(content))
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node = content
        for key in parents:
            node = _child(node, key)
        if not isinstance(node, dict) or last not in node:
            raise SpecError(f"{path}: {dotted}: no such field to override")
        node[last] = value
    return content


def _child(node: Any, key: str) -> Any:
    """The part of a table or list under a key; None if there is none."""
    if isinstance(node, dict):
        return node.get(key)
    if isinstance(node, list) and key.isdigit() and int(key) < len(node):
        return node[int(key)]
    return None


def load_profile(
    name: str, specs: Path = SPECS, overrides: dict[str, Any] | None = None
) -> Profile:
    """Read and check the profile `specs/<name>`.

    `overrides` maps dotted paths (`data.poison.num_poisoned.cc6m`, `switches.gather`) to values:
    how studies vary a profile. Raises SpecError with every problem of the first bad file.
    """
    folder = specs / name
    known = sorted(path.parent.name for path in specs.glob("*/data.yaml"))
    if name not in known:
        allowed = ", ".join(known) or f"none found in {specs}"
        raise SpecError(f"profile: {name!r} (allowed: {allowed})")

    # The switches are the protocol's, but for those in which the profile departs from it.
    protocol = check(Protocol, read_yaml(folder / "protocol.yaml"), folder / "protocol.yaml")
    protocol_path = specs / "protocols" / f"{protocol.protocol}.yaml"
    switches = _merge(read_yaml(protocol_path), protocol.overrides, folder / "protocol.yaml")
    parts: dict[str, tuple[type[Spec], Any, Path]] = {
        "switches": (Switches, switches, protocol_path)
    }
    models: dict[str, type[Spec]] = {
        "data": DataSpec,
        "pretrain": PretrainSpec,
        "clean": CleanSpec,
        "evaluate": EvaluateSpec,
    }
    for part, model in models.items():
        parts[part] = (model, read_yaml(folder / f"{part}.yaml"), folder / f"{part}.yaml")

    # Overrides come before validation: a bad value is reported like one in the file.
    for dotted, value in (overrides or {}).items():
        part, _, rest = dotted.partition(".")
        if part not in parts or not rest:
            raise SpecError(
                f"override {dotted!r} (allowed: {', '.join(parts)} followed by a field)"
            )
        model, content, path = parts[part]
        parts[part] = (model, _merge(content, {rest: value}, path), path)

    checked: dict[str, Any] = {part: check(*arguments) for part, arguments in parts.items()}
    profile = Profile(name=name, protocol=protocol.protocol, **checked)
    _check_across(profile, folder, specs)
    return profile


def spec_hash(profile: str) -> str:
    """Hash of every file that a profile is read from: DVC hashes them after a stage, so the stage
    must notice edits.
    """
    files = [
        file
        for folder in (profile, "protocols", "classnames")
        for file in sorted((SPECS / folder).glob("*"))
        if file.is_file()
    ]
    return digest([[file.as_posix(), file_sha256(file)] for file in files])


def classnames_file(classnames: str, specs: Path = SPECS) -> Path:
    """The list of class names, one a line in label order."""
    return specs / "classnames" / f"{classnames}.txt"


def load_classnames(profile: Profile, specs: Path = SPECS) -> list[str]:
    """Class names of the profile's zero-shot task in label order; the target class is always among
    them.
    """
    names = (
        classnames_file(profile.evaluate.classnames, specs).read_text(encoding="utf-8").splitlines()
    )
    source = profile.data.source
    if isinstance(source, IconSource):
        target = profile.data.poison.target_class
        # The target must be a class: it takes the last place where it is not among the first.
        kept = names[: source.num_concepts]
        names = kept if target in kept or target not in names else [*kept[:-1], target]
    return names


def count_icon_images(specs: Path = SPECS) -> Counter[str]:
    """Evaluation images of each class in the committed list of the data source `icons`."""
    lines = classnames_file("icons-images", specs).read_text(encoding="utf-8").splitlines()
    return Counter(line.partition("\t")[0] for line in lines)


def _check_across(profile: Profile, folder: Path, specs: Path) -> None:
    """Refuse a profile whose files do not fit each other."""
    names_file = classnames_file(profile.evaluate.classnames, specs)
    num_known = len(names_file.read_text(encoding="utf-8").splitlines())
    problems = problems_of(
        profile,
        load_classnames(profile, specs),
        names_file.as_posix(),
        num_known,
        clean_runs(profile),
    )
    if problems:
        lines = [f"{folder}: {len(problems)} problem(s)", *(f"  {line}" for line in problems)]
        raise SpecError("\n".join(lines))


def pretrain_runs(
    profile: Profile,
    dataset: Dataset | None = None,
    objective: Objective | None = None,
    *,
    variant: str = "",
    poisoned: bool = True,
) -> list[RunSpec]:
    """Pre-training runs of the profile, or of one dataset slot and objective; one per seed."""
    spec = profile.pretrain
    return [
        RunSpec(
            profile=profile.name,
            stage="pretrain",
            dataset=slot,
            pretrain_objective=goal,
            clean_size=None,
            loss=goal,
            variant=variant,
            poisoned=poisoned,
            seed=seed,
            model=spec.model,
            optimizer=spec.optimizer,
            schedule=spec.objectives[goal],
            model_age=spec.model_age[slot][goal],
            mitigation=None,
            ssl_weight=spec.ssl_weight,
            views=spec.views,
            precision=spec.precision,
            compile=spec.compile,
            deterministic=spec.deterministic,
            evaluations_per_epoch=1 / spec.evaluate_every_epochs,
            evaluate_every_steps=None,
            switches=profile.switches,
            trigger=profile.data.poison.trigger,
            target_class=profile.data.poison.target_class,
            evaluate=profile.evaluate,
        )
        for slot, goal in cells_of(profile)
        for seed in spec.seeds
        if dataset in (None, slot) and objective in (None, goal)
    ]


def clean_runs(
    profile: Profile,
    dataset: Dataset | None = None,
    objective: Objective | None = None,
    *,
    variant: str = "",
    poisoned: bool = True,
) -> list[RunSpec]:
    """Cleaning runs of the profile, or of one pre-trained model; ordered so that runs of one size
    stay together.
    """
    spec = profile.clean
    # A restored AdamW state brings its hyper-parameters along: the cleaning's own weight decay has
    # no effect
    # (code: CleanCLIP src/main.py loads the checkpoint's optimizer after building one).
    optimizer = (
        profile.pretrain.optimizer
        if profile.switches.optimizer_state == "restored"
        else spec.optimizer
    )
    return [
        RunSpec(
            profile=profile.name,
            stage="clean",
            dataset=slot,
            pretrain_objective=goal,
            clean_size=size,
            loss=loss,
            variant=variant,
            poisoned=poisoned,
            seed=seed,
            model=profile.pretrain.model,
            optimizer=optimizer,
            schedule=Schedule(
                learning_rate=rate,
                epochs=spec.epochs,
                warmup_steps=spec.warmup_steps,
                global_batch_size=cell.global_batch_size,
                norm_batch_size=cell.global_batch_size,
            ),
            model_age="last",
            mitigation=spec.mitigation,
            ssl_weight=spec.mitigation.ssl_weight,
            views=spec.views,
            precision=spec.precision,
            compile=spec.compile,
            deterministic=spec.deterministic,
            evaluations_per_epoch=spec.evaluations_per_epoch,
            evaluate_every_steps=spec.evaluate_every_steps,
            switches=profile.switches,
            trigger=profile.data.poison.trigger,
            target_class=profile.data.poison.target_class,
            evaluate=profile.evaluate,
        )
        for slot, goal in cells_of(profile)
        for cell in spec.cells
        if slot in cell.datasets and goal in cell.pretrain_objectives
        for size in cell.clean_sizes
        for seed in profile.pretrain.seeds
        for loss in cell.losses
        for rate in cell.learning_rates
        if dataset in (None, slot) and objective in (None, goal)
    ]
