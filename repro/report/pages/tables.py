"""Rows and words that page, article and README share, made from report.json."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from repro.report.figures.style import Document, Entry
from repro.report.format import label, percent
from repro.report.numbers.cells import OBJECTIVES

ALL = "all settings"


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on MMCL + SSL against MMCL that stand first: those fixed before their runs."""

    measures: Sequence[Entry]
    settings: Sequence[str]
    """Of their cells, in words, and ALL last where there are several."""
    confirmed: bool
    """Whether rules and runs were fixed before the data were seen."""
    of_authors: bool
    """Whether they are of the authors' published points, for want of runs of our own."""
    seeds: Sequence[int]

    def measure(self, name: str) -> Entry | None:
        """Return the verdicts by one measure."""
        return next((measure for measure in self.measures if measure["measure"] == name), None)

    @property
    def start_asr(self) -> float:
        """Mean ASR before cleaning."""
        cells = self.measures[0]["cells"]
        return fmean(asr for cell in cells for asr in cell["start_asr"].values())


@dataclass(frozen=True)
class Hero:
    """What both models have left at one learning rate, as means over seeds, by objective."""

    setting: str
    rate: float
    seeds: int
    asr: Mapping[str, float]
    kept: Mapping[str, float]


@dataclass(frozen=True)
class Table1Row:
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

    def __getitem__(self, name: str) -> Any:
        """The field of this name, as in report.json."""
        return getattr(self, name)


def verdicts_of(document: Document) -> Verdicts | None:
    """Return the verdicts to show first; None where no seed was run."""
    every: Entry = document["verdicts"]
    measures = every["confirmed"] or every["exploratory"] or every["authors"]
    if not measures:
        return None
    settings = list(dict.fromkeys(setting_words(cell) for of in measures for cell in of["cells"]))
    return Verdicts(
        measures,
        settings + [ALL] * (len(settings) > 1),
        confirmed=every["confirmed"] is not None,
        of_authors=not every["confirmed"] and not every["exploratory"],
        seeds=every["confirmed_seeds"] if every["confirmed"] else every["seeds"],
    )


def tally(measure: Entry) -> str:
    """Return how many settings have which verdict: "supported in 2 of 3 settings, refuted in 1"."""
    verdicts = {setting_words(cell): base_verdict(cell["verdict"]) for cell in measure["cells"]}
    words = [f"{verdict} in {n}" for verdict, n in Counter(verdicts.values()).most_common()]
    words[0] += f" of {len(verdicts)} settings" if len(verdicts) > 1 else " setting"
    return ", ".join(words)


def base_verdict(verdict: str | None) -> str:
    """Return a verdict without its reason, and without how it compares with the paper's size."""
    return re.split(r", (?:of|smaller)| \(", verdict or "not run")[0]


def paper_sizes(measure: Entry) -> str:
    """Return the paper's differences by dataset: "20 (CC3M), 46 (CC6M)"."""
    scale = 100 if measure["unit"] == "fraction" else 1
    sizes = (measure["paper"] or {}).items()
    return ", ".join(f"{scale * value:.2g} ({label(dataset)})" for dataset, value in sizes)


def seeds_in_words(count: int) -> str:
    """Return "one seed" or "mean of 5 seeds"."""
    return "one seed" if count == 1 else f"mean of {count} seeds"


def setting_words(row: Entry | Table1Row) -> str:
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
        listed = f": {', '.join(map(percent, known))}" if known else ""
        return f"{len(known) or 'none'} of {len(values)} cleaned{listed}"
    return percent(fmean(known)) + (f" ± {percent(stdev(known))}" if len(known) > 1 else "")


def hero(document: Document) -> Hero | None:
    """Return what the first figure has at the rules' learning rate, or else its middle one."""
    cells = [cell for cell in document["resistance"]["cells"] if cell["equal"]]
    if not cells:
        return None
    rows, rate = cells[-1]["equal"], document["resistance"]["rate"]
    row = next((row for row in rows if row["learning_rate"] == rate), rows[len(rows) // 2])
    asr, kept = (
        {str(name): fmean(end[share] or 0 for end in row[name]) for name in OBJECTIVES}
        for share in ("asr", "kept")
    )
    return Hero(setting_words(cells[-1]), row["learning_rate"], len(row["mmcl"]), asr, kept)


def table1(document: Document) -> list[Table1Row]:
    """Return the rows of Table 1, with the seeds of the archive beside this run."""

    def cell(row: Entry) -> tuple[str, str, str]:
        return row["dataset"], row["clean_size"], row["pretrain_objective"]

    archived = {
        cell(row): row["measures"]
        for study in document["studies"]
        if study["name"] == document["resistance"]["study"]
        for row in study["rows"]
        if row["variant"] == study["reference"]
    }
    return [
        Table1Row(
            *cell(row), row["original_accuracy"], row["clean_accuracy"], archived.get(cell(row), {})
        )
        for row in document["tables"]["table1"]["rows"]
    ]


def claim_counts(document: Document) -> dict[str, int]:
    """Return how many claims of the paper have which verdict, the most frequent first."""
    verdicts = verdicts_of(document)
    field = "authors_verdict" if verdicts and verdicts.of_authors else "verdict"
    return dict(Counter(base_verdict(claim[field]) for claim in document["claims"]).most_common())


def runs_of(document: Document) -> dict[str, dict[str, Entry]]:
    """Return the runs made here by folder, and the distinct archived ones by fingerprint."""
    runs, prefix = document["runs"], f"results/{document['profile']}/"
    return {
        "here": {folder: run for folder, run in runs.items() if folder.startswith(prefix)},
        "archived": {
            run["fingerprint"]: run for folder, run in runs.items() if not folder.startswith(prefix)
        },
    }


def credits_of(document: Document) -> list[tuple[str, list[str]]]:
    """Licence of pictures, and the works under it; none where the data are not here."""
    works: dict[str, list[str]] = defaultdict(list)
    for entry in (document["context"]["attribution"] or {}).get("images", []):
        licence = entry["license"] or "licence not stated"
        works[licence].append(f"{entry['title']} by {entry['copyright']}")
    return sorted(works.items())
