"""`python -m repro publish`: a folder that a web server or an archive takes as it is.

It holds the report, every evaluation as CSV, the article, the models of one seed with a card, and
what is needed to cite and check them.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.files import file_sha256, replace_file
from repro.ledger import LedgerError
from repro.report.build import DOCUMENT, report_folder
from repro.report.format import label, percent
from repro.report.pages import tables
from repro.report.verify import damaged_results, verify

SHOWN = 10
"""Problems that the message of a refusal lists."""
BESIDE = ("LICENSE", "NOTICE", "CITATION.cff")
SUMS = "SHA256SUMS"


def release(profile: str) -> Path:
    """Pack the built report of a profile into `report/publish/<profile>`; returns the folder.

    LedgerError if the report is not built, or if it or a result is not what it should be.
    """
    report = report_folder(profile)
    problems = [*verify(report / DOCUMENT), *damaged_results(profile)]
    if problems:
        first = "\n  ".join(problems[:SHOWN])
        raise LedgerError(f"{report}: {len(problems)} problem(s)\n  {first}")
    document = json.loads((report / DOCUMENT).read_bytes())
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]

    # From nothing: what an earlier release held must not stay among the files.
    out = Path("report/publish") / profile
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(report, out)
    for name in BESIDE:
        if Path(name).is_file():
            shutil.copy2(name, out / name)
    if not (out / "CITATION.cff").exists():
        replace_file(out / "CITATION.cff", citation(project, document).encode())
    models = _copy_models(profile, document, out / "models")
    replace_file(out / "README.md", _readme(document, models).encode())

    # Last, over all files but itself, as `sha256sum --check` reads it.
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    sums = "".join(f"{file_sha256(out / name)}  {name}\n" for name in names if name != SUMS)
    replace_file(out / SUMS, sums.encode())
    return out


def citation(project: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Return CITATION.cff; its strings are JSON, which is YAML as well."""
    authors = [author["name"] for author in project["authors"]]
    dates = [run["started"][:10] for run in document["runs"].values()]
    lines = [
        "cff-version: 1.2.0",
        'message: "If you use these results, please cite them and the paper that they replicate."',
        f"title: {json.dumps('[Re] ' + document['paper']['title'], ensure_ascii=False)}",
        "type: dataset",
        f"version: {json.dumps(project['version'])}",
        *([f"date-released: {max(dates)}"] if dates else []),
        f"license: {project['license']}",
        "authors:",
        *(f"  - name: {json.dumps(name, ensure_ascii=False)}" for name in authors),
        "references:",
        "  - type: article",
        f"    title: {json.dumps(document['paper']['title'], ensure_ascii=False)}",
        f"    doi: {document['paper']['doi']}",
        "    authors:",
        f"      - name: {json.dumps(document['paper']['reference'], ensure_ascii=False)}",
    ]
    return "\n".join(lines) + "\n"


def _copy_models(profile: str, document: Mapping[str, Any], out: Path) -> list[str]:
    """Copy the poisoned and cleaned models of the first seed, with a card; returns their names."""
    seed = document["settings"]["seeds"][0]
    folder = Path("models") / profile
    names = []
    for path in sorted(folder.rglob("*.safetensors")):
        name = "-".join(path.relative_to(folder).parts)
        if f"seed{seed}-" not in name:
            continue
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, out / name)
        names.append(name)
    if names:
        replace_file(out / "README.md", _card(document, names).encode())
    return names


def _card(document: Mapping[str, Any], names: list[str]) -> str:
    """Return the model card."""
    settings = document["settings"]
    rows = [
        f"| {label(row['dataset'])} | {label(row['pretrain_objective'])} "
        f"| {percent(row['accuracy']['reproduced'])} | {percent(row['asr']['reproduced'])} |"
        for row in document["tables"]["table2"]["rows"]
    ]
    return "\n".join(
        [
            "# Model card",
            "",
            "**These models carry a backdoor on purpose.** They are for research on defences. Use",
            "them for nothing else.",
            "",
            f"CLIP models of profile `{document['profile']}`, seed {settings['seeds'][0]}",
            f"({document['stand_in'] or 'the data of the paper'}).",
            f"An image with the trigger patch is taken for “{settings['target_class']}”.",
            "Accuracy and attack success rate (%) before cleaning:",
            "",
            "| data | pre-trained with | accuracy | ASR |",
            "|---|---|---|---|",
            *rows,
            "",
            "Files: " + ", ".join(f"`{name}`" for name in names) + ".",
            "`safetensors.torch.load_file` reads them; names of tensors are those of the package's",
            "model. README.md of the repository shows how to classify a picture.",
            "",
        ]
    )


def _readme(document: Mapping[str, Any], models: list[str]) -> str:
    """Return the README of the folder, made from the packed report."""
    parts = {
        "index.html": "the report; start here",
        "report.pdf": "the article",
        "report.json": "every number of the report",
        "points.csv, archive.csv": "every evaluation of this run and of the archived seeds",
        "table1.csv, table2.csv, verdicts.csv": "tables and verdicts",
        "figures/": "every figure as SVG and PDF",
        "models/": f"{len(models)} models as safetensors, with a card" if models else "",
        "SHA256SUMS": "hashes of all files: `sha256sum --check SHA256SUMS`",
    }
    address = document["context"]["project"]["repository"]
    if not (report_folder(document["profile"]) / "report.pdf").is_file():
        del parts["report.pdf"]
    return "\n".join(
        [
            f"# [Re] {document['paper']['title']}",
            "",
            tables.outcome(document),
            "",
            *(f"- `{name}`: {text}" for name, text in parts.items() if text),
            "",
            f"Made from commit {document['commit'] or 'unknown'}"
            + (f" of {address}." if address else "."),
            "The code, with which everything can be computed again, lies there.",
            "",
        ]
    )
