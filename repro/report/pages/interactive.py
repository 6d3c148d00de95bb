"""What pages show of single runs and evaluations: what the script reads, printed as it stands, and
the curve, evaluations and origin of each run.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from repro.profile import differing, flat, load_profile, runs_of
from repro.report.cells import CLEANCLIP
from repro.report.figures.scatter import best_of_seeds
from repro.report.figures.style import OBJECTIVE_COLOURS
from repro.report.format import duration, label, rate, short
from repro.report.pages.table import Column, Table, Words
from repro.report.pages.tables import RUNS_PAGE, run_href, share, thresholds
from repro.report.reading import Document, Entry, setting_words
from repro.spec import RunSpec


@dataclass(frozen=True)
class Cloud:
    """All evaluations of CleanCLIP on the models of one cell, as the explorer draws them."""

    title: str
    colour: str
    height: str
    """What the y axis has."""
    runs: list[tuple[str, str, int, str]]
    """Of each run its words, its folder, its seed and where its section is."""
    dots: list[tuple[int, int, float, int]]
    """Of each evaluation ASR and height in hundredths of a percent, epoch, and place of its run."""
    best: list[int]
    """Places of the most accurate evaluation of each seed at the threshold."""
    paper: float | None
    """Height of the paper's best cleaned model, in percent."""


def data_of(document: Document, clouds: Sequence[Cloud]) -> str:
    """JSON for a `<script type="application/json">`; no text in it can end the element."""
    content = {
        "cap": document["settings"]["asr_cap"],
        "thresholds": _thresholds(document),
        "clouds": [asdict(cloud) for cloud in clouds],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _thresholds(document: Document) -> list[dict[str, Any]]:
    """By setting, the cells of the table of thresholds at each threshold, as it prints them."""
    by_setting: dict[str, dict[str, list[str]]] = {}
    for cap in document["resistance"]["caps"]:
        for setting, *cells in thresholds(document, cap).cells():
            rows = by_setting.setdefault(str(setting), {})
            rows[short(cap)] = [str(cell) for cell in cells]
    return [{"setting": setting, "rows": rows} for setting, rows in by_setting.items()]


def clouds(document: Document, points: pd.DataFrame) -> list[Cloud]:
    """One for each cell of Figures 1 to 3 that has evaluations of ours."""
    panels = [panel for figure in document["figures"].values() for panel in figure["panels"]]
    names = ["dataset", "clean_size", "pretrain_objective"]
    cells = {tuple(panel[name] for name in names): panel for panel in panels}
    ours = points[(points.loss == CLEANCLIP) & (points.step > 0) & (points.source != "authors")]
    drawn = ours[ours.figure1 | ours.figure2 | ours.figure3]
    found = []
    for cell, panel in cells.items():
        of_cell = drawn[(drawn[names] == list(cell)).all(axis=1)]
        if len(of_cell):
            found.append(_cloud(document, panel, of_cell))
    return found


def _cloud(document: Document, panel: Entry, points: pd.DataFrame) -> Cloud:
    column = "kept" if document["stand_in"] else "accuracy"
    points = points[points[column].notna()].sort_values(["run", "step"])
    places = {run: place for place, run in enumerate(points.run.unique())}
    best = best_of_seeds(points, document["settings"]["asr_cap"])
    runs = points.drop_duplicates("run")
    printed = panel["paper"]["clean_accuracy"]
    unit = panel["paper"]["start_accuracy"] if document["stand_in"] else 1.0
    return Cloud(
        title=f"{setting_words(panel)} pairs, {label(panel['pretrain_objective'])}",
        colour=OBJECTIVE_COLOURS[panel["pretrain_objective"]],
        height="accuracy (% of the start)" if column == "kept" else "zero-shot accuracy (%)",
        runs=[
            (_run_words(row), row.run, int(row.seed), run_href(row.run, int(row.seed)))
            for row in runs.itertuples()
        ],
        dots=[
            (round(1e4 * row.asr), round(1e4 * getattr(row, column)), row.epoch, places[row.run])
            for row in points.itertuples()
        ],
        best=sorted(int(points.index.get_loc(index)) for index in best.index),
        paper=None if printed is None else round(100 * printed / unit, 2),
    )


def _run_words(row: Any) -> str:
    own = "your run, " if row.source == "ledger" else ""
    return f"{own}seed {row.seed}, learning rate {rate(row.learning_rate)}"


WIDTH, HEIGHT = 300.0, 110.0
"""Of a curve, in units of its drawing."""
CURVES = {"accuracy": "accuracy", "asr": "ASR", "loss_mmcl": "MMCL loss", "loss_ssl": "SSL loss"}


@dataclass(frozen=True)
class RunShown:
    """A run with a section of its own."""

    folder: str
    anchor: str
    title: str
    record: Entry
    departures: list[str]
    """In what its specification differs from that of the profile."""
    curves: dict[str, str]
    """Points of a polyline over the steps, by name; losses as shares of their highest value."""
    table: Table
    end: Entry
    """Its last evaluation."""


def run_pages(
    document: Document, points: pd.DataFrame, specs: Mapping[str, RunSpec]
) -> dict[str, list[RunShown]]:
    """By page, the report's own runs, and a page a seed those archived ones that Figures 1 to 3
    draw, with their models; in the order of their folders.

    `specs` are those of the runs by folder.
    """
    names = {study["name"]: study["reference"] for study in document["studies"]}
    study = document["resistance"]["study"]
    drawn = (points.study == study) & (points.variant == names.get(study))
    shown = points[(points.source == "ledger") | drawn].sort_values(["run", "step"])
    expected = expected_fields(document["profile"]) if len(shown) else {}
    pages: dict[str, list[RunShown]] = defaultdict(list)
    for folder, evaluations in shown.groupby("run"):
        spec = specs[folder]
        page, _, anchor = run_href(folder, spec.seed).partition("#")
        rows = evaluations.astype(object).where(evaluations.notna(), None).to_dict("records")
        pages[page].append(
            RunShown(
                folder,
                anchor,
                _title(spec),
                document["runs"][folder],
                departures_of(spec, expected),
                _curves(evaluations),
                Table(f"run-{anchor}", f"Evaluations of {anchor}", COLUMNS, rows).filled(),
                rows[-1],
            )
        )
    return dict(pages)


def _title(spec: RunSpec) -> str:
    model = f"{setting_words(vars(spec))}, {label(spec.pretrain_objective)}"
    if spec.stage == "pretrain":
        return f"{model}: pre-training, seed {spec.seed}"
    at = f"learning rate {rate(spec.schedule.learning_rate)}, seed {spec.seed}"
    return f"{model}: finetuning by {label(spec.loss)}, {at}"


def run_tables(pages: Mapping[str, Sequence[RunShown]]) -> dict[str, Table]:
    """The report's own runs and the archived ones, each with a link to its section."""
    own: Sequence[RunShown] = pages.get(RUNS_PAGE, [])
    archived: list[RunShown] = []
    for page, runs in pages.items():
        if page != RUNS_PAGE:
            archived += runs
    return {
        "runs": Table("runs", "Runs", RUNS, own, "Runs of this report."),
        "archived": Table("archived", "Archived runs", ARCHIVED, archived),
    }


def expected_fields(profile: str) -> dict[tuple[Any, ...], Entry]:
    """Specifications of a profile's runs by what they train."""
    loaded = load_profile(profile)
    return {_kind(spec): _fields(spec) for spec in runs_of(loaded)}


def _kind(spec: RunSpec) -> tuple[Any, ...]:
    return spec.stage, spec.model_name, spec.clean_size, spec.loss


def _fields(spec: RunSpec) -> Entry:
    """A specification by dotted field, without what tells apart the runs of one kind."""
    fields = flat(spec.model_dump(mode="json", exclude={"profile", "variant", "seed"}))
    if spec.stage == "clean":
        del fields["schedule.learning_rate"]
    return fields


def departures_of(spec: RunSpec, expected: Mapping[tuple[Any, ...], Entry]) -> list[str]:
    """In what a specification differs from that of the profile's run of its kind."""
    if (there := expected.get(_kind(spec))) is None:
        return ["the profile has no such run"]
    here = _fields(spec)
    return [
        f"{name} {here.get(name)} (profile: {there.get(name)})" for name in differing(there, here)
    ]


def _commit(run: Entry) -> str:
    return (run["commit"] or "none")[:10] + ("+" if run["dirty"] else "")


def _loss(value: float) -> str:
    return f"{value:.3f}"


COLUMNS = (
    Column("Epoch", "epoch", lambda epoch: f"{epoch:g}"),
    Column("Step", "step", lambda step: f"{int(step)}", number=True),
    share("Accuracy (%)", "accuracy"),
    share("ASR (%)", "asr"),
    Column("MMCL loss", "loss_mmcl", _loss, number=True),
    Column("SSL loss", "loss_ssl", _loss, number=True),
)
ARCHIVED = (
    Column("Run", lambda run: Words(run.title, href=run_href(run.folder, run.record["seed"]))),
    share("Accuracy at its end (%)", "end.accuracy"),
    share("ASR (%)", "end.asr"),
    Column("Time", "record.seconds", duration, number=True),
)
RUNS = (
    *ARCHIVED,
    Column("Status", "record.status"),
    Column("Started", "record.started", lambda time: time[:16].replace("T", " ")),
    Column("Commit", "record", _commit),
    Column("Fingerprint", "record.fingerprint"),
)


def _curves(evaluations: pd.DataFrame) -> dict[str, str]:
    curves = {}
    across = WIDTH * evaluations.step.astype(float) / max(int(evaluations.step.max()), 1)
    for column, name in CURVES.items():
        # A loss is not known before the first step, and that of another term never.
        known = evaluations[column].astype(float).dropna()
        if len(known):
            highest = 1.0 if column in ("accuracy", "asr") else known.max()
            down = HEIGHT * (1 - known / highest)
            curves[name] = " ".join(f"{across[row]:.1f},{y:.1f}" for row, y in down.items())
    return curves
