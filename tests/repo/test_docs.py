"""README and docs: links, environment variables, and numbers that the archives give."""

import re
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.report.prose import DOCUMENTED, StaleText, answer, differences, written
from repro.report.results import Results, archived_results

PAGES = [*sorted(Path().glob("*.md")), *sorted(Path("docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
MODULE = re.compile(r"(?<![\w/])repro/[\w/]+\.py\b")
VARIABLE = re.compile(r"\b(?:REPRO_[A-Z_]*[A-Z]|MONGO_URL(?:_FILE)?)\b")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    problems = []
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue

        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page.resolve()
        if not target.exists():
            problems.append(f"{page}: {link}: no such file")
        elif fragment and fragment not in anchors(target):
            problems.append(f"{page}: {link}: no such heading")

    assert problems == []


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in HEADING.findall(page.read_text(encoding="utf-8")):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(words.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    named = MODULE.findall(page.read_text(encoding="utf-8"))
    assert [name for name in named if not Path(name).is_file()] == []


def test_the_table_has_every_environment_variable_of_the_package(root: Path) -> None:
    page = (root / "docs/design.md").read_text(encoding="utf-8")
    section = page[page.index("## Environment") :].split("\n## ")[0]
    told = set()
    for line in section.splitlines():
        if line.startswith("| `"):
            first_column = line.split("|")[1]
            told.update(VARIABLE.findall(first_column))

    named = set()
    for file in [*(root / "repro").rglob("*.py"), root / "setup.sh", root / "compose.yaml"]:
        named.update(VARIABLE.findall(file.read_text("utf-8")))

    # The launcher puts the stage's name behind this one.
    composed = {"REPRO_SBATCH_PRETRAIN", "REPRO_SBATCH_CLEAN"}
    assert told - composed == named - composed


@pytest.mark.parametrize("profile", ["paper_lean", "paper"])
def test_the_hours_in_readme_are_those_of_the_forecast(root: Path, profile: str) -> None:
    """From the lowest to the highest estimate."""
    words = " ".join((root / "README.md").read_text().split())
    (hours,) = re.findall(rf"`{profile}`\D+?([\d,]+ to [\d,]+)", words)

    page = (root / "docs/gpu.md").read_text()
    table = page.partition(f"<!-- plan-{profile}:start -->")[2].partition(":end -->")[0]
    (head,) = re.findall(r"^\| device \|.*$", table, re.MULTILINE)
    (row,) = re.findall(r"^\| a100 \|.*$", table, re.MULTILINE)
    column = head.split(" | ").index("in all")
    low, *_, high = row.split(" | ")[column].split(", ")
    assert hours == f"{low} to {high}"


FINDINGS, README = Path("docs/findings.md"), Path("README.md")
NUMBER = re.compile(r"(?<![\w.,-])\d+\.\d\b")
EXCHANGED = 8


@pytest.fixture(scope="module")
def results(root: Path) -> Results:
    """Of the archives of the profile that the texts are about."""
    with chdir(root):
        return archived_results(DOCUMENTED)


@pytest.fixture(scope="module")
def rendered(root: Path, results: Results) -> dict[Path, str]:
    """Every page that has a written text, made anew."""
    with chdir(root):
        return written(results)


def test_the_pages_in_git_are_what_the_archives_give(
    root: Path, rendered: dict[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert differences(rendered) == []


@pytest.mark.parametrize("page", [FINDINGS, README], ids=str)
def test_a_number_that_is_exchanged_is_found(
    page: Path, rendered: dict[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers all over the page, one at a time."""
    monkeypatch.chdir(tmp_path)
    page.parent.mkdir(exist_ok=True)
    text = rendered[page]
    _, start, block = text.partition("<!-- results:start -->")
    offset = len(text) - len(block) if start else 0
    found = list(
        NUMBER.finditer(text, offset, text.find("<!-- results:end -->") if start else len(text))
    )
    for number in found[:: len(found) // EXCHANGED][:EXCHANGED]:
        wrong = f"{float(number[0]) + 1.1:.1f}"
        page.write_text(f"{text[: number.start()]}{wrong}{text[number.end() :]}", encoding="utf-8")
        (line,) = differences({page: text})
        assert line.startswith(f"{page}:{text[: number.start()].count(chr(10)) + 1}: ")
        assert wrong in line


def test_a_verdict_that_changes_stops_the_texts_and_names_the_sentence(
    root: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Report and `write` both render the answer before they write anything."""
    monkeypatch.chdir(root)
    changed = replace(results)
    vars(changed).update(vars(results))
    cells = [
        replace(of, verdict="refuted")
        if (of.measure.name, of.of.setting) == ("lost_at_cap", None)
        else of
        for of in results.verdicts.leading
    ]
    verdicts = SimpleNamespace(leading=cells, seeds=results.verdicts.seeds, confirmed=cells)
    vars(changed)["verdicts"] = verdicts
    for make in (answer, written):
        with pytest.raises(StaleText, match=r"answer\.md\.j2:\d+: '.*the text says"):
            make(changed)
