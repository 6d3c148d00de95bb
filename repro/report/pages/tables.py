"""Rows and words that page, article and README share, made from report.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from repro.report.figures.style import Document, Entry
from repro.report.format import label, percent
from repro.report.keyed import Keyed

ALL = "all settings"


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A measure with its verdicts by setting, pooled last; empty where it was not measured."""

    measure: Entry
    cells: list[list[Entry]]
    """A list a setting, with an entry a comparator."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts on MMCL + SSL against MMCL that stand first: those fixed before their runs."""

    rows: Sequence[VerdictRow]
    settings: Sequence[str]
    """Heads of the columns of `rows`."""
    confirmed: bool
    """Whether rules and runs were fixed before the data were seen."""
    of_authors: bool
    """Whether they are of the authors' published points, for want of runs of our own."""
    seeds: Sequence[int]
    archived: int
    planned: int
    """Seeds of the confirmation: those that are archived so far, and all."""
    more: int
    pairs: int
    """In how many pairs of runs at equal seed, rate and steps the MMCL + SSL model keeps more."""
    secondary: Sequence[Entry]

    def measure(self, name: str) -> Entry | None:
        """Return the verdicts by one measure."""
        return next((row.measure for row in self.rows if row.measure["measure"] == name), None)

    @property
    def start_asr(self) -> float:
        """Mean ASR before cleaning."""
        cells = self.rows[0].measure["cells"]
        return fmean(asr for cell in cells for asr in cell["start_asr"].values())


@dataclass(frozen=True, slots=True)
class Hero:
    """What both models have left at one learning rate, as means over seeds, by objective."""

    setting: str
    rate: float
    seeds: int
    asr: Mapping[str, float]
    kept: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Table1Row(Keyed):
    """A setting of Table 1: the paper's numbers beside ours, as fractions."""

    dataset: str
    clean_size: str
    pretrain_objective: str
    before: Entry
    """`original_accuracy` of report.json: paper, authors_points, reproduced by this run, ci95."""
    after: Entry
    """`clean_accuracy`, and with it ASR, learning rate and number of evaluations."""
    over: Entry
    """Over the seeds of the archive: `accuracy` and `asr` before cleaning, `cleaned_accuracy` at
    the ASR threshold; empty without an archive."""


def verdicts_of(document: Document) -> Verdicts | None:
    """Return the verdicts to show first; None where no seed was run."""
    found: Entry = document["verdicts"]
    measures = found["confirmed"] or found["exploratory"] or found["authors"]
    if not measures:
        return None
    settings = list(dict.fromkeys(setting_words(cell) for m in measures for cell in m["cells"]))
    rows = [
        VerdictRow(m, [[of for of in m["cells"] if setting_words(of) == name] for name in settings])
        for m in measures
    ]
    if len(settings) > 1:
        settings.append(ALL)
        for row in rows:
            row.cells.append([row.measure["pooled"]] if row.measure["pooled"] else [])
    return Verdicts(
        rows,
        settings,
        confirmed=found["confirmed"] is not None,
        of_authors=not found["confirmed"] and not found["exploratory"],
        seeds=found["confirmed_seeds"] if found["confirmed"] else found["seeds"],
        archived=len(found["confirmed_seeds"]),
        planned=len(found["planned_seeds"]),
        more=sum(entry["more"] for entry in found["equal_runs"]),
        pairs=sum(entry["pairs"] for entry in found["equal_runs"]),
        secondary=found["secondary"],
    )


def tally(measure: Entry) -> str:
    """Return how many settings have which verdict: "supported in 2 of 3 settings, refuted in 1"."""
    verdicts = {setting_words(cell): base_verdict(cell["verdict"]) for cell in measure["cells"]}
    words = [f"{verdict} in {n}" for verdict, n in Counter(verdicts.values()).most_common()]
    words[0] += f" of {len(verdicts)} settings" if len(verdicts) > 1 else " setting"
    return ", ".join(words)


def base_verdict(verdict: str | None) -> str:
    """Return a verdict without its reason or size."""
    return re.split("[:,]", verdict or "not run")[0]


def seeds_in_words(count: int) -> str:
    """Return "one seed" or "mean of 5 seeds"."""
    return "one seed" if count == 1 else f"mean of {count} seeds"


def setting_words(row: Entry) -> str:
    """Return "CC6M, 200K" of a row, "CC6M" before cleaning; "all settings" of a pooled one."""
    keys = (row["dataset"], row["clean_size"])
    return ", ".join(label(key) for key in keys if key) or ALL


def over_seeds(measured: Entry | None) -> str:
    """Return mean and standard deviation over seeds, or the values of those that were cleaned."""
    if measured is None:
        return "–"
    values = measured["values"]
    known = [value for value in values if value is not None]
    # Those that were cleaned are no sample of all, so that their mean would mislead.
    if len(known) < len(values):
        found = f": {', '.join(map(percent, known))}" if known else ""
        return f"{len(known) or 'none'} of {len(values)} cleaned{found}"
    return percent(fmean(known)) + (f" ± {percent(stdev(known))}" if len(known) > 1 else "")


def hero(document: Document) -> Hero | None:
    """Return what stands in the first figure at its middle learning rate."""
    cells = [cell for cell in document["resistance"]["cells"] if cell["equal"]]
    if not cells:
        return None
    row = cells[-1]["equal"][len(cells[-1]["equal"]) // 2]
    ends = {objective: row[objective] for objective in ("mmcl", "mmcl_ssl")}
    asr, kept = (
        {objective: fmean(end[name] or 0 for end in of) for objective, of in ends.items()}
        for name in ("asr", "kept")
    )
    seeds = min(map(len, ends.values()))
    return Hero(setting_words(cells[-1]), row["learning_rate"], seeds, asr, kept)


def table1(document: Document) -> list[Table1Row]:
    """Return the rows of Table 1, with the seeds of the archive beside this run."""
    name = document["resistance"]["study"]
    archived = {
        _cell(row): row["measures"]
        for study in document["studies"]
        for row in study["rows"]
        if (study["name"], study["reference"]) == (name, row["variant"])
    }
    return [
        Table1Row(
            *_cell(row),
            row["original_accuracy"],
            row["clean_accuracy"],
            archived.get(_cell(row), {}),
        )
        for row in document["tables"]["table1"]["rows"]
    ]


def _cell(row: Entry) -> tuple[str, str, str]:
    return row["dataset"], row["clean_size"], row["pretrain_objective"]


def claim_counts(document: Document) -> dict[str, int]:
    """Return how many claims of the paper have which verdict, the most frequent first."""
    verdicts = verdicts_of(document)
    field = "authors_verdict" if verdicts and verdicts.of_authors else "verdict"
    return dict(Counter(base_verdict(claim[field]) for claim in document["claims"]).most_common())


def surprises(document: Document) -> list[str]:
    """Return the values of this run that lie outside what the archived seeds predict, in words."""
    titles = {row["measure"]: row["title"] for row in document["verdicts"]["exploratory"]}
    return [
        f"{titles.get(row['measure'], row['measure'])}, {setting_words(row)}, {label(row['of'])}"
        for row in document["own_run"]
        if not row["inside"]
    ]


def run_counts(document: Document) -> dict[str, int]:
    """Return the number of runs made here and of distinct archived ones, and their seconds."""
    here, archived = {}, {}
    for folder, run in document["runs"].items():
        if folder.startswith(f"results/{document['profile']}/"):
            here[folder] = run["seconds"]
        else:
            archived[run["fingerprint"]] = run["seconds"]
    return {
        "here": len(here),
        "archived": len(archived),
        "seconds_here": round(sum(here.values())),
        "seconds_archived": round(sum(archived.values())),
    }


def credits_of(document: Document) -> Iterator[tuple[str, list[str]]]:
    """Licence of pictures, and the works under it; none where the data are not here."""
    attribution = document["context"]["attribution"] or {}
    works: dict[str, list[str]] = {}
    for entry in attribution.get("images", []):
        licence = entry["license"] or "licence not stated"
        works.setdefault(licence, []).append(f"{entry['title']} by {entry['copyright']}")
    yield from sorted(works.items())
