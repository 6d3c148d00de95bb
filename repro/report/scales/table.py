"""The scales in one table: what each has of the paper's data, and what came out there for CC6M."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.profile import SPECS, load_profile
from repro.report.numbers.cells import OBJECTIVES, TABLE1_ROWS
from repro.report.numbers.evidence import Settings
from repro.report.numbers.paper import Paper
from repro.report.scales.settings import PRINTED, has_profile, patch_share, poisoned_shares
from repro.report.studies.results import read_study_results, studied
from repro.report.studies.tables import EffectRow, StudyEntry
from repro.spec import CleanSize, Dataset, Objective, Profile

LARGER = "midi"
"""The scale between the default one and the paper's; a study of its name has its results."""
DATASET: Dataset = "cc6m"
"""All pairs of a scale, cleaned with both sizes."""
SIZES: tuple[CleanSize, ...] = tuple(size for dataset, size in TABLE1_ROWS if dataset == DATASET)


@dataclass(frozen=True, slots=True)
class ScaleResult:
    """A model of CC6M at one scale, means over seeds, fractions."""

    pretrain_objective: Objective
    accuracy: float | None
    """Before cleaning, as the next one."""
    asr: float | None
    lost: dict[CleanSize, float | None]
    """Share of the accuracy lost at the ASR threshold."""
    at_least: list[CleanSize]
    """Sizes with which some seed was not cleaned, so that its loss is a lower bound."""


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """One scale."""

    scale: str
    """The profile."""
    source: str | None
    """The study that the results are of, "printed" for the paper's own; None without results."""
    seeds: list[int]
    pairs: int
    """Of CC6M."""
    poisoned: float
    """Fraction of these pairs."""
    patch: float | None
    """Fraction of the image; None for a trigger without a patch."""
    cleaning: dict[CleanSize, float]
    """Cleaning sets as fractions of these pairs."""
    results: list[ScaleResult]


def scale_rows(
    name: str, own: Sequence[StudyEntry], paper: Paper, root: Path = Path()
) -> list[ScaleRow]:
    """The profile by its studies (`own`, those of most seeds first), the scale `midi`, the paper.

    No rows for a replay of the authors' files, which has no profile.
    """
    if not has_profile(name, root):
        return []

    rows = [_row(load_profile(name, root / SPECS), _whole(own))]
    if name != LARGER and has_profile(LARGER, root):
        larger = load_profile(LARGER, root / SPECS)
        results = read_study_results(LARGER, root)
        found = studied(results, Settings.of(larger), None, root)
        rows.append(_row(larger, _whole(found.studies)))
    return [*rows, _printed(load_profile(PRINTED, root / SPECS), paper)]


def _whole(studies: Sequence[StudyEntry]) -> StudyEntry | None:
    """The first study whose reference cleans models of both objectives."""
    for study in studies:
        cleaned = {
            row.pretrain_objective
            for row in study.rows
            if (row.variant, row.dataset) == (study.reference, DATASET) and row.tried
        }
        if cleaned == set(OBJECTIVES):
            return study
    return None


def _row(profile: Profile, study: StudyEntry | None = None) -> ScaleRow:
    data = profile.data
    row = ScaleRow(
        scale=profile.name,
        source=None,
        seeds=[],
        pairs=data.num_pairs[DATASET],
        poisoned=poisoned_shares(profile)[DATASET],
        patch=patch_share(profile),
        cleaning={
            size: data.cleaning_sizes[size] / data.num_pairs[DATASET]
            for size in SIZES
            if size in data.cleaning_sizes
        },
        results=[],
    )
    if study is None:
        return row
    own = [row for row in study.rows if (row.variant, row.dataset) == (study.reference, DATASET)]
    results = [_result(objective, own) for objective in OBJECTIVES]
    return replace(row, source=study.name, seeds=own[0].seeds, results=results)


def _result(objective: Objective, rows: Sequence[EffectRow]) -> ScaleResult:
    by_size = {row.clean_size: row for row in rows if row.pretrain_objective == objective}
    start = next(iter(by_size.values())).measures
    return ScaleResult(
        objective,
        accuracy=start["accuracy"].mean,
        asr=start["asr"].mean,
        lost={size: by_size[size].measures["lost"].mean for size in SIZES if size in by_size},
        at_least=[size for size in SIZES if size in by_size and by_size[size].not_cleaned],
    )


def _printed(profile: Profile, paper: Paper) -> ScaleRow:
    """The paper's own numbers."""
    results = []
    for objective in OBJECTIVES:
        start = paper.start(DATASET, objective)
        cells = {size: paper.cleaned(DATASET, size, objective) for size in SIZES}
        if start is not None:
            lost: dict[CleanSize, float | None] = {
                size: 1 - cell.clean_accuracy / cell.original_accuracy
                for size, cell in cells.items()
                if cell is not None and cell.clean_accuracy is not None
            }
            results.append(ScaleResult(objective, start.accuracy, start.asr, lost, at_least=[]))
    return replace(_row(profile), source="printed", results=results)
