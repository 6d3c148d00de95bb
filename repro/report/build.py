"""The report's folder: report.json, figures, pages, the article, and what other programs read:
evaluations and tables as CSV, and a few numbers for DVC.

Shares are fractions. A value that was not measured is an empty field of a table, and absent from
the metrics.
"""

import json
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from repro.edits import unedited
from repro.files import read_json, replace_file, replacing
from repro.profile import SPECS, load_profile, resolved_file, resolved_profile
from repro.report.authors import authors_points
from repro.report.cells import DATASETS, PANELS, Cell
from repro.report.check import sentence_of
from repro.report.claims import Paper, load_claims
from repro.report.document import build_document, plain
from repro.report.evidence import Evidence
from repro.report.figures import draw_all
from repro.report.measures import MAIN
from repro.report.pages import latex
from repro.report.pages.html import INDEX, pages
from repro.report.pages.tables import tables, verdict_table
from repro.report.paper_tables import authors_kept
from repro.report.points import accuracy_kept, joined
from repro.report.reading import Document
from repro.report.studies import StudyResults, evidence_of, read_study_results
from repro.runs.inputs import check_stores
from repro.runs.layout import DATA, POISONED
from repro.spec import Switches

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


def report_folder(profile: str) -> Path:
    """Return the folder of a profile's report."""
    return Path("report/build") / profile


def report_stage(profile_name: str) -> None:
    """Build `report/build/<profile>/`: document, figures, pages and, where TeX is, the PDF."""
    out, profile = report_folder(profile_name), resolved_profile(profile_name)
    with (
        # The old report stays if this one fails; no file of it is left in the new.
        replacing(out) as new,
        unedited(resolved_file(profile_name), SPECS),
    ):
        check_stores(profile, DATA / profile.name, POISONED / profile.name)
        build(evidence_of(profile, authors_points()), new)
    print(f"report: open {out / INDEX}", file=sys.stderr)


def build(evidence: Evidence, out: Path, *, latex_too: bool = True) -> dict[str, Any]:
    """Write the report into `out` and return the document.

    `latex_too` adds the article: report.tex, its figures and, where TeX is installed, report.pdf.
    """
    context, gallery = read_material(evidence)
    studies, claims = read_study_results(evidence.profile.name), load_claims()
    # Of the runs in results/, which a report from an archive does not have.
    own = bool(evidence.runs) and not evidence.archived
    parts = {
        **build_document(evidence, claims, studies),
        "check": sentence_of(evidence.profile.name) if own else "",
        "context": context,
    }
    text = json.dumps(plain(parts), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Everything is rendered from the document as a reader of report.json gets it.
    document: dict[str, Any] = json.loads(text)
    points = points_of(evidence, studies, document["resistance"]["study"], claims.paper)
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
    present = list(files)
    if latex_too and latex.compile_pdf(out, document):
        present.append("report.pdf")
    _write(out, pages(document, drawn, gallery, present))
    return document


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)


def points_of(
    evidence: Evidence, studies: Iterable[StudyResults], drawn_study: str | None, paper: Paper
) -> pd.DataFrame:
    """Every evaluation as a row with COLUMNS: the profile's own, the archives', the authors'.

    `drawn_study` is the study whose reference stands in Figures 1 to 3 beside the own runs.
    """
    # Archived runs that stand for the profile's own are among those of the studies.
    own = evidence.frame[:0] if evidence.archived else evidence.frame
    frames = [own.assign(source="ledger", drawn=True)]
    for study in studies:
        reference = study.frame.variant == study.spec.reference
        drawn = reference & (study.name == drawn_study)
        frames.append(study.frame.assign(source="archive", drawn=drawn))
    points = joined(
        *(frame.assign(kept=accuracy_kept(frame)) for frame in frames),
        evidence.authors_frame.assign(
            source="authors", study="", drawn=True, kept=authors_kept(evidence, paper)
        ),
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
    frames = {"points.csv": points[~archived], "archive.csv": points[archived]}
    for name in ("table1", "table2"):
        rows = flat(document["tables"][name]["rows"])
        # And what the columns of the page's table add to them.
        own = pd.DataFrame(made[name].records()) if name in made else None
        frames[f"{name}.csv"] = pd.concat([rows, own], axis=1)
    verdicts = verdict_table(document).records()
    frames["verdicts.csv"] = pd.DataFrame(verdicts)
    files = {METRICS: json.dumps(metrics(document), indent=1) + "\n"}
    for name, table in frames.items():
        if len(table.columns):
            files[name] = table.to_csv(index=False)
    return {name: text.encode() for name, text in files.items()}


Metrics = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""By measure, setting, and `own` or `archive`."""


def metrics(document: Document) -> Metrics:
    """What DVC shows of a report: the run's own numbers, and the archive's beside them.

    `own` has the values of both models, `archive` mean, 95% interval, seeds and verdict of their
    difference. A profile without an archive has own numbers alone; without own runs there is the
    archive alone.
    """
    found: Metrics = {measure: defaultdict(dict) for measure in MAIN}
    for row in document["own_run"]:
        if row["measure"] in MAIN:
            own = found[row["measure"]][f"{row['dataset']}-{row['clean_size']}"]
            own.setdefault("own", {})[row["of"]] = row["value"]

    sides = ("mmcl", "mmcl_ssl", "difference")
    archived = bool(document["verdicts"]["arms"]["mmcl_ssl"].partition("/")[0])
    source = "archive" if archived else "own"
    names = (*sides, "low", "high", "seeds", "verdict") if archived else sides
    for row in verdict_table(document).records():
        # The first comparator of a setting stands for it.
        if row["measure"] in MAIN and not row["comparison"]:
            of = found[row["measure"]][row["setting"]]
            of.setdefault(source, {name: row[name] for name in names})
    return {measure: dict(of) for measure, of in found.items() if of}


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


def read_material(evidence: Evidence) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the report shows besides results, from specifications and small files beside the data:
    the context, which also stands in report.json, and the gallery, which a page alone shows.

    The gallery has samples by dataset, key `pairs`, as repro/data/stages.py writes them. A file
    that is not there is left out.
    """
    name = evidence.profile.name
    gallery = {
        str(dataset): samples
        for dataset in DATASETS
        if (samples := read_json(POISONED / name / f"{dataset}-samples.json"))
    }
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    context = {
        "project": {"authors": project["authors"], "urls": project.get("urls", {})},
        "switches": _switches(name),
        "accounting": {"data": read_json(DATA / name / "accounting.json")},
        "attribution": read_json(DATA / name / "attribution.json"),
        "environments": _environments(evidence),
    }
    return context, gallery


def _switches(name: str) -> list[dict[str, Any]]:
    """Every choice that text and code make differently, or the text does not make."""
    profiles = {"used": name, "paper": "paper", "authors": "authors"}
    values = {of: load_profile(profile).switches for of, profile in profiles.items()}
    return [
        {"switch": field, "meaning": info.description}
        | {of: getattr(switches, field) for of, switches in values.items()}
        for field, info in Switches.model_fields.items()
    ]


def _environments(evidence: Evidence) -> list[dict[str, Any]]:
    """The distinct environments of the runs, most used first, equally frequent ones by name."""
    # As canonical JSON, since a dict cannot be counted.
    texts = sorted(
        json.dumps({**of.environment, "ranks": of.ranks, "threads": of.threads}, sort_keys=True)
        for of in (run.record for run in evidence.runs)
    )
    counts = Counter(texts).most_common()
    return [{"runs": number, "environment": json.loads(text)} for text, number in counts]
