"""ro-crate-metadata.json: what a release holds, as a crate of the Workflow Run profile.

dvc.yaml is the workflow, the study its run, the report the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from repro.report.vocabularies import Subject

METADATA = "ro-crate-metadata.json"
CONFORMS_TO = (
    "https://w3id.org/ro/wfrun/process/0.5",
    "https://w3id.org/ro/wfrun/workflow/0.5",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
)
"""RO-Crate profiles that the crate conforms to."""
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
WORKFLOW = "dvc.yaml"
DVC, RUN = "#dvc", "#run"
PUBLISHED = "2023-11-25"
"""Date of the release where there are no runs: that of the paper."""
FORMATS = {
    "html": "text/html",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "pdf": "application/pdf",
    "csv": "text/csv",
    "svg": "image/svg+xml",
    "tex": "application/x-tex",
    "yaml": "application/yaml",
    "npz": "application/zip",
    "toml": "application/toml",
    "md": "text/markdown",
}
"""Media type by the end of a file's name; text/plain else."""

Entity = dict[str, Any]


def crate(subject: Subject, document: dict[str, Any], files: Sequence[str]) -> Entity:
    """The crate of a folder that holds `files`, by path below it."""
    authors = [
        {"@id": f"#author-{index}", "@type": "Organization", "name": name}
        for index, name in enumerate(subject.authors)
    ]
    graph = [
        {
            "@id": METADATA,
            "@type": "CreativeWork",
            "about": {"@id": "./"},
            "conformsTo": _ids(["https://w3id.org/ro/crate/1.1", CONFORMS_TO[2]]),
        },
        _root(subject, authors, files),
        _workflow(subject, authors),
        _run(subject, document, authors, files),
        *(_profile(url) for url in CONFORMS_TO),
        *authors,
        *_software(),
        {
            "@id": subject.license_url,
            "@type": "CreativeWork",
            "name": subject.license,
            "identifier": subject.license_url,
        },
        {
            "@id": subject.paper["url"],
            "@type": "ScholarlyArticle",
            "name": subject.paper["title"],
        },
        *(_file(name) for name in files if name != WORKFLOW),
    ]
    context = [
        "https://w3id.org/ro/crate/1.1/context",
        "https://w3id.org/ro/terms/workflow-run/context",
    ]
    return {"@context": context, "@graph": graph}


def _root(subject: Subject, authors: list[Entity], files: Sequence[str]) -> Entity:
    """The folder itself."""
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": subject.title,
        "description": subject.description,
        "license": {"@id": subject.license_url},
        "datePublished": subject.date or PUBLISHED,
        "author": _ids(author["@id"] for author in authors),
        "conformsTo": _ids(CONFORMS_TO),
        "mainEntity": {"@id": WORKFLOW},
        "mentions": {"@id": RUN},
        "hasPart": _ids(files),
        "keywords": subject.keywords,
        "citation": {"@id": subject.paper["url"]},
    }


def _workflow(subject: Subject, authors: list[Entity]) -> Entity:
    """dvc.yaml."""
    return {
        "@id": WORKFLOW,
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "name": "data -> poison -> pretrain -> clean -> report",
        "programmingLanguage": {"@id": DVC},
        "author": _ids(author["@id"] for author in authors),
        "license": {"@id": subject.license_url},
        "conformsTo": {"@id": BIOSCHEMAS},
        "version": subject.commit or subject.version,
    }


def _run(
    subject: Subject, document: dict[str, Any], authors: list[Entity], files: Sequence[str]
) -> Entity:
    """The study: specifications in, report out; failed while runs are missing."""
    inputs = [name for name in files if name.startswith("specs/") and name.endswith(".yaml")]
    top = [name for name in files if "/" not in name]
    outputs = [name for name in top if name.startswith(("index", "runs", "report"))]
    status = "FailedActionStatus" if document["missing"] else "CompletedActionStatus"
    times = {"startTime": subject.started, "endTime": subject.ended} if subject.started else {}
    return {
        "@id": RUN,
        "@type": "CreateAction",
        "name": f"Study at profile {document['profile']}",
        "instrument": {"@id": WORKFLOW},
        "agent": {"@id": authors[0]["@id"]},
        "object": _ids(inputs),
        "result": _ids(outputs),
        "actionStatus": {"@id": f"http://schema.org/{status}"},
        **times,
    }


def _profile(url: str) -> Entity:
    """An RO-Crate profile; its address ends with name and version."""
    _, name, version = url.rsplit("/", 2)
    return {"@id": url, "@type": "CreativeWork", "name": name, "version": version}


def _software() -> list[Entity]:
    """DVC, and its site."""
    site = "https://dvc.org"
    return [
        {
            "@id": DVC,
            "@type": "ComputerLanguage",
            "name": "DVC",
            "alternateName": WORKFLOW,
            "identifier": {"@id": site},
            "url": {"@id": site},
        },
        {"@id": site, "@type": "WebSite", "name": "DVC"},
    ]


def _file(name: str) -> Entity:
    """A file of the release."""
    entity: Entity = {
        "@id": name,
        "@type": "File",
        "name": name,
        "encodingFormat": FORMATS.get(name.rsplit(".", 1)[-1], "text/plain"),
    }
    if name == "README.md":
        entity["about"] = {"@id": "./"}
    return entity


def _ids(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"@id": name} for name in names]
