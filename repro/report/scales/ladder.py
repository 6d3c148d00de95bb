"""The ladder of scales: what is smaller at each, and what came out there; one row a scale.

The report's own profile, `midi` by the study of its name, and the paper by its printed numbers. All
shares are fractions; results are of the dataset cc6m and means over seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from repro.profile import SPECS, load_profile
from repro.report.judging.claims import Claims
from repro.report.judging.verdicts import headline, judged_claims
from repro.report.numbers.cells import OBJECTIVES, TABLE1_ROWS, Model
from repro.report.numbers.cleaned import ControlOutcome, judged_control, positive_control
from repro.report.numbers.evidence import Evidence, Settings
from repro.report.numbers.paper import Paper
from repro.report.numbers.resistance import resistance
from repro.report.scales.settings import PRINTED, has_profile, patch_share, poisoned_shares
from repro.report.schema.resistance import Resistance
from repro.report.schema.scales import (
    LadderControl,
    LadderResistance,
    LadderRow,
    LadderStart,
)
from repro.report.studies.results import StudyResults, archive_problems, read_study_results
from repro.spec import CleanSize, Dataset, Profile

LARGER = "midi"
"""The scale between the default one and the paper's; its results come as a study of this name."""
SLOT: Dataset = "cc6m"
"""The dataset whose models are told: all of a scale's pairs, cleaned with both sizes."""
SLOT_SIZES: tuple[CleanSize, ...] = tuple(size for slot, size in TABLE1_ROWS if slot == SLOT)


@dataclass(frozen=True, slots=True)
class MeasuredScale:
    """The runs that tell what came out at a scale."""

    evidence: Evidence
    resistance: Resistance
    """Measured on these runs; it names the study that they are of, if they are of one."""


def larger_study(name: str, root: Path) -> StudyResults | None:
    """The study of the scale `midi`, for the report of another profile; None without results."""
    if name == LARGER or not has_profile(name, root):
        return None
    studies = {study.name: study for study in read_study_results(LARGER, root)}
    return studies.get(LARGER)


def ladder(
    own: MeasuredScale, larger: StudyResults | None, claims: Claims, root: Path = Path()
) -> list[LadderRow]:
    """One row a scale, the smallest first; none for a replay, which has no profile.

    `larger`: what `larger_study` found; specifications are read below `root`.
    """
    name = own.evidence.settings.name
    if not has_profile(name, root):
        return []

    rows = [_row(load_profile(name, root / SPECS), own, claims)]
    if name != LARGER:
        rows.append(_larger_row(larger, claims, root))
    return [*rows, _printed(load_profile(PRINTED, root / SPECS), claims)]


def told_problems(name: str, root: Path) -> list[str]:
    """What is wrong with the archives of a profile's studies, and of those of the larger scale that
    is told beside them.
    """
    profiles = dict.fromkeys([name, LARGER])
    return [line for profile in profiles for line in archive_problems(profile, root)]


def larger_scale(name: str, claims: Claims, root: Path) -> LadderRow | None:
    """The row of the scale `midi`, for results of another profile; None without results."""
    study = larger_study(name, root)
    return None if study is None else _larger_row(study, claims, root)


def _larger_row(study: StudyResults | None, claims: Claims, root: Path) -> LadderRow:
    profile = load_profile(LARGER, root / SPECS)
    return _row(profile, _of_study(study, profile, claims.paper), claims)


def _of_study(study: StudyResults | None, profile: Profile, paper: Paper) -> MeasuredScale | None:
    """The reference of a study: the profile as it is, over the study's seeds."""
    if study is None:
        return None
    whole = study.by_variant(Settings.of(profile)).get(f"{study.name}/{study.spec.reference}")
    return None if whole is None else MeasuredScale(whole, resistance(whole, paper, study.name))


def _row(profile: Profile, measured: MeasuredScale | None, claims: Claims) -> LadderRow:
    row = _unmeasured(profile)
    if measured is None or not measured.evidence.runs:
        return row

    # Verdicts over all seeds of these runs, whatever the first one says in the tables.
    evidence = measured.evidence
    main = [claim for claim in claims.claims if claim.id in claims.main_claims]
    answer = headline(evidence, judged_claims(evidence, claims, main, {}), claims.main_claims)
    return {
        **row,
        "source": "report" if measured.resistance["study"] is None else "study",
        "seeds": list(evidence.settings.seeds),
        "starts": _starts(evidence),
        "controls": [_control(evidence, claims, size) for size in SLOT_SIZES],
        "verdict": answer["verdict"],
        "claims": answer["claims"],
        "resistance": _areas(measured.resistance),
    }


def _unmeasured(profile: Profile) -> LadderRow:
    """What a scale has before anything is run."""
    data = profile.data
    return {
        "scale": profile.name,
        "source": None,
        "seeds": [],
        "stand_in": data.stand_in,
        "asr_cap": profile.evaluate.asr_cap,
        "pairs": data.num_pairs[SLOT],
        "poisoned": poisoned_shares(profile)[SLOT],
        "patch": patch_share(profile),
        "cleaning": [
            {"clean_size": size, "share": data.cleaning_sizes[size] / data.num_pairs[SLOT]}
            for size in SLOT_SIZES
            if size in data.cleaning_sizes
        ],
        "starts": [],
        "controls": [],
        "verdict": None,
        "claims": [],
        "resistance": [],
    }


def _starts(evidence: Evidence) -> list[LadderStart]:
    """The poisoned models of the slot that were measured, means over seeds."""
    found: list[LadderStart] = []
    for objective in OBJECTIVES:
        model = Model(SLOT, objective)
        points = [evidence.start(*model, seed) for seed in evidence.settings.seeds]
        known = [point for point in points if point is not None]
        if known:
            found.append(
                {
                    "pretrain_objective": objective,
                    "accuracy": fmean(point.accuracy for point in known),
                    "asr": fmean(point.asr for point in known),
                }
            )
    return found


def _control(evidence: Evidence, claims: Claims, size: CleanSize) -> LadderControl:
    found = positive_control(evidence, claims.paper, SLOT, size, claims.control_rule)
    return {
        "clean_size": size,
        "holds": found and found["holds"],
        # Of a model that no rate cleans, all is lost, and the ASR is the lowest.
        "loss": found and found["loss"],
        "asr": found and found["asr"],
    }


def _areas(found: Resistance) -> list[LadderResistance]:
    """What the MMCL model keeps more of its accuracy, by our own runs."""
    return [
        {"clean_size": cell["clean_size"], "area": trade_off["area"]}
        for cell in found["cells"]
        if cell["dataset"] == SLOT
        for trade_off in cell["trade_offs"]
        if trade_off["source"] == "ledger"
    ]


def _printed(profile: Profile, claims: Claims) -> LadderRow:
    """The paper's own numbers, as it prints them."""
    starts: list[LadderStart] = []
    for objective in OBJECTIVES:
        start = claims.paper.start(SLOT, objective)
        if start is not None:
            starts.append(
                {
                    "pretrain_objective": objective,
                    "accuracy": start.accuracy,
                    "asr": start.asr,
                }
            )
    return {
        **_unmeasured(profile),
        "source": "printed",
        "starts": starts,
        "controls": [_printed_control(claims, size) for size in SLOT_SIZES],
    }


def _printed_control(claims: Claims, size: CleanSize) -> LadderControl:
    """The positive control by Table 1, which tells no ASR but that it is at most the cap."""
    cleaned, start = claims.paper.cleaned(SLOT, size, "mmcl"), claims.paper.start(SLOT, "mmcl")
    if cleaned is None or cleaned.clean_accuracy is None or start is None:
        return {"clean_size": size, "holds": None, "loss": None, "asr": None}

    lost = 1 - cleaned.clean_accuracy / cleaned.original_accuracy
    outcome = ControlOutcome(start.asr, lost, 0.0, cleaned=True)
    judged = judged_control([outcome], claims.control_rule)
    return {"clean_size": size, "holds": judged and judged["holds"], "loss": lost, "asr": None}
