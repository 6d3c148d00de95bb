"""The report's folder: report.json, figures, pages, the article, and what other programs read:
evaluations and tables as CSV, and a few numbers for DVC.

Shares are fractions. A value that was not measured is an empty field of a table, and absent from
the metrics.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from repro.files import replace_file, replacing
from repro.profile import SPECS
from repro.report.document import build_document, joined, plain
from repro.report.figures import draw_all
from repro.report.figures.style import Document
from repro.report.judging.claims import load_claims
from repro.report.material import read_material
from repro.report.metrics import metrics
from repro.report.numbers.authors import authors_points
from repro.report.numbers.cells import PANELS, Cell
from repro.report.numbers.evidence import Evidence
from repro.report.pages import latex
from repro.report.pages.html import INDEX, pages
from repro.report.points import accuracy_kept
from repro.report.studies.results import StudyResults, evidence_of, read_study_results
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
    parts = {**build_document(evidence, load_claims(), studies), "context": context}
    text = json.dumps(plain(parts), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Everything is rendered from the document as a reader of report.json gets it.
    document: dict[str, Any] = json.loads(text)
    points = points_of(evidence, studies, document["resistance"]["study"])
    drawn = draw_all(document, points)

    files = {DOCUMENT: text.encode(), **exported(document, points)}
    files |= {f"figures/{name}.svg": figure.svg.encode() for name, figure in drawn.items()}
    if latex_too:
        files |= {f"figures/{name}.pdf": figure.pdf for name, figure in drawn.items()}
        files["report.tex"] = latex.tex(document, drawn).encode()
    _write(out, files)
    pdf = ["report.pdf"] * (latex_too and latex.compile_pdf(out, document))
    _write(out, pages(document, drawn, gallery, [*files, *pdf]))
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
    archived, verdicts = points.source == "archive", [*verdict_rows(document)]
    tables = {
        "points.csv": points[~archived],
        "archive.csv": points[archived],
        **{f"{name}.csv": flat(document["tables"][name]["rows"]) for name in ("table1", "table2")},
        "verdicts.csv": pd.DataFrame(verdicts),
        "bench.csv": flat(document["bench"]),
    }
    files = {METRICS: json.dumps(metrics(document, verdicts), indent=1) + "\n"}
    for name, table in tables.items():
        if len(table.columns):
            files[name] = table.to_csv(index=False)
    return {name: text.encode() for name, text in files.items()}


def verdict_rows(document: Document) -> Iterator[dict[str, Any]]:
    """Every verdict of ours with its difference and 95% interval, as rows of verdicts.csv."""
    verdicts = document["verdicts"]
    tables = {"": [*(verdicts["confirmed"] or []), *verdicts["exploratory"]]}
    tables |= {of["name"]: of["measures"] for of in verdicts["secondary"]}
    tables["midi"] = document["larger"]["measures"]
    for table, measure in ((name, measure) for name, of in tables.items() for measure in of):
        for cell in filter(None, [*measure["cells"], measure["pooled"]]):
            difference = cell["difference"]
            low, high = difference["interval"] or (None, None)
            place = filter(None, (cell["dataset"], cell["clean_size"]))
            yield {
                "comparison": table,
                "fixed": measure["fixed"],
                "measure": measure["measure"],
                "setting": "-".join(place) or "pooled",
                "comparator": cell["comparator"],
                "unit": measure["unit"],
                "seeds": difference["seeds"],
                "mmcl": cell["mmcl"]["mean"],
                "mmcl_ssl": cell["mmcl_ssl"]["mean"],
                "difference": difference["mean"],
                "low": low,
                "high": high,
                "at_least": difference["at_least"],
                "at_most": difference["at_most"],
                **{key: cell[key] for key in ("p", "p_holm", "verdict", "reason")},
                **{
                    f"{start}_{name}": share
                    for start in ("start_accuracy", "start_asr")
                    for name, share in cell[start].items()
                },
                "marks": "; ".join(cell["marks"]),
                "by_seed": "; ".join(
                    f"{seed}: {value:.4g}" for seed, value in difference["by_seed"].items()
                ),
            }


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
