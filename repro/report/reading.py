"""What figures, pages, article and README read out of report.json."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, TypeAlias

from repro.report.cells import OBJECTIVES
from repro.report.format import bounds_in_words, label, percent
from repro.report.scales import IMAGE_SIZE

Entry: TypeAlias = Mapping[str, Any]
"""An object of report.json."""
Document: TypeAlias = Entry
"""The whole of report.json."""
ALL = "all settings"


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on MMCL + SSL against MMCL that stand first: those fixed before their runs."""

    measures: Sequence[Entry]
    confirmed: bool
    """Whether rules and runs were fixed before the data were seen."""
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


def verdicts_of(document: Document) -> Verdicts | None:
    """Return the verdicts to show first; None where no seed was run."""
    every: Entry = document["verdicts"]
    measures = every["confirmed"] or every["exploratory"]
    if not measures:
        return None
    return Verdicts(
        measures,
        confirmed=every["confirmed"] is not None,
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
class Judged:
    """A cell of the verdicts with the measure that it is of."""

    measure: Entry
    cell: Entry
    comparison: str = ""
    """Name of one that stands apart from the claims."""

    @property
    def unit(self) -> str:
        """Of the measure."""
        return str(self.measure["unit"])

    @property
    def first(self) -> str:
        """The comparator that stands for the measure."""
        return str(self.measure["cells"][0]["comparator"])

    @property
    def setting(self) -> str:
        """Setting and, where it is not the first, comparator."""
        comparator = self.cell["comparator"]
        other = "" if comparator == self.first else f", {label(comparator)}"
        return setting_words(self.cell) + other


def judged(measures: Iterable[Entry], comparison: str = "") -> list[Judged]:
    """Return every cell of these verdicts, that over all settings last."""
    return [
        Judged(measure, cell, comparison)
        for measure in measures
        for cell in filter(None, [*measure["cells"], measure["pooled"]])
    ]


def secondary(document: Document) -> list[Judged]:
    """Return the cells of the comparisons that stand apart from the claims."""
    beside = document["verdicts"]["secondary"]
    return [of for entry in beside for of in judged(entry["measures"], entry["name"])]


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
        "MMCL + SSL loses more, and still ends ahead"
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
                f"loses {bounds_in_words(loss)}{100 * loss['mean']:.0f}% of it",
            )
        )
    return found


ERRATA = {
    "claim": "What the claim rests on",
    "number": "Numbers and settings",
    "wording": "Slips of wording",
}
"""Heads of the notes on the paper's text, the weightiest first."""


def errata_of(document: Document) -> list[tuple[str, list[Entry]]]:
    """Return the notes on the paper's text under their heads, the weightiest first."""
    every = document["errata"]
    return [(head, [of for of in every if of["bears_on"] == kind]) for kind, head in ERRATA.items()]


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
        listed = f": {', '.join(map(percent, known))}" if known else ""
        return f"{len(known) or 'none'} of {len(values)} cleaned{listed}"
    return percent(fmean(known)) + (f" ± {percent(stdev(known))}" if len(known) > 1 else "")


def hero(document: Document) -> Hero | None:
    """Return what the first figure has at the rules' learning rate, or else its middle one."""
    cells = [cell for cell in document["resistance"]["cells"] if cell["equal"]]
    if not cells:
        return None
    rows = cells[-1]["equal"]
    rate = document["resistance"]["rate"]
    row = next((row for row in rows if row["learning_rate"] == rate), rows[len(rows) // 2])
    asr: dict[str, float] = {}
    kept: dict[str, float] = {}
    for name in OBJECTIVES:
        asr[name] = fmean(end["asr"] or 0 for end in row[name])
        kept[name] = fmean(end["kept"] or 0 for end in row[name])
    return Hero(setting_words(cells[-1]), row["learning_rate"], len(row["mmcl"]), asr, kept)


def controls_hold(document: Document) -> bool:
    """Return whether the positive control holds in every setting, by never-poisoned twins."""
    verdicts = verdicts_of(document)
    lost = verdicts.measure("lost_at_cap") if verdicts else None
    controls = [cell["control"] for cell in lost["cells"]] if lost else []
    return bool(controls) and all(of["holds"] and of["twin"] for of in controls)


@dataclass(frozen=True)
class Scale:
    """How large the training data of a document are."""

    pairs: int
    of_paper: int
    """Pairs of the paper's."""
    image_size: str
    """In pixels."""


def scale_of(document: Document) -> Scale | None:
    """Return the scale of the document's runs; None where it has none."""
    here = [of["pairs"] for of in document["scales"] if of["scale"] == document["profile"]]
    sizes = [of["here"] for of in document["settings_table"] if of["setting"] == IMAGE_SIZE]
    if not here or not sizes:
        return None
    return Scale(here[0], document["scales"][-1]["pairs"], sizes[0])


def claim_counts(document: Document) -> dict[str, int]:
    """Return how many claims of the paper have which verdict, the most frequent first."""
    verdicts = (base_verdict(claim["verdict"]) for claim in document["claims"])
    return dict(Counter(verdicts).most_common())


def runs_of(document: Document) -> dict[str, dict[str, Entry]]:
    """Return the runs made here by folder, and the distinct archived ones by fingerprint."""
    prefix = f"results/{document['profile']}/"
    here = {}
    archived = {}
    for folder, run in document["runs"].items():
        if folder.startswith(prefix):
            here[folder] = run
        else:
            archived[run["fingerprint"]] = run
    return {"here": here, "archived": archived}


def credits_of(document: Document) -> list[tuple[str, list[str]]]:
    """Licence of pictures, and the works under it; none where the data are not here."""
    works: dict[str, list[str]] = defaultdict(list)
    for entry in (document["context"]["attribution"] or {}).get("images", []):
        licence = entry["license"] or "licence not stated"
        works[licence].append(f"{entry['title']} by {entry['copyright']}")
    return sorted(works.items())
