"""What figures, pages, article and README read out of report.json."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, TypeAlias

from repro.report.cells import OBJECTIVES
from repro.report.format import label, percent

Entry: TypeAlias = Mapping[str, Any]
"""An object of report.json."""
Document: TypeAlias = Entry
"""The whole of report.json."""
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


@dataclass(frozen=True)
class Arrow:
    """Accuracy before and after cleaning of one model in one setting; None where there is none."""

    setting: str
    objective: str
    ours: tuple[float | None, float | None]
    """Means over seeds."""
    paper: tuple[float | None, float | None]
    own: tuple[float | None, float | None]
    """Of the report's own run, where archived seeds stand beside it."""
    says: str
    """What is lost, as a share of the accuracy before."""

    @property
    def model(self) -> str:
        """The objective in words."""
        return label(self.objective)


@dataclass(frozen=True)
class StripRow:
    """A difference in one setting against one comparator."""

    name: str
    difference: Entry
    paper: float | None
    main: bool
    """Whether the comparator is the first."""
    pooled: bool


@dataclass(frozen=True)
class Strip:
    """A measure in all settings, as the forest plot draws it."""

    title: str
    unit: str
    says: str
    """The verdict of the mean over the settings."""
    rows: list[StripRow]


def measure_in(verdicts: Verdicts | None, name: str, place: tuple[str, str]) -> Entry | None:
    """Return the verdict by a measure in one setting against the first comparator."""
    measure = verdicts and verdicts.measure(name)
    cells = measure["cells"] if measure else ()
    return next((cell for cell in cells if (cell["dataset"], cell["clean_size"]) == place), None)


def findings(document: Document) -> tuple[str, str]:
    """Return the titles of the first figure: what was found, or else what is shown."""
    verdicts = verdicts_of(document)
    found = {
        name: base_verdict(measure["verdict"])
        for name in ("asr_left_at_rate", "lost_at_cap", "accuracy_at_cap")
        if verdicts and (measure := verdicts.measure(name))
    }
    harder = found.get("asr_left_at_rate") == "supported"
    loses = found.get("lost_at_cap") == "supported"
    ahead = found.get("accuracy_at_cap") == "MMCL + SSL higher"
    return (
        "MMCL + SSL is harder to clean" if harder else "What CleanCLIP leaves of the backdoor",
        "It loses more, and still ends ahead"
        if loses and ahead
        else "Accuracy before and after cleaning",
    )


def arrows(document: Document) -> list[Arrow]:
    """Return accuracy before and after cleaning of both models in every setting with verdicts."""
    verdicts = verdicts_of(document)
    if verdicts is None:
        return []
    found = []
    for row in document["tables"]["table1"]["rows"]:
        place, objective = (row["dataset"], row["clean_size"]), row["pretrain_objective"]
        lost = measure_in(verdicts, "lost_at_cap", place)
        if lost is None:
            continue
        cleaned = measure_in(verdicts, "accuracy_at_cap", place)
        before, after = row["original_accuracy"], row["clean_accuracy"]
        own = (before["reproduced"], after["reproduced"]) if document["own_cells"] else (None, None)
        loss = lost[objective]
        found.append(
            Arrow(
                setting_words(row),
                objective,
                (
                    lost["start_accuracy"][objective],
                    cleaned[objective]["mean"] if cleaned else None,
                ),
                (before["paper"], after["paper"]),
                own,
                f"loses {'at least ' * loss['at_least']}{100 * loss['mean']:.0f}%",
            )
        )
    return found


def strips(document: Document) -> list[Strip]:
    """Return the measures of the forest plot, without those in logits, which nobody can read."""
    verdicts = verdicts_of(document)
    if verdicts is None:
        return []
    found = []
    for measure in verdicts.measures:
        if measure["unit"] == "logits":
            continue
        papers, first = measure["paper"] or {}, measure["cells"][0]["comparator"]
        beside = [
            (entry["name"], cell)
            for entry in document["verdicts"]["secondary"]
            for of in entry["measures"]
            if of["measure"] == measure["measure"]
            for cell in of["cells"]
        ]
        rows = [
            StripRow(
                setting_words(cell) + comparator_words(cell, first),
                cell["difference"],
                papers.get(cell["dataset"]),
                main=cell["comparator"] == first,
                pooled=False,
            )
            for cell in sorted(measure["cells"], key=lambda cell: setting_words(cell))
        ]
        rows += [
            StripRow(
                f"{setting_words(cell)}, {label(name)}", cell["difference"], None, False, False
            )
            for name, cell in beside
        ]
        if measure["pooled"]:
            rows.append(
                StripRow(ALL, measure["pooled"]["difference"], None, main=True, pooled=True)
            )
        found.append(Strip(measure["title"], measure["unit"], measure["verdict"], rows))
    return found


def comparator_words(cell: Entry, first: str) -> str:
    """Return ", groups of 64" of another comparator than the first."""
    return "" if cell["comparator"] == first else f", {label(cell['comparator'])}"


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


def controls_hold(document: Document) -> bool:
    """Return whether the positive control holds in every setting."""
    verdicts = verdicts_of(document)
    lost = verdicts.measure("lost_at_cap") if verdicts else None
    return bool(lost) and all(cell["control"]["holds"] for cell in (lost or {})["cells"])


def pairs_of_runs(document: Document) -> tuple[int, int]:
    """Return in how many pairs of runs of equal seed and rate MMCL + SSL keeps more, and of all."""
    rows = [row for cell in document["resistance"]["cells"] for row in cell["equal"]]
    return sum(row["more"] for row in rows), sum(len(row["mmcl"]) for row in rows)


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
