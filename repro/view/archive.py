"""What the archived seeds have at the end of a run, to be shown beside one's own."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from statistics import mean
from typing import NamedTuple

from repro.ledger import LedgerError
from repro.profile import load_profile
from repro.spec import DataSpec, PretrainSpec, Profile, RunSpec, digest
from repro.study.archive import ArchivedRun, read_archive
from repro.study.spec import archive_of, load_study, study_names, varied


class Ends(NamedTuple):
    """Mean accuracy and ASR at the end of archived runs."""

    accuracy: float
    asr: float
    seeds: int = 1


Archive = Callable[[RunSpec], Ends | None]
"""The ends of the archived runs that differ from a run in the seed alone."""


def whole_runs(name: str) -> list[ArchivedRun]:
    """The whole runs in the archive of a study; none if it is unreadable, as the report says."""
    with suppress(LedgerError):
        return [run for run in read_archive(archive_of(name)) if run.record.status != "failed"]
    return []


def archive_of_profile(profile: str) -> Archive:
    """The archived runs of a profile, on its data and of its models."""
    own = _models(load_profile(profile))
    ends: dict[str, list[Ends]] = defaultdict(list)
    for name in study_names():
        study = load_study(name)
        if study.profile != profile:
            continue
        # Of pairs, of their poisons and of the model that it cleans a run's specification tells
        # nothing.
        same = {label for label, of in study.variants.items() if _models(varied(study, of)) == own}
        for record, rows in whole_runs(name):
            spec = record.spec
            if spec.variant in same and rows:
                last = rows[-1]
                asr = last.asr(spec.switches.asr_denominator)
                ends[_but_for_seed(spec)].append(Ends(last.accuracy, asr))

    means = {}
    for key, runs in ends.items():
        accuracy = mean(run.accuracy for run in runs)
        means[key] = Ends(accuracy, mean(run.asr for run in runs), len(runs))
    return lambda spec: means.get(_but_for_seed(spec))


def _models(profile: Profile) -> tuple[DataSpec, PretrainSpec]:
    """What the models of a profile follow from, but for their seeds."""
    return profile.data, profile.pretrain.model_copy(update={"seeds": []})


def _but_for_seed(spec: RunSpec) -> str:
    return digest(spec.computed() | {"seed": None})
