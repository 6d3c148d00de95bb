"""Rows and sentences that page, article and README share, made from report.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from repro.report.format import label, percent

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """A measure with its verdicts by setting, pooled last; empty where it was not measured."""

    measure: Mapping[str, Any]
    cells: Sequence[Sequence[Mapping[str, Any]]]
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
    secondary: Sequence[Mapping[str, Any]]

    def measure(self, name: str) -> Mapping[str, Any] | None:
        """Return the verdicts by one measure."""
        return next((row.measure for row in self.rows if row.measure["measure"] == name), None)


@dataclass(frozen=True, slots=True)
class SeedValues:
    """A value of one setting over the seeds of the archive; None for a seed without it."""

    seeds: Sequence[int]
    values: Sequence[float | None]

    @property
    def known(self) -> list[float]:
        """Values of the seeds that have one."""
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        """Mean over all seeds; None where one lacks a value, for survivors are no sample."""
        return fmean(self.known) if self.known and None not in self.values else None

    @property
    def sd(self) -> float | None:
        """Standard deviation between seeds, by the same rule."""
        return stdev(self.known) if self.mean is not None and len(self.known) > 1 else None


@dataclass(frozen=True, slots=True)
class Table1Row:
    """A setting of Table 1: the paper's numbers beside ours, as fractions."""

    dataset: str
    clean_size: str
    pretrain_objective: str
    before: Mapping[str, Any]
    """`original_accuracy` of report.json: paper, authors_points, reproduced by this run, ci95."""
    after: Mapping[str, Any]
    """`clean_accuracy`, and with it ASR, learning rate and number of evaluations."""
    start: SeedValues | None
    """Accuracy before cleaning over the seeds of the archive; None without an archive."""
    start_asr: SeedValues | None
    cleaned: SeedValues | None
    """Best accuracy at the ASR threshold."""

    @property
    def setting(self) -> str:
        """Dataset and cleaning pairs in words."""
        return f"{label(self.dataset)}, {label(self.clean_size)}"


def verdicts_of(document: Document) -> Verdicts | None:
    """Return the verdicts to show first; None where no seed was run."""
    found: Mapping[str, Any] = document["verdicts"]
    measures = found["confirmed"] or found["exploratory"] or found["authors"]
    if not measures:
        return None
    places = list(dict.fromkeys(_place(cell) for m in measures for cell in m["cells"]))
    rows = []
    for measure in measures:
        cells = [[cell for cell in measure["cells"] if _place(cell) == place] for place in places]
        if len(places) > 1:
            cells.append([measure["pooled"]] if measure["pooled"] else [])
        rows.append(VerdictRow(measure, cells))
    names = [f"{label(dataset)}, {label(size)}" for dataset, size in places]
    return Verdicts(
        rows,
        [*names, "all settings"] if len(names) > 1 else names,
        confirmed=found["confirmed"] is not None,
        of_authors=not found["confirmed"] and not found["exploratory"],
        seeds=found["confirmed_seeds"] if found["confirmed"] else found["seeds"],
        archived=len(found["confirmed_seeds"]),
        planned=len(found["planned_seeds"]),
        more=sum(entry["more"] for entry in found["equal_runs"]),
        pairs=sum(entry["pairs"] for entry in found["equal_runs"]),
        secondary=found["secondary"],
    )


def _place(cell: Mapping[str, Any]) -> tuple[str, str]:
    return cell["dataset"], cell["clean_size"]


def tally(measure: Mapping[str, Any]) -> str:
    """Return how many settings have which verdict: "supported in 2 of 3 settings, refuted in 1"."""
    verdicts = {_place(cell): base_verdict(cell["verdict"]) for cell in measure["cells"]}
    counts = Counter(verdicts.values()).most_common()
    words = [f"{verdict} in {count}" for verdict, count in counts]
    words[0] += f" of {len(verdicts)} settings" if len(verdicts) > 1 else " setting"
    return ", ".join(words)


def base_verdict(verdict: str | None) -> str:
    """Return a verdict without its reason or size."""
    return re.split("[:,]", verdict or "not run")[0]


def outcome(document: Document) -> str:
    """Return the outcome as a text, for abstract and README."""
    return " ".join(outcome_sentences(document))


def outcome_sentences(document: Document) -> list[str]:
    """Return the outcome in a few sentences, the plainest first."""
    verdicts, hero = verdicts_of(document), hero_numbers(document)
    if verdicts is None:
        return ["No seed was run at this profile, so nothing can be said of the paper's claims."]
    first = verdicts.rows[0].measure["cells"]
    start = fmean(asr for cell in first for asr in cell["start_asr"].values())
    if start <= document["settings"]["asr_cap"]:
        return [
            f"The models of these runs have no backdoor (ASR {percent(start)}% before cleaning), "
            "so nothing can be said of the paper's claims."
        ]
    sentences = []
    if verdicts.of_authors:
        sentences.append("These are the authors' published points; no seed was run here.")
    if hero is not None:
        sentences.append(
            f"After the same CleanCLIP finetuning ({hero.setting}, learning rate {hero.rate:g}), "
            f"the MMCL + SSL model keeps an ASR of {percent(hero.asr['mmcl_ssl'])}% and the MMCL "
            f"model {percent(hero.asr['mmcl'])}% ({seeds_in_words(hero.seeds)})."
        )
    if rates := verdicts.measure("rate_doublings"):
        sentences.append(
            f"The learning rate that cleans the MMCL + SSL model is {_pooled_words(rates)} "
            f"({tally(rates)})."
        )
    if lost := verdicts.measure("lost_at_cap"):
        sentences.append(
            "By the paper's own measure, the accuracy lost when a model is cleaned, the MMCL + SSL "
            f"model loses {_pooled_words(lost)} ({tally(lost)})."
        )
    if not verdicts.confirmed and not verdicts.of_authors:
        sentences.append(
            "These results are exploratory, because the rules were fixed after these seeds had "
            "been seen."
        )
    return sentences


def _pooled_words(measure: Mapping[str, Any]) -> str:
    """Return the mean difference over all settings in words, with its interval."""
    whole = measure["pooled"] or measure["cells"][0]
    difference = whole["difference"]
    values = [difference["mean"], *(difference["interval"] or ())]
    if measure["unit"] == "doublings":
        mean, *ends = (f"{2**value:.1f}" for value in values)
        words = f"{mean} times as high"
    else:
        mean, *ends = (percent(value) for value in values)
        words = f"{mean} points more"
    bound = "at least " if difference["at_least"] else ""
    interval = f" [{', '.join(ends)}]" if ends else ""
    return f"{bound}{words}{interval}"


def seeds_in_words(count: int) -> str:
    """Return "one seed" or "mean of 5 seeds"."""
    return "one seed" if count == 1 else f"mean of {count} seeds"


@dataclass(frozen=True, slots=True)
class HeroNumbers:
    """What both models have left at one learning rate, as means over seeds."""

    setting: str
    rate: float
    seeds: int
    asr: Mapping[str, float]
    kept: Mapping[str, float]


def hero_numbers(document: Document) -> HeroNumbers | None:
    """Return what stands in the first figure at its middle learning rate."""
    cells = [cell for cell in document["resistance"]["cells"] if cell["equal"]]
    if not cells:
        return None
    cell = cells[-1]
    row = cell["equal"][len(cell["equal"]) // 2]
    both = ("mmcl", "mmcl_ssl")
    return HeroNumbers(
        setting_words(cell),
        row["learning_rate"],
        min(len(row[objective]) for objective in both),
        {objective: fmean(end["asr"] for end in row[objective]) for objective in both},
        {objective: fmean(end["kept"] or 0 for end in row[objective]) for objective in both},
    )


def setting_words(row: Mapping[str, Any]) -> str:
    """Return "CC6M, 200K" of a row; "all settings" of a pooled one."""
    if not row["dataset"]:
        return "all settings"
    return f"{label(row['dataset'])}, {label(row['clean_size'])}"


def table1(document: Document) -> list[Table1Row]:
    """Return the rows of Table 1, with the seeds of the archive beside this run."""
    archived = {
        (row["dataset"], row["clean_size"], row["pretrain_objective"]): row
        for row in _reference_rows(document)
    }
    rows = []
    for row in document["tables"]["table1"]["rows"]:
        cell = (row["dataset"], row["clean_size"], row["pretrain_objective"])
        over = archived.get(cell)
        values = {
            name: SeedValues(over["seeds"], over["measures"][name]["values"]) if over else None
            for name in ("accuracy", "asr", "cleaned_accuracy")
        }
        rows.append(
            Table1Row(
                *cell,
                row["original_accuracy"],
                row["clean_accuracy"],
                values["accuracy"],
                values["asr"],
                values["cleaned_accuracy"],
            )
        )
    return rows


def _reference_rows(document: Document) -> list[Mapping[str, Any]]:
    """Return the rows of the study that cleans every setting over the most seeds."""
    name = document["resistance"]["study"]
    for study in document["studies"]:
        if study["name"] == name:
            rows = [row for row in study["rows"] if row["variant"] == study["reference"]]
            return [row for row in rows if "cleaned_accuracy" in row["measures"]]
    return []


def claim_counts(document: Document) -> dict[str, int]:
    """Return how many claims of the paper have which verdict, the most frequent first."""
    verdicts = verdicts_of(document)
    field = "authors_verdict" if verdicts and verdicts.of_authors else "verdict"
    return dict(Counter(base_verdict(claim[field]) for claim in document["claims"]).most_common())


def surprises(document: Document) -> list[str]:
    """Return the values of this run that lie outside what the archived seeds predict, in words."""
    titles = {
        measure["measure"]: measure["title"] for measure in document["verdicts"]["exploratory"]
    }
    return [
        f"{titles.get(row['measure'], row['measure'])}, {setting_words(row)}, {label(row['of'])}"
        for row in document["own_run"]
        if not row["inside"]
    ]


def setting_values(values: Sequence[Mapping[str, Any]]) -> str:
    """Return the values of a setting in words, each after what it belongs to."""
    parts = []
    for entry in values:
        owner = f"{' and '.join(entry['of'])}: " if entry["of"] else ""
        parts.append(owner + _value(entry["value"]))
    return "; ".join(parts)


def _value(value: str | float | Sequence[float]) -> str:
    match value:
        case str():
            return value
        case int():
            return f"{value:,}"
        case float():
            # The paper's share of poisoned pairs, 0.05%, would be 0.1% with one decimal.
            return f"{100 * value:.2g}" if 0 < value < 0.01 else percent(value)
    if len(value) > 5:
        return f"{len(value)} from {value[0]:g} to {value[-1]:g}"
    return ", ".join(f"{rate:g}" for rate in value)


def run_counts(document: Document) -> dict[str, int]:
    """Return the number of runs made here and of distinct archived ones, and their seconds."""
    own = f"results/{document['profile']}/"
    here = [run for folder, run in document["runs"].items() if folder.startswith(own)]
    archived = {
        run["fingerprint"]: run
        for folder, run in document["runs"].items()
        if not folder.startswith(own)
    }
    return {
        "here": len(here),
        "archived": len(archived),
        "seconds_here": round(sum(run["seconds"] for run in here)),
        "seconds_archived": round(sum(run["seconds"] for run in archived.values())),
    }


def credits_of(document: Document) -> Iterator[tuple[str, list[str]]]:
    """Licence of pictures, and the works under it; none where the data are not here."""
    attribution = document["context"]["attribution"] or {}
    works: dict[str, list[str]] = {}
    for entry in attribution.get("images", []):
        licence = entry["license"] or "licence not stated"
        works.setdefault(licence, []).append(f"{entry['title']} by {entry['copyright']}")
    yield from sorted(works.items())
