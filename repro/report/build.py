"""The report's folder: report.json, figures, pages, the article, and what other programs read:
evaluations and tables as CSV, and a few numbers for DVC.

Shares are fractions. A value that was not measured is an empty field of a table, and absent from
the metrics.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from repro.files import replace_file, replacing
from repro.profile import SPECS
from repro.report.authors import authors_points
from repro.report.cells import PANELS, Cell
from repro.report.check import sentence_of
from repro.report.claims import load_claims
from repro.report.document import build_document, joined, plain
from repro.report.evidence import Evidence
from repro.report.figures import draw_all
from repro.report.material import read_material
from repro.report.metrics import metrics
from repro.report.pages import latex
from repro.report.pages.html import INDEX, pages
from repro.report.pages.interactive import clouds
from repro.report.pages.runs import runs_shown
from repro.report.pages.table import Table
from repro.report.pages.tables import tables, verdict_rows
from repro.report.points import accuracy_kept
from repro.report.reading import Document
from repro.report.studies import StudyResults, evidence_of, read_study_results
from repro.runs.inputs import check_stores
from repro.runs.layout import DATA, POISONED
from repro.spec import Profile
from repro.unchanged import DIGITS, unchanged

DOCUMENT = "report.json"
METRICS = "metrics.json"
COLUMNS = (
    *("source", "study", "variant", "stage", "dataset", "pretrain_objective", "poisoned"),
    *("clean_size", "loss", "learning_rate", "seed", "epoch", "step"),
    *("accuracy", "kept", "asr", "correct", "images", "attacked", "attackable"),
    *("loss_mmcl", "loss_ssl"),
    *("figure1", "figure2", "figure3", "run"),
)
"""Of points.csv and archive.csv. `source` is ledger, archive or authors; `kept` is the accuracy as
a share of the start's; `loss_*` are means over the steps since the evaluation before, on the pairs
that were trained on; `figure1` to `figure3` say where the evaluation is drawn."""
CODE = (*DIGITS, "integrity", "intervals.py", "plan", "profile.py", "report", "runs", "study")
"""Packages and modules of `repro` that the report and its numbers depend on."""
TEMPLATES = Path("repro/report/pages/templates")


def report_folder(profile: str) -> Path:
    """Return the folder of a profile's report."""
    return Path("report/build") / profile


def report_stage(profile_name: str) -> None:
    """Build `report/build/<profile>/`: document, figures, pages and, where TeX is, the PDF."""
    out = report_folder(profile_name)
    with (
        # The old report stays if this one fails; no file of it is left in the new.
        replacing(out) as new,
        unchanged(profile_name, Profile.model_dump, CODE, [SPECS, TEMPLATES]) as profile,
    ):
        check_stores(profile, DATA / profile.name, POISONED / profile.name)
        build(evidence_of(profile, authors_points()), new)
    print(f"report: open {out / INDEX}", file=sys.stderr)


def build(evidence: Evidence, out: Path, *, latex_too: bool = True) -> dict[str, Any]:
    """Write the report into `out` and return the document.

    `latex_too` adds the article: report.tex, its figures and, where TeX is installed, report.pdf.
    """
    context, gallery = read_material(evidence)
    studies = read_study_results(evidence.profile.name)
    # Of the runs in results/, which a replay and a report from an archive do not have.
    own = bool(evidence.runs) and not evidence.archived
    parts = {
        **build_document(evidence, load_claims(), studies),
        "check": sentence_of(evidence.profile.name) if own else "",
        "context": context,
    }
    text = json.dumps(plain(parts), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Everything is rendered from the document as a reader of report.json gets it.
    document: dict[str, Any] = json.loads(text)
    points = points_of(evidence, studies, document["resistance"]["study"])
    drawn = draw_all({**document, "gallery": gallery}, points)

    files = {DOCUMENT: text.encode(), **exported(document, points)}
    files |= {f"figures/{name}.svg": figure.svg.encode() for name, figure in drawn.items()}
    files |= {
        f"figures/{name}-narrow.svg": figure.narrow.encode()
        for name, figure in drawn.items()
        if figure.narrow
    }
    if latex_too:
        files |= {f"figures/{name}.pdf": figure.pdf for name, figure in drawn.items()}
        files["report.tex"] = latex.tex(document, drawn).encode()
    _write(out, files)
    pdf = ["report.pdf"] * (latex_too and latex.compile_pdf(out, document))
    shown = clouds(document, points), runs_shown(document, points)
    _write(out, pages(document, drawn, gallery, [*files, *pdf], *shown))
    return document


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)


def points_of(
    evidence: Evidence, studies: Iterable[StudyResults], drawn_study: str | None
) -> pd.DataFrame:
    """Every evaluation as a row with COLUMNS: the profile's own, the archives', the authors'.

    `drawn_study` is the study whose reference stands in Figures 1 to 3 beside the own runs.
    """
    frames = [evidence.frame.assign(source="ledger", drawn=True)]
    for study in studies:
        reference = study.frame.variant == study.spec.reference
        drawn = reference & (study.name == drawn_study)
        frames.append(study.frame.assign(source="archive", drawn=drawn))
    points = joined(
        *(frame.assign(kept=accuracy_kept(frame)) for frame in frames),
        evidence.authors_frame.assign(source="authors", study="", drawn=True, kept=None),
    )
    points = points.rename(columns={"num_correct": "correct", "num_images": "images"})
    points = points.astype({"seed": "Int64", "step": "Int64", "epoch": float, "kept": float})
    for name, cells in PANELS.items():
        inside = pd.MultiIndex.from_frame(points[[*Cell._fields]]).isin(cells)
        points[name] = inside & points.drawn.astype(bool) & points.poisoned.astype(bool)
    return points[list(COLUMNS)]


def exported(document: Document, points: pd.DataFrame) -> dict[str, bytes]:
    """Return the content of the files that other programs read, by name."""
    archived, made = points.source == "archive", tables(document)
    verdicts = [*verdict_rows(document)]
    frames = {
        "points.csv": points[~archived],
        "archive.csv": points[archived],
        **{
            f"{name}.csv": with_columns(flat(document["tables"][name]["rows"]), made.get(name))
            for name in ("table1", "table2")
        },
        "verdicts.csv": pd.DataFrame(verdicts),
        "bench.csv": flat(document["bench"]),
    }
    files = {METRICS: json.dumps(metrics(document, verdicts), indent=1) + "\n"}
    for name, table in frames.items():
        if len(table.columns):
            files[name] = table.to_csv(index=False)
    return {name: text.encode() for name, text in files.items()}


def with_columns(rows: pd.DataFrame, table: Table | None) -> pd.DataFrame:
    """The rows with the columns that a table of the page adds to them."""
    return rows if table is None else pd.concat([rows, table.frame()], axis=1)


def flat(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table of report.json: nested values are named by their path, lists are left out."""
    table = pd.json_normalize(rows, sep="_")
    for name in [name for name in table if name.endswith(("ci", "ci95", "interval"))]:
        place = table.columns.get_loc(name)
        low, high = zip(*(value or (None, None) for value in table.pop(name)), strict=True)
        table.insert(place, f"{name}_low", low)
        table.insert(place + 1, f"{name}_high", high)
    is_list = table.map(lambda value: isinstance(value, list)).any()
    # Counts stay whole where a row has none.
    return table.loc[:, ~is_list].convert_dtypes()
