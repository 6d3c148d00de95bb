"""What archived runs came to, to be shown beside one's own."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from statistics import mean
from typing import Any, NamedTuple, Self

from repro.ledger import LedgerError, Row
from repro.markdown import table_lines
from repro.profile import load_profile
from repro.spec import Defence, Profile, RunSpec, digest
from repro.study.archive import ArchivedRun, read_archive
from repro.study.spec import archive_of, chosen_models, load_study, study_names, varied
from repro.view.states import setting_name

RIVALS = {"CleanCLIP": None, "PAR": Defence.model_validate({"name": "par"})}
"""Published defences that a study's own cleaning is shown beside."""


class Ends(NamedTuple):
    """Mean accuracy and ASR over seeds."""

    accuracy: float
    asr: float
    seeds: int = 1

    def __str__(self) -> str:
        return f"{self.accuracy:.1%}, {self.asr:.1%} ({self.seeds})"

    @classmethod
    def of_last(cls, runs: Iterable[ArchivedRun], rate: float) -> Self | None:
        """Of the last evaluations of the runs with a learning rate."""
        last = {
            record.spec.seed: (record.spec, rows[-1])
            for record, rows in runs
            if record.spec.schedule.learning_rate == rate
        }
        return cls._of(last.values())

    @classmethod
    def of_best(cls, runs: Iterable[ArchivedRun]) -> Self | None:
        """Of the best cleaned model of each seed, over all learning rates and evaluations; seeds
        without one do not count.
        """
        best: dict[int, tuple[RunSpec, Row]] = {}
        ranks: dict[int, Any] = {}
        for record, rows in runs:
            for row in rows:
                rank = row.rank(record.spec)
                if rank and rank < ranks.get(row.seed, (1,)):
                    ranks[row.seed], best[row.seed] = rank, (record.spec, row)
        return cls._of(best.values())

    @classmethod
    def _of(cls, rows: Collection[tuple[RunSpec, Row]]) -> Self | None:
        if not rows:
            return None
        asr = mean(row.asr(spec.switches.asr_denominator) for spec, row in rows)
        return cls(mean(row.accuracy for _, row in rows), asr, len(rows))


class Archive:
    """The whole archived runs of a profile, but those of the study `but`."""

    def __init__(self, profile: str, but: str = "") -> None:
        studies = {name: load_study(name) for name in study_names()}
        variants = {
            (name, label): (variant, varied(study, variant))
            for name, study in studies.items()
            if study.profile == profile
            for label, variant in study.variants.items()
        }
        # By variant that others borrow from, how its models are trained.
        owned = {label: own for (_, label), (of, own) in variants.items() if of.models is None}
        base = load_profile(profile)
        self.models = {("", ""): _models(base, base)}
        """By study and variant, what tells its models from those of others."""
        for place, (variant, own) in variants.items():
            self.models[place] = _models(own, owned[variant.models] if variant.models else own)
        self.runs: dict[str, list[ArchivedRun]] = defaultdict(list)
        for name in {name for name, _ in variants} - {but}:
            for run in whole_runs(name):
                self.runs[self._key(name, run.record.spec)].append(run)

    def like(self, spec: RunSpec, study: str) -> list[ArchivedRun]:
        """Runs that differ in seed and learning rate alone from one of a study, or of the profile
        itself where none is named.
        """
        return self.runs.get(self._key(study, spec), [])

    def _key(self, study: str, spec: RunSpec) -> str:
        schedule = spec.schedule.model_copy(update={"learning_rate": 1.0})
        run = spec.model_copy(update={"schedule": schedule, "seed": 0})
        return digest([self.models.get((study, spec.variant)), run.computed()])


def _models(pairs: Profile, trained: Profile) -> str:
    """What runs follow from that their specifications do not tell: pairs, poisons, pre-training."""
    pretrain = trained.pretrain.model_dump(mode="json", exclude={"seeds"})
    data = [profile.data.model_dump(mode="json") for profile in (pairs, trained)]
    return digest([data, pretrain])


def whole_runs(name: str) -> list[ArchivedRun]:
    """The whole runs in the archive of a study; none if it is unreadable, as the report says."""
    with suppress(LedgerError):
        runs = read_archive(archive_of(name))
        return [run for run in runs if run.record.status != "failed" and run.rows]
    return []


def means_of(name: str, seeds: Collection[int] = (), variants: Collection[str] = ()) -> str:
    """A table of what runs of a study came to, and of CleanCLIP and PAR from the same models."""
    study = load_study(name)
    chosen = chosen_models(study, seeds, variants)
    own: dict[str, list[ArchivedRun]] = defaultdict(list)
    for run in whole_runs(name):
        spec = run.record.spec
        if (spec.variant, spec.seed) in chosen:
            own[setting_name(spec).partition(" lr ")[0]].append(run)

    archive = Archive(study.profile, but=name)
    rows = [row for setting, runs in own.items() for row in _rows(setting, runs, archive, name)]
    heads = ("mean accuracy, ASR (seeds)", "here", *RIVALS)
    return "\n".join(table_lines(heads, rows))


def _rows(
    setting: str, runs: list[ArchivedRun], archive: Archive, study: str
) -> Iterator[tuple[str, ...]]:
    """Of runs that differ in seed and learning rate: the last evaluations at each rate, and the
    best of cleaning.
    """
    spec = runs[0].record.spec
    groups = [runs]
    for defence in RIVALS.values():
        rival = spec.model_copy(update={"defence": defence, "loss": "mmcl_ssl"})
        groups.append(archive.like(rival, study) if spec.stage == "clean" else [])
    if spec.stage == "clean":
        cap = f"{spec.evaluate.asr_cap:.0%}"
        yield f"{setting}, best of ASR <= {cap}", *(str(Ends.of_best(of) or "") for of in groups)
    for rate in sorted({run.record.spec.schedule.learning_rate for run in runs}):
        yield f"{setting}, last at {rate:g}", *(str(Ends.of_last(of, rate) or "") for of in groups)
