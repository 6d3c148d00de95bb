"""The report as an article: LaTeX through booktabs, figures beside it, and its PDF."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from repro.report.article.references import REFERENCES
from repro.report.figures.style import Drawn
from repro.report.format import percent
from repro.report.pages.html import amount, jinja_environment, level, shared_values

# fmt: off
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "–": "--", "—": "---", "“": "``", "”": "''", "‘": "`", "’": "'", "…": r"\ldots{}",
    "−": r"\ensuremath{-}", "±": r"\ensuremath{\pm}", "×": r"\ensuremath{\times}",
    "≤": r"\ensuremath{\le}", "≥": r"\ensuremath{\ge}", "→": r"\ensuremath{\to}",
    "∼": r"\ensuremath{\sim}", "≈": r"\ensuremath{\approx}", "¬": r"\textlnot{}",
}
# fmt: on
"""Characters with a meaning in TeX, and those beyond ASCII that our texts and the paper's use."""
PASSES = 3
"""Runs of TeX until tables and references are settled."""
NO_RUN_STARTED = "2023-11-25T00:00:00+00:00"
"""The PDF's date where there are no runs: that of the paper."""


class Tex(str):
    """Text that is TeX already and is not escaped again."""


def escape(value: Any) -> str:
    """Any value as inert TeX; characters that the fonts lack become a question mark."""
    # TeX of our own making, such as a formatted number, passes as it is.
    if isinstance(value, Tex):
        return value

    # Control characters could end a line or a comment in TeX.
    text = re.sub(r"[\x00-\x1f\x7f]", " ", str(value))

    # The minus of a number in a text looks like that of the tables' numbers.
    text = re.sub(r"(?<![^\s(])-(?=[\d.])", "−", text)

    # Character by character, so that what one replacement puts in is not replaced again.
    return "".join(SPECIAL.get(c, c if c.isascii() else _accented(c)) for c in text)


def tex(document: Mapping[str, Any], drawn: Mapping[str, Drawn]) -> str:
    """Return report.tex, which includes the figures as `figures/<name>.pdf`."""
    return (
        _environment()
        .get_template("report.tex.j2")
        .render(
            **shared_values(document),
            figures=drawn,
            date=_last_start(document)[:10],
            authors=", ".join(document["context"]["project"]["authors"]),
            data=(document["context"]["accounting"] or {}).get("data"),
            references=REFERENCES,
        )
    )


def compile_pdf(out: Path, document: Mapping[str, Any]) -> bool:
    """Compile `out/report.tex` where a TeX is installed; says what is missing where it is not.

    Dates inside the PDF are those of the last run, so that the same report gives the same bytes.
    """
    # TeX is a convenience: a machine without it still has report.tex and index.html.
    program = shutil.which("pdflatex")
    if program is None:
        print(
            "report: no pdflatex found, so report.tex is not compiled (Debian: "
            "texlive-latex-recommended, texlive-latex-extra, texlive-science, lmodern)",
            file=sys.stderr,
        )
        return (out / "report.pdf").is_file()

    # A PDF of an earlier report must not stay beside this one.
    (out / "report.pdf").unlink(missing_ok=True)

    # TeX's own files stay in a folder of their own, which is deleted afterwards.
    build = out / "tex"
    build.mkdir(exist_ok=True)
    for _ in range(PASSES):
        done = _run(program, out, document)
        if done.returncode:
            # TeX marks an error by an exclamation mark; what follows tells where it is.
            problem = re.search(r"^!.*(?:\n.*){0,4}", done.stdout, re.MULTILINE)
            told = problem[0] if problem else done.stdout[-400:]
            print(f"report: report.tex does not compile: {told}", file=sys.stderr)
            shutil.rmtree(build)
            return False

    # Only a PDF that is complete comes to the place where the page links to it.
    (build / "report.pdf").replace(out / "report.pdf")
    shutil.rmtree(build)
    return True


def _run(program: str, out: Path, document: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """One pass of TeX, which may neither start programs nor touch files outside of `out`."""
    # TeX takes its date from the environment: that of the last run, not of the build.
    epoch = int(datetime.fromisoformat(_last_start(document)).timestamp())
    variables = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": os.environ.get("HOME", "/"),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(epoch),
        "FORCE_SOURCE_DATE": "1",
        # "p" for paranoid (texmf.cnf): no absolute path, and none that climbs out of the folder.
        "openin_any": "p",
        "openout_any": "p",
    }

    # What the text could ask of TeX is limited a second time here: no programs, no questions.
    command = [
        program,
        "-no-shell-escape",
        "-interaction=nonstopmode",
        "-halt-on-error",
        "-output-directory=tex",
        "report.tex",
    ]
    return subprocess.run(
        command,
        cwd=out,
        env=variables,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )


def _last_start(document: Mapping[str, Any]) -> str:
    """When the last run was started."""
    return max((run["started"] for run in document["runs"].values()), default=NO_RUN_STARTED)


def _environment() -> jinja2.Environment:
    """Return Jinja with other marks, since TeX is full of braces; every value is escaped."""
    pages = jinja_environment(
        autoescape=False,
        finalize=escape,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        keep_trailing_newline=True,
    )
    pages.filters |= {
        "amount": amount,
        "level": level,
        "percent": percent,
        "interval": _interval,
        "quoted": _quoted,
        # What a macro gives is TeX already.
        "tex": Tex,
    }
    return pages


def _interval(ends: Sequence[float], unit: str) -> Tex:
    low, high = (escape(amount(end, unit)) for end in ends)
    return Tex(rf"{{\scriptsize [{low}, {high}]}}")


def _quoted(text: str) -> Tex:
    """Return words of the paper, its losses set as it sets them."""
    return Tex(re.sub(r"\bL\\_(MMCL|SSL)\b", r"\\loss{\1}", escape(text)))


def _accented(character: str) -> str:
    """Latin letters with accents pass (T1 fonts have them); the rest is a question mark."""
    return character if "\u00c0" <= character <= "\u017e" else "?"
