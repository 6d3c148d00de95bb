"""The bench: what each defence leaves of each backdoor, by pre-training objective, on equal terms.

Equal are the start models, the pairs, the steps and the number of learning rates. Shares are
fractions, of the test images unless said otherwise. docs/method.md defines the measures.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

import pandas as pd

from repro.names import DEFENCES, LOSSES, TRIGGERS
from repro.report.contrasts import Estimate, estimate
from repro.report.measures import CleanedModel, Evaluations, Models, Value, asr_frontier
from repro.report.studies import StudyResults
from repro.spec import Objective, RunSpec

STUDIES = ("mechanism", "bench", "par")
"""Of `par` the arms with as many learning rates as the others. Other studies vary what is equal
here: the draw, or the views of pre-training.
"""
TAKES = 0.9
"""Least ASR on the validation images of a model whose backdoor counts as taken."""
ALLOWED = (0.05, 0.1)
"""Shares of accuracy that a defender who cannot measure the ASR is ready to lose."""


@dataclass(frozen=True)
class Setting:
    """The end of the runs at one learning rate, as means over seeds."""

    learning_rate: float
    kept: float
    """Accuracy as a share of the start's."""
    asr: float


@dataclass(frozen=True)
class BenchCell:
    """A defence against an attack on models of one objective, over the seeds of its study."""

    attack: str
    pretrain_objective: Objective
    defence: str
    sees: str
    """Data that the defence works on."""
    study: str
    variant: str
    start_asr: Estimate
    took: bool
    """Whether the backdoor took, by the mean over seeds; else nothing is to be cleaned."""
    left: Estimate
    """`asr_frontier`, for which the defender knows the trigger."""
    blind: dict[str, Estimate]
    """Share of accuracy that may be lost to `asr_blind`."""
    price: Estimate
    """Of not knowing the trigger: `asr_blind` at the first of ALLOWED less `left`."""
    settings: list[Setting]
    core_seconds: float
    """Of all runs of a seed, median over seeds."""


def asr_blind(model: CleanedModel, lost: float) -> Value:
    """Test ASR at the end of the run with the highest learning rate that loses at most `lost` of
    the accuracy on the validation images; of the start model where every run loses more.
    """
    kept = model.ends[
        model.ends.validation_accuracy >= (1 - lost) * model.start.validation_accuracy
    ]
    return Value((model.start if kept.empty else kept.iloc[-1]).test_asr)


def bench(studies: Iterable[StudyResults], evaluations: Evaluations) -> list[BenchCell]:
    """All cells, by attack and objective in the order of their lists."""
    cells = []
    for study in studies:
        if study.name not in STUDIES:
            continue
        arms: dict[tuple[str, Objective], RunSpec] = {}
        seconds: dict[tuple[str, Objective, int], float] = defaultdict(float)
        for record in (run.record for run in study.runs if run.record.spec.stage == "clean"):
            arm = record.spec.variant, record.spec.pretrain_objective
            arms[arm] = record.spec
            seconds[*arm, record.spec.seed] += record.seconds

        for arm, spec in arms.items():
            which = Models(
                (f"{study.name}/{spec.variant}",),
                spec.pretrain_objective,
                spec.dataset,
                spec.clean_size,
            )
            if models := evaluations.models(which):
                # A run that was paused counts its pause.
                spent = median(seconds[*arm, seed] for seed in models)
                left = evaluations.values(which, asr_frontier)
                cells.append(_cell(study.name, spec, models, left, spent))
    most = max((len(cell.settings) for cell in cells), default=0)
    attacks, objectives = list(TRIGGERS.values()), list(LOSSES)
    return sorted(
        (cell for cell in cells if len(cell.settings) == most),
        key=lambda c: (attacks.index(c.attack), objectives.index(c.pretrain_objective)),
    )


def _cell(
    study: str,
    spec: RunSpec,
    models: dict[int, CleanedModel],
    left: dict[int, Value],
    seconds: float,
) -> BenchCell:
    name, settings = spec.defence_settings
    finetuned = "CleanCLIP" if settings.get("ssl_weight") else "finetuning by MMCL"
    blind = {
        lost: {seed: asr_blind(model, lost) for seed, model in models.items()} for lost in ALLOWED
    }
    price = {seed: blind[ALLOWED[0]][seed].plus(of.times(-1)) for seed, of in left.items()}
    ends = pd.concat(model.ends.assign(asr=model.ends.test_asr) for model in models.values())
    by_rate = ends.groupby("learning_rate", as_index=False)[["kept", "asr"]].mean()
    return BenchCell(
        attack=TRIGGERS[spec.trigger.name],
        pretrain_objective=spec.pretrain_objective,
        defence=finetuned if name == "cleanclip" else DEFENCES[name].label,
        sees=DEFENCES[name].sees,
        study=study,
        variant=spec.variant,
        start_asr=estimate({s: Value(model.start.test_asr) for s, model in models.items()}),
        took=fmean(model.start.validation_asr for model in models.values()) >= TAKES,
        left=estimate(left),
        blind={f"{lost:g}": estimate(values) for lost, values in blind.items()},
        price=estimate(price),
        settings=[Setting(**row) for row in by_rate.to_dict("records")],
        core_seconds=seconds,
    )
