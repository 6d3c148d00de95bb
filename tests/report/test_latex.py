"""report.tex says every character and has one minus sign."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repro.profile import read_yaml
from repro.report.article import latex

BUILD = Path("report/build/mini")
needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex installed")

SET_AS = {"'": "’", "`": "‘", "…": "..."}
"""Signs that TeX sets as others."""


@pytest.fixture(scope="module")
def document(built: Path) -> dict[str, Any]:
    """report.json of the synthetic study."""
    return json.loads((built / BUILD / "report.json").read_bytes())


def texts(content: Any) -> Iterator[str]:
    """All strings in the content of a YAML file."""
    match content:
        case dict():
            for key, value in content.items():
                yield from (*texts(key), *texts(value))
        case list():
            for value in content:
                yield from texts(value)
        case str():
            yield content


def compiled(tex: str, folder: Path) -> str:
    """The text of the PDF that pdflatex makes of `tex`."""
    (folder / "page.tex").write_text(tex, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext installed")
    command = ["pdftotext", "-raw", "page.pdf", "-"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_no_character_of_the_specifications_is_lost(root: Path) -> None:
    """A character that the fonts lack becomes a question mark."""
    lost = {
        (path.name, character)
        for path in sorted((root / "specs").rglob("*.yaml"))
        for text in texts(read_yaml(path))
        for character in text
        if character != "?" and latex.escape(character) == "?"
    }
    assert lost == set()
    assert latex.escape("a \u4e2d b") == "a ? b"


def test_a_minus_is_told_from_a_hyphen() -> None:
    assert latex.escape("-1 to (-0.5), seed-0 of 2023-11-25 at 1e-5") == (
        r"\ensuremath{-}1 to (\ensuremath{-}0.5), seed-0 of 2023-11-25 at 1e-5"
    )


@needs_tex
def test_every_character_of_the_claims_stands_in_the_pdf(
    root: Path, document: dict[str, Any], tmp_path: Path
) -> None:
    used = {
        character for text in texts(read_yaml(root / "specs/claims.yaml")) for character in text
    }
    assert {"∼", "≤"} <= used
    signs = sorted((used | set(latex.SPECIAL)) - {" "})

    # Each between letters of its own, as ligatures and spaces would change what is read back.
    head = latex.tex(document, "0" * 64).partition(r"\begin{document}")[0]
    body = "\n\n".join(f"x{number} {latex.escape(sign)} y" for number, sign in enumerate(signs))
    text = compiled(head + r"\begin{document}" + body + r"\end{document}", tmp_path)
    read = {number: sign.replace(" ", "") for number, sign in re.findall(r"x(\d+) (.+) y", text)}
    found = {sign: read.get(str(number)) for number, sign in enumerate(signs)}
    assert found == {sign: SET_AS.get(sign, sign) for sign in signs}


@needs_tex
def test_a_failed_replication_has_its_mark_in_the_pdf(
    document: dict[str, Any], tmp_path: Path
) -> None:
    failed = copy.deepcopy(document)
    failed["headline"]["verdict"] = "not reproduced"
    failed["stand_in"] = ""
    head = latex.tex(failed, "0" * 64).partition(r"\begin{abstract}")[0]
    text = compiled(head + r"\end{document}", tmp_path)
    assert text.startswith("[¬Re] Effective Backdoor Mitigation")


def test_negative_numbers_have_siunitx_minus_sign_everywhere(document: dict[str, Any]) -> None:
    """Tables 1 and 2 have columns of siunitx; all else stands in its commands."""
    negative = copy.deepcopy(document)
    for claim in negative["claims"]:
        for entry in claim["evidence"]:
            for item in entry["by_seed"]:
                item["value"] = -0.0911
    for row in negative["tables"]["table1"]["rows"]:
        row["clean_accuracy"]["relative_drop"] |= {"value": -0.05, "ci": [-0.1, -0.01]}
    text = latex.tex(negative, "0" * 64).partition(r"\begin{document}")[2]
    assert r"\num{-9.1}" in text and r"\numrange{-10.0}{-1.0}" in text

    text = re.sub(r"\\begin{tabular}.*?\\end{tabular}", "", text, flags=re.DOTALL)
    text = re.sub(r"\\num(range)?(\[[^]]*\])?({[^}]*})+", "", text)
    assert re.findall(r"(?:^|[\s({:/>])(?:-|−|--)\d[^\n]{0,20}", text) == []
