"""What a release says of itself: citation, Zenodo, CodeMeta and ReScience C, from one source.

They must not differ: Zenodo reads .zenodo.json only where CITATION.cff lies beside it.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from repro.report.format import worded
from repro.report.pages.prepared import is_of_profile
from repro.report.pages.summary import KEYWORDS, report_title


@dataclass(frozen=True, slots=True)
class Subject:
    """What is released, in plain words."""

    title: str
    description: str
    name: str
    version: str
    license: str
    """SPDX identifier."""
    authors: list[str]
    keywords: list[str]
    paper: dict[str, Any]
    """`title`, `reference`, `url` and `doi` of the paper that is replicated."""
    verdict: str
    """On the paper's answer."""
    repository: str
    """Address of the code; empty where pyproject.toml names none."""
    commit: str | None
    """Of most runs."""
    started: str
    """ISO 8601, of the first run; empty without runs."""
    ended: str
    """Of the last run's start."""

    @property
    def date(self) -> str:
        """Day of the last run; empty without runs."""
        return self.ended[:10]

    @property
    def license_url(self) -> str:
        """The licence as SPDX has it."""
        return f"https://spdx.org/licenses/{self.license}"


def describe(project: dict[str, Any], document: dict[str, Any]) -> Subject:
    """The one source: `project` of pyproject.toml for the software, report.json for the study."""
    said = document["context"]["project"]
    # Archived studies are older than the study that is released.
    runs = document["runs"].items()
    started = [run["started"] for name, run in runs if is_of_profile(name, document)]
    return Subject(
        title=report_title(document),
        description=f"{project['description']}, profile {document['profile']}.",
        name=project["name"],
        version=project["version"],
        license=project["license"],
        authors=said["authors"] or [f"The contributors to {project['name']}"],
        keywords=list(KEYWORDS),
        paper=document["paper"],
        verdict=worded(document["headline"]["verdict"], document["stand_in"]),
        repository=said["repository"],
        commit=document["commit"],
        started=min(started, default=""),
        ended=max(started, default=""),
    )


def citation(subject: Subject) -> str:
    """CITATION.cff 1.2; values are JSON strings, which are YAML strings."""
    paper = subject.paper
    released = [f"date-released: {_quoted(subject.date)}"] if subject.date else []
    lines = [
        "cff-version: 1.2.0",
        "message: Please cite this replication and the paper.",
        "type: software",
        f"title: {_quoted(subject.title)}",
        f"abstract: {_quoted(subject.description)}",
        f"version: {_quoted(subject.version)}",
        f"license: {subject.license}",
        "authors:",
        *(f"  - name: {_quoted(name)}" for name in subject.authors),
        "keywords:",
        *(f"  - {_quoted(word)}" for word in subject.keywords),
        *released,
        "references:",
        "  - type: article",
        f"    title: {_quoted(paper['title'])}",
        f"    url: {_quoted(paper['url'])}",
        "    authors:",
        f"      - name: {_quoted(paper['reference'].split('. BUGS')[0])}",
    ]
    return "\n".join(lines) + "\n"


def zenodo(subject: Subject) -> dict[str, Any]:
    """.zenodo.json."""
    supplement = {
        "identifier": subject.paper["url"],
        "relation": "isSupplementTo",
        "scheme": "url",
    }
    return {
        "title": subject.title,
        "description": subject.description,
        "version": subject.version,
        "license": subject.license,
        "upload_type": "software",
        "creators": [{"name": name} for name in subject.authors],
        "keywords": subject.keywords,
        "related_identifiers": [supplement],
    }


def codemeta(subject: Subject) -> dict[str, Any]:
    """codemeta.json 2.0."""
    return {
        "@context": "https://doi.org/10.5063/schema/codemeta-2.0",
        "@type": "SoftwareSourceCode",
        "name": subject.title,
        "description": subject.description,
        "version": subject.version,
        "license": subject.license_url,
        "author": [{"@type": "Organization", "name": name} for name in subject.authors],
        "keywords": subject.keywords,
        "programmingLanguage": "Python",
        "referencePublication": subject.paper["url"],
    }


def rescience(subject: Subject) -> str:
    """metadata.yaml of an article of ReScience C: every field that the journal's tools read.

    What only an author or the journal knows is empty: affiliation, review, dates, number.
    """
    # The journal's tools want somebody to write to, whom they know by the star.
    contact, *others = subject.authors
    authors = [(contact, "1,*"), *((name, "1") for name in others)]
    roles = ("editor", "reviewer", "reviewer")
    paper = subject.paper
    fields: dict[str, Any] = {
        "title": subject.title,
        "authors": [
            {"name": name, "orcid": "", "email": "", "affiliations": codes}
            for name, codes in authors
        ],
        "affiliations": [{"code": 1, "name": "", "address": ""}],
        "keywords": ", ".join(subject.keywords),
        "code": [{"url": subject.repository}, {"doi": ""}, {"swh": ""}],
        "data": [{"url": ""}, {"doi": ""}],
        "replication": [
            {"cite": paper["reference"]},
            {"bib": ""},
            {"url": paper["url"]},
            {"doi": paper["doi"]},
        ],
        "abstract": f"{subject.description} The paper's answer: {subject.verdict}.",
        "bibliography": "",
        "type": "Replication",
        "domain": "Machine learning",
        "language": "Python",
        "review": [{"url": ""}, {"doi": ""}],
        "contributors": [{"name": "", "orcid": "", "role": role} for role in roles],
        "dates": [{"received": ""}, {"accepted": ""}, {"published": ""}],
        "article": [{"number": ""}, {"doi": ""}, {"url": ""}],
        "journal": [
            {"name": "ReScience C"},
            {"issn": "2430-3658"},
            {"volume": ""},
            {"issue": ""},
        ],
    }

    # One line a field, since people fill in the rest.
    writer = YAML(typ="safe", pure=True)
    writer.width = 10_000
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel has None there
    text = io.StringIO()
    writer.dump(fields, text)
    return text.getvalue()


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
