"""The report as LaTeX and PDF: the numbers of the document through booktabs and siunitx, vector figures beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from repro.report.document import lookup
from repro.report.numbers.evaluations import LABELS
from repro.report.pages.figures import captions
from repro.report.studies.outcomes import MEASURES

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "−": r"\ensuremath{-}",
    "≤": r"\ensuremath{\le}",
    "±": r"\ensuremath{\pm}",
}
"""Characters with a meaning in TeX, and those that our own texts use beyond ASCII."""


class Tex(str):
    """Text that is TeX already and is not escaped again."""


def escape(value: Any) -> str:
    """Any value as inert TeX; characters that the fonts lack become a question mark."""
    if isinstance(value, Tex):
        return value
    text = re.sub(r"[\x00-\x1f\x7f]", " ", str(value))
    return "".join(SPECIAL.get(c, c if c.isascii() else _accented(c)) for c in text)


def tex(
    document: dict[str, Any],
    digest: str,
    templates: Path,
    summary: list[dict[str, Any]],
    counts: dict[str, int],
) -> str:
    """report.tex; `summary` and `counts` are those of the page."""
    environment = _environment(templates)
    environment.filters["at"] = lambda path: lookup(document, path)
    return environment.get_template("report.tex.j2").render(
        document=document,
        digest=digest,
        summary=summary,
        verdict_counts=counts,
        captions=captions(document),
        measures=MEASURES,
    )


def metadata(document: dict[str, Any], templates: Path) -> str:
    """metadata.yaml with the fields that ReScience C asks for; JSON strings are YAML strings, so nothing can break out."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("metadata.yaml.j2").render(document=document)


def compile_pdf(out: Path, document: dict[str, Any]) -> None:
    """Compile `out/report.tex` where a TeX is installed; says what is missing where it is not.

    Dates inside the PDF are those of the last run, so that the same report compiles to the same bytes.
    """
    (out / "report.pdf").unlink(missing_ok=True)
    program = shutil.which("pdflatex")
    if program is None:
        print(
            "report: no pdflatex found, so report.tex is not compiled (Debian: texlive-latex-recommended, "
            "texlive-latex-extra, texlive-science, lmodern)",
            file=sys.stderr,
        )
        return
    started = max(
        (run["started"] for run in document["runs"].values()), default="2023-11-25T00:00:00+00:00"
    )
    epoch = int(datetime.fromisoformat(started).timestamp())
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": os.environ.get("HOME", "/"),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(epoch),
        "FORCE_SOURCE_DATE": "1",
        "openin_any": "p",
        "openout_any": "p",
    }
    build = out / "tex"
    build.mkdir(exist_ok=True)
    command = [
        program,
        "-no-shell-escape",
        "-interaction=nonstopmode",
        "-halt-on-error",
        "-output-directory=tex",
        "report.tex",
    ]
    for _ in range(2):
        done = subprocess.run(
            command,
            cwd=out,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            check=False,
        )
        if done.returncode:
            problem = re.search(r"^!.*(?:\n.*){0,4}", done.stdout, re.MULTILINE)
            print(
                f"report: report.tex does not compile: {problem[0] if problem else done.stdout[-400:]}",
                file=sys.stderr,
            )
            shutil.rmtree(build)
            return
    (build / "report.pdf").replace(out / "report.pdf")
    shutil.rmtree(build)


def _environment(templates: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        finalize=escape,  # noqa: S701 (TeX, not HTML: finalize escapes every value)
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": _percent,
        "short": lambda value: f"{100 * value:g}",
        "signed": lambda value: Tex(rf"\num[print-implicit-plus]{{{100 * value:.2f}}}"),
        "interval": _interval,
        "label": _label,
        "num": _num,
        "breakable": _breakable,
        "hash": _hash,
    }
    return environment


def _percent(value: float | None) -> Tex:
    return Tex("{--}" if value is None else f"{100 * value:.2f}")


def _interval(ends: list[float] | None) -> Tex:
    return Tex(
        "{--}" if ends is None else rf"\numrange{{{100 * ends[0]:.1f}}}{{{100 * ends[1]:.1f}}}"
    )


def _label(key: str | None) -> str:
    return LABELS.get(key or "", key or "–")


def _num(value: float | None) -> Tex:
    return Tex("{--}" if value is None else rf"\num{{{value:g}}}")


def _breakable(text: str) -> Tex:
    """A path that may be broken after its slashes, dashes and underscores."""
    return Tex(re.sub(r"([/\-]|\\_)", r"\1\\allowbreak{}", escape(text)))


def _hash(text: str) -> Tex:
    """A long hash that may be broken every eight characters."""
    return Tex(r"\allowbreak{}".join(escape(text[i : i + 8]) for i in range(0, len(text), 8)))


def _accented(character: str) -> str:
    """Latin letters with accents pass (T1 fonts have them); the rest is a question mark."""
    return character if "\u00c0" <= character <= "\u017e" else "?"
