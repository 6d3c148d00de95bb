"""`python -m repro publish`: the folder to upload, `report/publish/<profile>`: report, ledger, specifications and metadata.

CITATION.cff, .zenodo.json, codemeta.json and ro-crate-metadata.json say the same in four vocabularies, from one source:
pyproject.toml for the software, report.json for the study. Zenodo reads .zenodo.json only when both it and CITATION.cff
are there, so they must not differ. The crate follows the Workflow Run profile: dvc.yaml is the workflow, the report its result.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.files import replace_file
from repro.ledger import LedgerError
from repro.report.verify import verify

PROFILES = (
    "https://w3id.org/ro/wfrun/process/0.5",
    "https://w3id.org/ro/wfrun/workflow/0.5",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
)
"""RO-Crate profiles that the crate conforms to."""
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
DVC = "#dvc"
WORKFLOW = "dvc.yaml"


def release(profile: str) -> Path:
    """Pack the built report of a profile; returns the folder.

    Raises LedgerError if the report is not built or does not agree with its ledger: nothing wrong gets published.
    """
    build, out = Path("report/build") / profile, Path("report/publish") / profile
    if not (build / "report.json").is_file():
        raise LedgerError(f"{build / 'report.json'}: missing; build the report first")
    if problems := verify(build / "report.json"):
        raise LedgerError(
            "\n  ".join(
                [
                    f"{build}: {len(problems)} difference(s) between report and ledger",
                    *problems[:10],
                ]
            )
        )
    document = json.loads((build / "report.json").read_bytes())
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(build, out)
    shutil.copytree(Path("results") / profile, out / "results" / profile)
    if Path("results/studies").is_dir():
        shutil.copytree(Path("results/studies"), out / "results/studies")
    shutil.copytree("specs", out / "specs")
    for name in (WORKFLOW, "pyproject.toml", "LICENSE", "NOTICE", "README.md"):
        if Path(name).is_file():
            shutil.copy2(name, out / name)
    subject = describe(
        tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"], document
    )
    for name, content in {
        ".zenodo.json": zenodo(subject),
        "codemeta.json": codemeta(subject),
    }.items():
        _write(out / name, content)
    replace_file(out / "CITATION.cff", citation(subject).encode())
    _write(out / "ro-crate-metadata.json", crate(subject, document, sorted(_files(out))))
    return out


def describe(project: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """The one source: what is published, in plain words."""
    authors = [author["name"] for author in project.get("authors", [])] or [
        f"The contributors to {project['name']}"
    ]
    started = [run["started"] for run in document["runs"].values()]
    return {
        "title": f"[Re] {document['paper']['title']}",
        "description": f"{project['description']}, profile {document['profile']}.",
        "version": project["version"],
        "license": project["license"],
        "authors": authors,
        "name": project["name"],
        "keywords": ["CLIP", "backdoor", "CleanCLIP", "replication"],
        "paper": document["paper"],
        "commit": document["commit"],
        "date": max(started, default="")[:10],
        "started": min(started, default=""),
        "ended": max(started, default=""),
    }


def citation(subject: dict[str, Any]) -> str:
    """CITATION.cff 1.2; values are JSON strings, which are YAML strings."""
    paper = subject["paper"]
    lines = [
        "cff-version: 1.2.0",
        "message: Please cite this replication and the paper.",
        "type: software",
        f"title: {_quoted(subject['title'])}",
        f"abstract: {_quoted(subject['description'])}",
        f"version: {_quoted(subject['version'])}",
        f"license: {subject['license']}",
        "authors:",
        *(f"  - name: {_quoted(name)}" for name in subject["authors"]),
        "keywords:",
        *(f"  - {_quoted(word)}" for word in subject["keywords"]),
    ]
    if subject["date"]:
        lines.append(f"date-released: {_quoted(subject['date'])}")
    lines += [
        "references:",
        "  - type: article",
        f"    title: {_quoted(paper['title'])}",
        f"    url: {_quoted(paper['url'])}",
        "    authors:",
        f"      - name: {_quoted(paper['reference'].split('. BUGS')[0])}",
    ]
    return "\n".join(lines) + "\n"


def zenodo(subject: dict[str, Any]) -> dict[str, Any]:
    """.zenodo.json."""
    return {
        "title": subject["title"],
        "description": subject["description"],
        "version": subject["version"],
        "license": subject["license"],
        "upload_type": "software",
        "creators": [{"name": name} for name in subject["authors"]],
        "keywords": subject["keywords"],
        "related_identifiers": [
            {"identifier": subject["paper"]["url"], "relation": "isSupplementTo", "scheme": "url"}
        ],
    }


def codemeta(subject: dict[str, Any]) -> dict[str, Any]:
    """codemeta.json 2.0."""
    return {
        "@context": "https://doi.org/10.5063/schema/codemeta-2.0",
        "@type": "SoftwareSourceCode",
        "name": subject["title"],
        "description": subject["description"],
        "version": subject["version"],
        "license": f"https://spdx.org/licenses/{subject['license']}",
        "author": [{"@type": "Organization", "name": name} for name in subject["authors"]],
        "keywords": subject["keywords"],
        "programmingLanguage": "Python",
        "referencePublication": subject["paper"]["url"],
    }


def crate(subject: dict[str, Any], document: dict[str, Any], files: list[str]) -> dict[str, Any]:
    """ro-crate-metadata.json: the workflow, its run, what went in and what came out."""
    authors = [
        {"@id": f"#author-{index}", "@type": "Organization", "name": name}
        for index, name in enumerate(subject["authors"])
    ]
    licence = f"https://spdx.org/licenses/{subject['license']}"
    inputs = [name for name in files if name.startswith("specs/") and name.endswith(".yaml")]
    outputs = [
        name for name in files if "/" not in name and name.startswith(("index", "runs", "report"))
    ]
    profiles = [
        {
            "@id": p,
            "@type": "CreativeWork",
            "name": p.rsplit("/", 2)[-2],
            "version": p.rsplit("/", 1)[-1],
        }
        for p in PROFILES
    ]
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Study at profile {document['profile']}",
        "instrument": {"@id": WORKFLOW},
        "agent": {"@id": authors[0]["@id"]},
        "object": _ids(inputs),
        "result": _ids(outputs),
        "actionStatus": {
            "@id": "http://schema.org/FailedActionStatus"
            if document["missing"]
            else "http://schema.org/CompletedActionStatus"
        },
        **(
            {"startTime": subject["started"], "endTime": subject["ended"]}
            if subject["started"]
            else {}
        ),
    }
    workflow = {
        "@id": WORKFLOW,
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "name": "data -> poison -> pretrain -> clean -> report",
        "programmingLanguage": {"@id": DVC},
        "author": _ids(a["@id"] for a in authors),
        "license": {"@id": licence},
        "conformsTo": {"@id": BIOSCHEMAS},
        "version": subject["commit"] or subject["version"],
    }
    return {
        "@context": [
            "https://w3id.org/ro/crate/1.1/context",
            "https://w3id.org/ro/terms/workflow-run/context",
        ],
        "@graph": [
            {
                "@id": "ro-crate-metadata.json",
                "@type": "CreativeWork",
                "about": {"@id": "./"},
                "conformsTo": _ids(["https://w3id.org/ro/crate/1.1", PROFILES[2]]),
            },
            {
                "@id": "./",
                "@type": "Dataset",
                "name": subject["title"],
                "description": subject["description"],
                "license": {"@id": licence},
                "datePublished": subject["date"] or "2023-11-25",
                "author": _ids(a["@id"] for a in authors),
                "conformsTo": _ids(PROFILES),
                "mainEntity": {"@id": WORKFLOW},
                "mentions": {"@id": "#run"},
                "hasPart": _ids(files),
                "keywords": subject["keywords"],
                "citation": {"@id": subject["paper"]["url"]},
            },
            workflow,
            run,
            *profiles,
            *authors,
            {
                "@id": DVC,
                "@type": "ComputerLanguage",
                "name": "DVC",
                "alternateName": "dvc.yaml",
                "identifier": {"@id": "https://dvc.org"},
                "url": {"@id": "https://dvc.org"},
            },
            {"@id": "https://dvc.org", "@type": "WebSite", "name": "DVC"},
            {
                "@id": licence,
                "@type": "CreativeWork",
                "name": subject["license"],
                "identifier": licence,
            },
            {
                "@id": subject["paper"]["url"],
                "@type": "ScholarlyArticle",
                "name": subject["paper"]["title"],
            },
            *(
                {
                    "@id": name,
                    "@type": "File",
                    "name": name,
                    "encodingFormat": _format(name),
                    **({"about": {"@id": "./"}} if name == "README.md" else {}),
                }
                for name in files
                if name != WORKFLOW
            ),
        ],
    }


def _files(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _ids(names: Any) -> list[dict[str, str]]:
    return [{"@id": name} for name in names]


def _format(name: str) -> str:
    known = {
        "html": "text/html",
        "json": "application/json",
        "jsonl": "application/jsonl",
        "pdf": "application/pdf",
        "tex": "application/x-tex",
        "yaml": "application/yaml",
        "npz": "application/zip",
        "toml": "application/toml",
        "md": "text/markdown",
    }
    return known.get(name.rsplit(".", 1)[-1], "text/plain")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _write(path: Path, content: dict[str, Any]) -> None:
    replace_file(path, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
