"""Counts, groups and cells made ready for templates, which hold prose and layout only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from repro.report.numbers.cells import LOSSES

T = TypeVar("T")
FEW = 4
"""Runs that a claim names before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class AnswerLine:
    """The main result for one row of Table 1.

    `lost`, `ci` and `lowest` are paths in report.json, or None where there is no value.
    """

    dataset: str
    clean_size: str
    pretrain_objective: str
    lost: str | None
    """Share of the start accuracy lost by the best model at the cap."""
    ci: str | None
    lowest: str | None
    """Lowest ASR, where no model came down to the cap."""


@dataclass(frozen=True, slots=True)
class LossCell:
    """A row of the table by loss, with its place in report.json."""

    path: str
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AloneCount:
    """How often finetuning with MMCL alone leaves the better model at the cap than CleanCLIP."""

    better: int
    equal: int
    compared: int
    """Cells of Table 1 in which both were run, and one of them reached the cap."""


@dataclass(frozen=True, slots=True)
class Table:
    """A small table: heads of the columns after the first, and per row its name and its cells."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True, slots=True)
class Account:
    """Accounting of one folder of data: what forms tables, and the rest as name and value."""

    label: str
    tables: list[Table]
    entries: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one model makes of one image, without and with the trigger."""

    correct: bool
    named: str
    attacked: bool
    named_triggered: str


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """An evaluation image and what each model makes of it."""

    number: int
    image: Any
    """The `EvaluationImage` of the gallery; None where the gallery lacks it."""
    cells: list[Prediction]


@dataclass(frozen=True, slots=True)
class FaultRow:
    """A fault and the outcome of its tests."""

    case: int
    fault: str
    must: str
    outcome: str
    told: str
    """How many tests passed, failed and were skipped; empty where there are none."""
    tests: list[str]


def answer_lines(document: dict[str, Any]) -> list[AnswerLine]:
    """The main result, a line for each row of Table 1; without own runs, by the authors' points."""
    # A replay has no runs: then the authors' points are the result.
    replayed = not document["runs"]
    lines = []

    for index, row in enumerate(document["tables"]["table1"]["rows"]):
        # Paths and not values, so that each number is shown with its place in report.json.
        clean = row["clean_accuracy"]
        path = f"tables/table1/rows/{index}/clean_accuracy"

        # Our own drop, else in a replay the authors'.
        source = None
        if clean["relative_drop"]:
            source = f"{path}/relative_drop"
        elif replayed and clean["authors_drop"]:
            source = f"{path}/authors_drop"

        # Evaluated, but by no model at the cap: the line tells how near the best one came.
        never_cleaned = clean["evaluations"] and clean["reproduced"] is None

        line = AnswerLine(
            dataset=row["dataset"],
            clean_size=row["clean_size"],
            pretrain_objective=row["pretrain_objective"],
            lost=f"{source}/value" if source else None,
            ci=f"{source}/ci" if source else None,
            lowest=f"{path}/lowest_asr" if never_cleaned else None,
        )
        lines.append(line)
    return lines


def by_loss(document: dict[str, Any]) -> list[list[LossCell]]:
    """The rows of the table by loss in groups of one model each."""
    # Rows come cell by cell, in each its losses in order: so many rows are a cell of Table 1.
    cells = [
        LossCell(f"tables/by_loss/rows/{index}/clean_accuracy", row)
        for index, row in enumerate(document["tables"]["by_loss"]["rows"])
    ]
    return [cells[first : first + len(LOSSES)] for first in range(0, len(cells), len(LOSSES))]


def mmcl_alone(document: dict[str, Any]) -> AloneCount:
    """MMCL alone against CleanCLIP, by the best accuracy at the cap; none is the worst."""
    pairs = []
    for group in by_loss(document):
        found = {cell.row["loss"]: cell.row["clean_accuracy"] for cell in group}
        alone, cleanclip = found["mmcl"], found["mmcl_ssl"]
        if alone["evaluations"] and cleanclip["evaluations"]:
            pairs.append((alone["reproduced"], cleanclip["reproduced"]))

    known = [(one or 0.0, other or 0.0) for one, other in pairs if (one, other) != (None, None)]
    return AloneCount(
        better=sum(one > other for one, other in known),
        equal=sum(one == other for one, other in known),
        compared=len(known),
    )


def decision(effect: Mapping[str, Any]) -> str:
    """Whether an effect lies above the spread between seeds."""
    # The same on every seed: no spread, and nothing to decide.
    if effect["ci"] == [0.0, 0.0]:
        return "no difference"
    return "undecided" if effect["undecided"] else "decided"


def mean_of(entry: Mapping[str, Any]) -> str:
    """Where below a claim's cell the number lies that stands for it: the mean over several seeds,
    or the value of one; empty where nothing was run.
    """
    if not entry["by_seed"]:
        return ""
    return "spread/mean" if len(entry["by_seed"]) > 1 else "by_seed/0/value"


def first_few(items: Sequence[T], count: int = FEW) -> tuple[Sequence[T], int]:
    """What a page lists of a long list, and how many entries it leaves out."""
    return items[:count], max(0, len(items) - count)


def run_text(run: str) -> str:
    """The short name of a run's folder; a pre-training run needs its model's name."""
    # A cleaning run's folder tells size, loss, rate and seed; a pre-training run's is only `seed0`.
    parts = run.split("/")
    if parts[-3:-2] == ["pretrain"]:
        return "/".join(parts[-2:])
    return parts[-1]


def is_of_profile(run: str, document: Mapping[str, Any]) -> bool:
    """Whether the run of this folder is of the profile's own results, not of an archive."""
    return run.startswith(f"results/{document['profile']}/")


def chosen_runs(document: Mapping[str, Any]) -> frozenset[str]:
    """Fingerprints of the runs that fill Table 1: those before cleaning, and the chosen ones."""
    cells = [
        row[column]["run"]
        for row in document["tables"]["table1"]["rows"]
        for column in ("original_accuracy", "clean_accuracy")
    ]
    runs = document["runs"]
    return frozenset(runs[run]["fingerprint"] for run in cells if run in runs)


def run_anchors(document: Mapping[str, Any]) -> dict[str, str]:
    """The anchor of each run's row in the table of runs, by the run's folder."""
    return {run: f"run-{index}" for index, run in enumerate(document["runs"])}


def run_links(
    document: Mapping[str, Any], records: Mapping[str, str], ledger: str
) -> dict[str, str]:
    """Where a page leads for a run: to its Sacred record if runs.html has it, else to its row on
    the page `ledger`.
    """
    rows = {run: f"{ledger}#{anchor}" for run, anchor in run_anchors(document).items()}
    found = sacred_anchors(document, records)
    return rows | {run: f"runs.html#{anchor}" for run, anchor in found.items()}


def sacred_anchors(document: Mapping[str, Any], records: Mapping[str, str]) -> dict[str, str]:
    """Where runs.html shows the Sacred record of a run: the anchor, by the run's folder.

    `records` has the fingerprint of each record on runs.html, by its anchor.
    """
    # Each machine counts its records from 1. So the number in an archived run, or in a result from
    # elsewhere, may be that of another run here: the fingerprint decides.
    anchors = {}
    for folder, run in document["runs"].items():
        anchor = f"run-{(run['sacred'] or '').rpartition('/')[2]}"
        if is_of_profile(folder, document) and records.get(anchor) == run["fingerprint"]:
            anchors[folder] = anchor
    return anchors


def seed_note(note: str | None) -> str:
    """The note of a seed's value, less what only says how its interval was computed."""
    computed = note and (note.startswith("McNemar") or note == "images not paired")
    return "" if computed or not note else note


def erratum_result(erratum: Mapping[str, Any]) -> str:
    """The number that shows an inconsistency of the paper, as printed."""
    result = erratum["result"]
    if erratum["unit"] == "fraction":
        return f"{100 * result:.3g}%"
    return exact(result)


def exact(value: float) -> str:
    """A number as the paper prints it: up to ten digits, those of a large one in groups."""
    # A year has none.
    return f"{value:,.10g}" if abs(value) >= 10_000 else f"{value:.10g}"


def thousands(value: int) -> str:
    """A count with its thousands in groups."""
    return f"{value:,}"


def gigabytes(size: float) -> str:
    """Bytes in GB."""
    return f"{size / 1e9:.2f}"


def step_of_cap(cap: float) -> float:
    """A cap in percent, for the page's slider."""
    return 100 * cap


def accounts(document: dict[str, Any]) -> list[Account]:
    """The accounting of the data folders: objects of objects become tables."""
    found = []
    for label, content in document["context"]["accounting"].items():
        # What is an object of objects reads better as a table, all else as a list.
        tables = [_table(key, value) for key, value in content.items() if _is_table(value)]
        entries = [
            (_spaced(key), plain(value)) for key, value in content.items() if not _is_table(value)
        ]
        found.append(Account(label, tables, entries))
    return found


def plain(value: Any) -> str:
    """JSON as text for readers."""
    match value:
        case dict():
            parts = [f"{_spaced(key)}: {plain(item)}" for key, item in value.items()]
            return "; ".join(parts) or "–"
        # Before int, of which bool is a subclass.
        case bool():
            return str(value)
        case int():
            return thousands(value)
        case float():
            return f"{value:.4g}"
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def prediction_rows(document: dict[str, Any], images: Mapping[int, Any]) -> list[PredictionRow]:
    """What the models make of evaluation images; `images` are those of the gallery by number."""
    # Models keep their answers by position in `images`, the gallery keeps pictures by number.
    predictions, target = document["predictions"], document["settings"]["target_class"]
    rows = []
    for index, number in enumerate(predictions["images"]):
        cells = [_prediction(model, index, target) for model in predictions["models"]]
        rows.append(PredictionRow(number, images.get(number), cells))
    return rows


def fault_rows(document: dict[str, Any]) -> list[FaultRow]:
    """The outcomes of the fault suite; empty where it was not run."""
    faults = document["context"]["faults"]
    return [_fault(case) for case in faults["cases"]] if faults else []


def departures(document: dict[str, Any]) -> int:
    """Switches in which the profile departs from its protocol."""
    return sum(row["departs"] for row in document["context"]["switches"])


def run_tables(document: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Runs by folder, with what they are of: the profile first, then studies, if there are any."""
    own: dict[str, Any] = {}
    archived: dict[str, Any] = {}
    for name, run in document["runs"].items():
        (own if is_of_profile(name, document) else archived)[name] = run
    return [("of this profile", own), *([("of archived studies", archived)] if archived else [])]


def _prediction(model: Mapping[str, Any], index: int, target: str) -> Prediction:
    correct, attacked = model["correct"][index], model["attacked"][index]

    # Where a row names no classes, its bits still tell right or wrong, target or not.
    if model["classes"]:
        named, triggered = model["classes"][index], model["classes_triggered"][index]
    else:
        named = "right" if correct else "wrong"
        triggered = target if attacked else "another class"
    return Prediction(correct, named, attacked, triggered)


def _fault(case: Mapping[str, Any]) -> FaultRow:
    counts = {
        word: sum(test[word] for test in case["tests"]) for word in ("passed", "failed", "skipped")
    }
    # That some passed goes without saying only where nothing was tested.
    told = [f"{count} {word}" for word, count in counts.items() if count or word == "passed"]
    return FaultRow(
        case=case["case"],
        fault=case["fault"],
        must=case["must"],
        outcome=case["outcome"],
        told=", ".join(told) if case["tests"] else "",
        tests=[test["name"] for test in case["tests"]],
    )


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, dict) and bool(value) and all(isinstance(v, dict) for v in value.values())
    )


def _table(key: str, content: Mapping[str, Mapping[str, Any]]) -> Table:
    # Rows may lack a column that others have: the union, in the order of first appearance.
    columns = list(dict.fromkeys(_columns(content)))
    rows = [
        (name, [plain(entry[column]) if column in entry else "–" for column in columns])
        for name, entry in content.items()
    ]
    return Table(_spaced(key), [_spaced(column) for column in columns], rows)


def _columns(content: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for entry in content.values():
        yield from entry


def _spaced(key: str) -> str:
    return key.replace("_", " ")
