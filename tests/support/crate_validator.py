"""Validates an RO-Crate with the RO-Crate project's validator, without a network: `python
crate_validator.py CRATE PROFILE...`.

Run by tests in an environment of its own (packages roc-validator and rocrate). The validator wants
the JSON-LD context of RO-Crate 1.1 from the web; it gets the one that rocrate ships, which is a
later version, with the names that changed since. Prints one line a violated requirement.
"""

from __future__ import annotations

import email.message
import io
import json
import sys
import urllib.request
import urllib.response
from importlib.resources import files
from typing import Any

import requests
from rocrate_validator import models, services

CONTEXT = json.loads(files("rocrate").joinpath("data/ro-crate.jsonld").read_bytes())
CONTEXT["@context"]["ComputationalWorkflow"] = "https://bioschemas.org/ComputationalWorkflow"


def answer(url: str) -> bytes:
    """RO-Crate's context; an empty one for the terms of Workflow Run, of which the crate uses none."""
    return json.dumps(CONTEXT).encode() if "/ro/crate/1.1/context" in url else b'{"@context": {}}'


class Offline(urllib.request.HTTPSHandler):
    """Answers instead of the web."""

    def https_open(self, request: urllib.request.Request) -> Any:
        headers = email.message.Message()
        headers["Content-Type"] = "application/ld+json"
        response = urllib.response.addinfourl(
            io.BytesIO(answer(request.full_url)), headers, request.full_url, 200
        )
        response.msg = "OK"
        return response


def send(
    session: requests.Session, request: requests.PreparedRequest, **_: Any
) -> requests.Response:
    """The same for the other client that the validator uses."""
    response = requests.Response()
    response.status_code, response.url, response.request = 200, str(request.url), request
    response.headers["Content-Type"] = "application/ld+json"
    response._content = answer(response.url)  # a stream would have to carry what urllib3's does
    response.raw = io.BytesIO()
    return response


if __name__ == "__main__":
    urllib.request.install_opener(urllib.request.build_opener(Offline))
    requests.Session.send = send  # type: ignore[method-assign]
    for profile in sys.argv[2:]:
        settings = services.ValidationSettings(
            rocrate_uri=sys.argv[1],
            profile_identifier=profile,
            requirement_severity=models.Severity.REQUIRED,
            no_cache=True,
        )
        for issue in services.validate(settings).get_issues():
            print(f"{profile}: {issue.check.identifier}: {issue.message}")
