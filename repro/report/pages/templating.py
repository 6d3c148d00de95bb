"""Jinja as all pages use it: our templates, and an error for a name that a template lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).parent / "templates"


def jinja_environment(**options: Any) -> jinja2.Environment:
    """An environment over our templates; `options` say above all how values are escaped."""
    return jinja2.Environment(  # noqa: S701 (each caller says how it escapes)
        loader=jinja2.FileSystemLoader(TEMPLATES),
        # A misspelt name is an error and not an empty place on a page.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
