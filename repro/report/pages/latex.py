"""The report as an article: LaTeX through booktabs, figures beside it, and its PDF."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from repro.report.figures.style import Drawn
from repro.report.pages.html import jinja_environment, shared_values
from repro.report.pages.table import Table, Words
from repro.report.reading import Document

# fmt: off
SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
})
# fmt: on
"""Characters with a meaning in TeX."""
BEYOND_ASCII = re.compile("[^\x20-\x7eÀ-ž–—“”‘’…−±×≤≥→∼≈¬]")
"""Characters that the article's fonts and preamble do not have."""
PASSES = 3
"""Runs of TeX until tables and references are settled."""
NO_RUN_STARTED = "2023-11-25T00:00:00+00:00"
"""The PDF's date where there are no runs: that of the paper."""


class Tex(str):
    """Text that is TeX already and is not escaped again."""


def escape(value: Any) -> str:
    """Any value as inert TeX; characters that the article does not have become a question mark."""
    if isinstance(value, Tex):
        return value
    # Control characters could end a line or a comment in TeX.
    text = BEYOND_ASCII.sub("?", re.sub(r"[\x00-\x1f\x7f]", " ", str(value)))
    # The minus of a number in a text looks like that of the tables' numbers.
    text = re.sub(r"(?<![^\s([])-(?=[\d.])", "−", text)
    return text.translate(SPECIAL)


def tex(document: Document, drawn: Mapping[str, Drawn]) -> str:
    """Return report.tex, which includes the figures as `figures/<name>.pdf`."""
    # Other marks than those of the pages, since TeX is full of braces; every value is escaped.
    environment = jinja_environment(
        finalize=escape,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        keep_trailing_newline=True,
    )
    # What a macro gives is TeX already.
    environment.filters |= {"quoted": _quoted, "tex": Tex, "table": table_of}
    return environment.get_template("report.tex.j2").render(
        **shared_values(document),
        figures=drawn,
        date=_last_start(document)[:10],
    )


def compile_pdf(out: Path, document: Document) -> bool:
    """Compile `out/report.tex` where a TeX is installed; says what is missing where it is not.

    Dates inside the PDF are those of the last run, so that the same report gives the same bytes.
    """
    # TeX is a convenience: a machine without it still has report.tex and index.html.
    program = shutil.which("pdflatex")
    if program is None:
        print(
            "report: no pdflatex found, so report.tex is not compiled (Debian: "
            "apt-get install texlive-latex-recommended lmodern)",
            file=sys.stderr,
        )
        return (out / "report.pdf").is_file()

    epoch = int(datetime.fromisoformat(_last_start(document)).timestamp())
    # "p" for paranoid (texmf.cnf): no absolute path, and none that climbs out of the folder.
    limits = {"openin_any": "p", "openout_any": "p"}
    dates = {"SOURCE_DATE_EPOCH": str(epoch), "FORCE_SOURCE_DATE": "1", "TZ": "UTC"}
    options = ["-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error"]
    # TeX's own files stay in a folder of their own, and so does a PDF that is not complete.
    with TemporaryDirectory(dir=out, prefix="tex-") as folder:
        command = [program, *options, f"-output-directory={Path(folder).name}", "report.tex"]
        for _ in range(PASSES):
            done = subprocess.run(
                command,
                cwd=out,
                env=os.environ | limits | dates,
                capture_output=True,
                timeout=300,
            )
            if done.returncode:
                # TeX marks an error by an exclamation mark; what follows tells where it is.
                log = done.stdout.decode(errors="replace")
                problem = re.search(r"^!.*(?:\n.*){0,4}", log, re.MULTILINE)
                text = problem[0] if problem else log[-400:]
                print(f"report: report.tex does not compile: {text}", file=sys.stderr)
                return False
        Path(folder, "report.pdf").replace(out / "report.pdf")
    return True


def _last_start(document: Document) -> str:
    """When the last run was started."""
    return max((run["started"] for run in document["runs"].values()), default=NO_RUN_STARTED)


def table_of(table: Table, *heads: str, long: bool = False) -> Tex:
    """A table with booktabs and label `tab:<name>`; a `long` one may go over several pages."""
    of = table.only(*heads) if heads else table
    columns = [
        f"L{{{column.width}\\textwidth}}" if column.width else "r" if column.number else "l"
        for column in of.columns
    ]
    head = " & ".join(escape(column.head) for column in of.columns)
    lines = [" & ".join(map(_cell, row)) + r" \\" for row in of.cells()]
    kind, repeated = ("longtable", r" \endhead") if long else ("tabular", "")
    text = "\n".join(
        [
            rf"\begin{{{kind}}}{{@{{}}{''.join(columns)}@{{}}}}",
            rf"\toprule {head} \\ \midrule{repeated}",
            *lines,
            r"\bottomrule",
            rf"\end{{{kind}}}",
        ]
    )
    if long:
        return Tex(rf"{{\footnotesize\tabcolsep3pt{chr(10)}{text}}}")
    # The article has numbers of its own.
    caption = re.sub(r"^Table \d\. ", "Paper's table: ", of.caption)
    caption = rf"\caption{{{escape(caption)}}}\label{{tab:{of.name}}}"
    return Tex(
        f"\\begin{{table}}[htb]\n\\centering\\footnotesize\\tabcolsep3pt\n{caption}\n{text}\n\\end{{table}}"
    )


def _cell(words: Words) -> str:
    """A cell; an interval stands behind its mean in smaller letters, a verdict is set apart."""
    text = rf"\emph{{{escape(words.text)}}}" if words.tone else escape(words.text)
    return text + (rf" {{\scriptsize {escape(words.soft)}}}" if words.soft else "")


def _quoted(text: str) -> Tex:
    """Return words of the paper, its losses set as it sets them."""
    return Tex(re.sub(r"\bL\\_(MMCL|SSL)\b", r"\\loss{\1}", escape(text)))
