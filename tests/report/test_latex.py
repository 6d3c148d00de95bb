"""The article: no text of others is TeX, and it compiles to a short paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from repro.report.pages import latex


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("50% of $x_i & {y}#~^", r"50\% of \$x\_i \& \{y\}\#\textasciitilde{}\textasciicircum{}"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("a\nb\x00c", "a b c"),
        ("−1 ± 2 ≤ 3", "−1 ± 2 ≤ 3"),
        ("Tramèr 漢", "Tramèr ?"),
    ],
)
def test_any_text_is_inert(text: str, tex: str) -> None:
    assert latex.escape(text) == tex
    assert latex.escape(latex.Tex(text)) == text


@pytest.fixture(scope="module")
def source(whole: Path) -> str:
    return (whole / "report/build/mini/report.tex").read_text()


def test_every_reference_and_figure_is_there(source: str, whole: Path) -> None:
    labels = set(re.findall(r"\\label\{([^}]+)\}", source))
    assert set(re.findall(r"\\ref\{([^}]+)\}", source)) <= labels
    works = set(re.findall(r"\\bibitem\{([^}]+)\}", source))
    cited = {key for group in re.findall(r"\\cite\{([^}]+)\}", source) for key in group.split(",")}
    assert cited == works
    for name in re.findall(r"\\includegraphics\[[^]]*\]\{([^}]+)\}", source):
        assert (whole / "report/build/mini" / name).is_file()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="TeX is not installed")
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="poppler is not installed")
def test_the_paper_ends_before_its_ninth_page(whole: Path) -> None:
    pdf = whole / "report/build/mini/report.pdf"
    text = subprocess.run(["pdftotext", pdf, "-"], check=True, capture_output=True, text=True)
    pages = text.stdout.split("\f")
    (appendix,) = [n for n, page in enumerate(pages) if "The paper’s claims" in page]
    assert appendix <= 8
    assert "??" not in text.stdout


def test_without_tex_the_source_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert latex.compile_pdf(tmp_path, {"runs": {}}) is False
    assert "no pdflatex found" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="TeX is not installed")
def test_a_text_that_does_not_compile_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.tex").write_text(r"\documentclass{article}\begin{document}\undefined")
    assert latex.compile_pdf(tmp_path, {"runs": {}}) is False
    assert "Undefined control sequence" in capsys.readouterr().err
