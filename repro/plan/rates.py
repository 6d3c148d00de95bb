"""From work to time: what a device takes for each kind of work, and what follows for the clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from repro.plan.work import Work
from repro.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Seconds:
    """Device time of some runs by what it goes into."""

    training: float = 0.0
    """Forward, backward and update."""
    host: float = 0.0
    """Waiting for pairs that the host is still making ready."""
    evaluation: float = 0.0
    checkpoints: float = 0.0
    run: float = 0.0
    """What runs take besides: optimizers, files and records, and first steps, which are slower."""
    start: float = 0.0
    """Imports, data and model, before the first step of a process."""

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(
            self.training + other.training,
            self.host + other.host,
            self.evaluation + other.evaluation,
            self.checkpoints + other.checkpoints,
            self.run + other.run,
            self.start + other.start,
        )

    @property
    def total(self) -> float:
        """All of it."""
        computing = self.training + self.host + self.evaluation
        return computing + self.checkpoints + self.run + self.start


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds that one device (a GPU, or a core) takes."""

    pair_view: Mapping[str, float]
    """For the training step of one pair-view, by `Work.kind`."""
    wait: Mapping[str, float]
    """For one pair-view, waiting for the host besides, by `Work.kind`."""
    evaluation: float
    start: float
    """From the start of a process to its first step."""
    checkpoint_share: float = 0.0
    """Time of checkpoints over that of training."""
    run: Mapping[str, float] = field(default_factory=dict)
    """For a run beside its steps and evaluations, by `Work.kind`; none where that is not known."""
    record: float = 0.0
    """Processor time that the record of a cleaning run takes from the runs beside it, where these
    fill all cores: the process that tracks a pack has no core of its own."""

    def seconds(self, work: Work) -> Seconds:
        """Device time of a run from its first step to its last evaluation."""
        training = work.pair_views * self.pair_view[work.kind]
        host = work.pair_views * self.wait[work.kind]

        # A pre-training has a process of its own, and its record is made before and after it.
        record = self.record if work.spec.stage == "clean" else 0.0
        return Seconds(
            training=training,
            host=host,
            evaluation=work.evaluations * self.evaluation,
            checkpoints=(training + host) * self.checkpoint_share,
            run=self.run.get(work.kind, 0.0) + record,
        )


def wall_seconds(
    works: Sequence[Work], rates: Rates, devices: int, *, side_by_side: bool
) -> dict[str, float]:
    """Wall time of the stages `pretrain` and `clean` on `devices` GPUs or cores, by the launcher's
    rules.

    Cleaning runs of all models go side by side, one device each, the longest first. So do
    pre-trainings on cores and clusters (`side_by_side`); on GPUs one takes all devices, as far as
    its batch can be split. Communication between devices is left out.
    """
    pretrainings = [work for work in works if work.spec.stage == "pretrain"]
    cleanings = [work for work in works if work.spec.stage == "clean"]

    if side_by_side:
        # A process each, so each run has a start of its own.
        took_by_run = [rates.start + rates.seconds(work).total for work in pretrainings]
        pretrain = makespan(took_by_run, devices)
    else:
        pretrain = 0.0
        for work in pretrainings:
            pretrain += rates.start + rates.seconds(work).total / _ranks(work.spec, devices)

    # A pack starts once for all of its cleaning runs.
    clean = makespan([rates.seconds(work).total for work in cleanings], devices)
    clean += rates.start * packs_per_device(cleanings, devices)
    return {"pretrain": pretrain, "clean": clean}


def packs_per_device(works: Sequence[Work], devices: int) -> int:
    """Processes that a device starts one after another at most: runs on the same data share one."""
    return min(len({work.spec.dataset for work in works}), -(-len(works) // devices))


def num_processes(works: Sequence[Work], devices: int) -> int:
    """Processes that are started in all for the runs of a stage."""
    by_stage: dict[str, list[Work]] = defaultdict(list)
    for work in works:
        by_stage[work.spec.stage].append(work)
    pretrainings, cleanings = by_stage["pretrain"], by_stage["clean"]
    return len(pretrainings) + packs_per_device(cleanings, devices) * min(devices, len(cleanings))


def makespan(durations: Sequence[float], devices: int) -> float:
    """Time until the last of some runs ends when each goes, longest first, to the device with the
    least to do.
    """
    busy = [0.0] * devices
    for duration in sorted(durations, reverse=True):
        busy[busy.index(min(busy))] += duration
    return max(busy)


def _ranks(spec: RunSpec, devices: int) -> int:
    """Ranks of a pre-training: what divides its BatchNorm groups, at most one a device."""
    groups = spec.schedule.global_batch_size // spec.schedule.norm_batch_size
    return max(ranks for ranks in range(1, groups + 1) if groups % ranks == 0 and ranks <= devices)
