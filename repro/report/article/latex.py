"""The report as an article: LaTeX through booktabs and siunitx, figures beside it, and its PDF."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from repro.report.article import appendix, facts
from repro.report.article.references import REFERENCES
from repro.report.figures.curves import figure_names
from repro.report.figures.scatter import SIGNIFICANT, captions, hardly_any
from repro.report.format import duration, factor, label, percent, rate, short, worded
from repro.report.judging.control import control_words
from repro.report.numbers.cells import LOSSES
from repro.report.pages import prepared, summary
from repro.report.pages.templating import jinja_environment, told_everywhere
from repro.report.schema.document import lookup
from repro.report.studies.words import matched_words, not_cleaned

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
NOTHING = "{--}"
"""A cell without a value, in a column of numbers."""
LADDER = 0.77
"""Share of the text's width that the columns of scales have between them."""
IN_RESULTS = ("answer", "resistance")
"""Figures that stand among the results, besides the paper's own; all others are in the appendix."""
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


def tex(document: dict[str, Any], digest: str) -> str:
    """report.tex; `digest` is the SHA-256 of report.json."""
    # The template names numbers by their path in report.json, as index.html does.
    pages = _environment()
    pages.filters["at"] = lambda path: lookup(document, path)
    pages.filters["worded"] = partial(worded, stand_in=document["stand_in"])
    shared = told_everywhere(document)
    claims = facts.claim_rows(document)
    names = figure_names(document)
    main = {claim["id"] for claim in document["headline"]["claims"]}

    return pages.get_template("report.tex.j2").render(
        **shared,
        digest=digest,
        keywords=summary.KEYWORDS,
        date=_last_start(document)[:10],
        # Columns of the tables: the authors' points take one more.
        sources=4 if shared["has_authors"] else 3,
        ladder_width=round(LADDER / max(1, len(document["ladder"])), 3),
        claims=claims,
        claim_parts=_halves(claims),
        claim_counts=facts.claim_counts(claims),
        main_claims=[row for row in claims if row.claim["id"] in main],
        own_claims=facts.own_claim_rows(document),
        seeds=facts.seed_table(document),
        resistance=facts.resistance_rows(document),
        studies=appendix.study_tables(document),
        credits=appendix.picture_credits(document),
        references=REFERENCES,
        losses=LOSSES,
        by_loss=prepared.by_loss(document),
        other_caps=summary.other_caps(document),
        published_points=summary.published_points(document),
        data=document["context"]["accounting"].get("data"),
        figures=names,
        more_figures=[name for name in names if name not in (*IN_RESULTS, *document["figures"])],
        # The paper's figures have numbers of their own here.
        captions={
            name: re.sub(r"^Figure \d\. ", "", text) for name, text in captions(document).items()
        },
        hardly_any=hardly_any(document),
        significant=SIGNIFICANT,
    )


def _halves(rows: Sequence[facts.ClaimRow]) -> list[Sequence[facts.ClaimRow]]:
    """The rows in two tables, each short enough for a page."""
    middle = (len(rows) + 1) // 2
    return [rows[:middle], rows[middle:]]


def compile_pdf(out: Path, document: Mapping[str, Any]) -> bool:
    """Compile `out/report.tex` where a TeX is installed; says what is missing where it is not.

    Dates inside the PDF are those of the last run, so that the same report gives the same bytes.
    """
    # A PDF of an earlier report must not stay beside this one.
    (out / "report.pdf").unlink(missing_ok=True)

    # TeX is a convenience: a machine without it still has report.tex and index.html.
    program = shutil.which("pdflatex")
    if program is None:
        print(
            "report: no pdflatex found, so report.tex is not compiled (Debian: "
            "texlive-latex-recommended, texlive-latex-extra, texlive-science, lmodern)",
            file=sys.stderr,
        )
        return False

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
    """Jinja with other marks, since TeX is full of braces.

    `finalize` escapes every value; what a macro gives is TeX already, which its caller says by the
    filter `tex`.
    """
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
        "aligned": _aligned,
        "percent": _percent,
        "short": short,
        "rate": rate,
        "duration": duration,
        "factor": factor,
        "signed": _signed,
        "interval": _interval,
        "lost": _lost,
        "label": label,
        "control": control_words,
        "first_few": prepared.first_few,
        "gigabytes": prepared.gigabytes,
        "plain": prepared.plain,
        "quoted": _quoted,
        "not_cleaned": not_cleaned,
        "matched": matched_words,
        "erratum_result": _erratum_result,
        "exact": prepared.exact,
        "breakable": _breakable,
        "hash": _hash,
        "tex": Tex,
    }
    return pages


def _aligned(value: float | None) -> Tex:
    """A percentage in a column of numbers, which siunitx reads itself."""
    return Tex(percent(value, digits=2, missing=NOTHING, minus="-"))


def _percent(value: float | None, digits: int = 1) -> Tex:
    """A percentage in the text, its minus set as siunitx sets that of columns and intervals."""
    return Tex("--" if value is None else rf"\num{{{percent(value, digits, minus='-')}}}")


def _signed(value: float) -> Tex:
    return Tex(rf"\num[print-implicit-plus]{{{100 * value:.1f}}}")


def _interval(ends: list[float] | None) -> Tex:
    if ends is None:
        return Tex(NOTHING)

    # An ASCII minus, since siunitx sets it as a sign.
    low, high = (percent(end, digits=1, minus="-") for end in ends)
    return Tex(rf"\numrange{{{low}}}{{{high}}}")


def _lost(drop: Mapping[str, Any] | None) -> Tex:
    """Share of the start accuracy lost, where there is a cleaned model."""
    return _aligned(drop["value"] if drop else None)


def _erratum_result(erratum: Mapping[str, Any]) -> Tex:
    result = erratum["result"]
    if erratum["unit"] == "fraction":
        return Tex(rf"\num{{{100 * result:.3g}}}\%")
    return Tex(rf"\num{{{result:.6g}}}")


def _breakable(text: Any) -> Tex:
    """A path that may be broken after its slashes, dashes and underscores."""
    return Tex(re.sub(r"([/\-]|\\_)", r"\1\\allowbreak{}", escape(text)))


def _quoted(text: str) -> Tex:
    """Words of the paper, its losses set as it sets them."""
    return Tex(re.sub(r"\bL\\_(MMCL|SSL)\b", r"\\loss{\1}", escape(text)))


def _hash(text: str) -> Tex:
    """A long hash that may be broken every eight characters."""
    return Tex(r"\allowbreak{}".join(escape(text[i : i + 8]) for i in range(0, len(text), 8)))


def _accented(character: str) -> str:
    """Latin letters with accents pass (T1 fonts have them); the rest is a question mark."""
    return character if "\u00c0" <= character <= "\u017e" else "?"
