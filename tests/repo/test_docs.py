"""README and docs: links, environment variables, and numbers that the archives give."""

import re
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from repro.profile import load_profile
from repro.report.claims import load_claims
from repro.report.document import build_document, plain
from repro.report.studies import evidence_of, read_study_results

PAGES = [*sorted(Path().glob("*.md")), *sorted(Path("docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
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
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings}


def test_the_table_has_every_environment_variable_of_the_package(root: Path) -> None:
    page = (root / "docs/design.md").read_text(encoding="utf-8")
    section = page[page.index("## Environment") :].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    files = [*(root / "repro").rglob("*.py"), root / "setup.sh", root / "compose.yaml"]
    named = {name for file in files for name in VARIABLE.findall(file.read_text("utf-8"))}
    # The launcher puts the stage's name behind this one.
    composed = {"REPRO_SBATCH_PRETRAIN", "REPRO_SBATCH_CLEAN"}
    assert {name for row in rows for name in VARIABLE.findall(row)} - composed == named - composed


def test_every_page_is_reached_from_readme_in_two_steps(root: Path) -> None:
    def linked(page: Path) -> set[Path]:
        text = CODE.sub("", (root / page).read_text(encoding="utf-8"))
        targets = (link.partition("#")[0] for link in LINK.findall(text) if "://" not in link)
        paths = {(root / page.parent / path).resolve() for path in targets if path}
        return {
            path.relative_to(root.resolve()) for path in paths if path.suffix in (".md", ".ipynb")
        }

    first = linked(Path("README.md"))
    reached = first.union(*(linked(page) for page in first if page.suffix == ".md"))
    assert {*Path("docs").glob("*.md"), *Path("docs").glob("*.ipynb")} - reached == set()


def test_the_hours_in_readme_are_those_of_the_forecast(root: Path) -> None:
    """From the lowest to the highest estimate."""
    words = " ".join((root / "README.md").read_text().split())
    (hours,) = re.findall(r"([\d,]+ to [\d,]+) A100 hours", words)
    table = (root / "docs/a100.md").read_text().partition("<!-- plan-paper_lean:start -->")[2]
    (head,) = re.findall(r"^\| device \|.*$", table.partition(":end -->")[0], re.MULTILINE)
    (row,) = re.findall(r"^\| a100 \|.*$", table.partition(":end -->")[0], re.MULTILINE)
    low, *_, high = row.split(" | ")[head.split(" | ").index("in all")].split(", ")
    assert hours == f"{low} to {high}"


PROSE = ("README.md", "docs/findings.md", "docs/data.md", "docs/history.md")
BLOCK = re.compile(r"<!-- (\w+):start -->(.*?)<!-- \1:end -->", re.DOTALL)
# Generated blocks, code, targets of links, tables of dates, versions.
NO_PROSE = re.compile(
    BLOCK.pattern
    + r"|```.*?```|`[^`]*`|\]\([^)]*\)|^\|.*?$|(?:arXiv|Python) [\d.]+(?: to [\d.]+)?",
    re.DOTALL | re.MULTILINE,
)
INTEGER = r"(?<![\w.,-])-?\d+"
NUMBER = rf"{INTEGER}(?:\.\d+)?"
KINDS = {
    "interval": re.compile(rf"({NUMBER})(?: points?)? (\[{NUMBER}, {NUMBER}\])"),
    "share": re.compile(rf"({NUMBER})(?: (?:to|and) ({NUMBER}))?(?:%| points\b)"),
    "decimal": re.compile(rf"({INTEGER}\.\d+)"),
}
WRONG = {"10.5 points": "11.4 points", "4 to 13%": "4 to 23%", "-0.58": "-0.93"}


def printed(*numbers: float) -> set[str]:
    return {f"{number:.{digits}f}" for number in numbers for digits in range(3)}


def means(block: str) -> set[str]:
    """The numbers of a generated block, without the ends of intervals."""
    return printed(*map(float, KINDS["decimal"].findall(re.sub(r"\[[^]]*\]", "", block))))


def parts(content: Any, kind: type) -> Iterator[Any]:
    """Every object, or every float, of a report."""
    if isinstance(content, kind):
        yield content
    if isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from parts(part, kind)


def generated(root: Path) -> dict[str, set[str]]:
    """What the archives give, by kind of number: with their intervals, in percent, other ones."""
    claims = load_claims()
    with chdir(root):
        mini, midi = (
            plain(build_document(evidence_of(profile), claims, read_study_results(profile.name)))
            for profile in map(load_profile, ("mini", "midi"))
        )
    intervals = set()
    for part in parts(mini, dict):
        value = part.get("value", part.get("mean"))
        ends = part.get("ci", part.get("interval"))
        for scale in (1, -1, 100, -100) if ends and value is not None else ():
            low, high = sorted(scale * end for end in ends)
            intervals.add(f"{scale * value:.1f} [{low:.1f}, {high:.1f}]")
    lost = [of["sd"] if of["measure"] != "lost" else of for of in mini["replicates"]]
    lost += [row["measures"]["lost"]["mean"] for of in midi["studies"] for row in of["rows"]]
    bench = [[of["left"]["mean"], of["blind"]["0.05"]["mean"]] for of in mini["bench"]]
    first = [of["measures"][0]["cells"][0] for of in mini["verdicts"]["secondary"]]
    starts = [cell["start_accuracy"] for cell in first]
    spreads = [stdev(of["difference"]["by_seed"].values()) for of in mini["draws"]["rows"]]
    shares = parts([mini["scales"], lost, bench, starts, mini["settings"], spreads], float)
    losses = [entry["loss_ssl"] for entry in mini["mechanism"]["models"]]
    others = [*losses, *parts(mini["mechanism"]["correlations"], float), 0.05]
    readme = means(BLOCK.search((root / PROSE[0]).read_text())[2])
    readme |= printed(*(100 * share for share in shares))
    return {"interval": intervals, "share": readme, "decimal": printed(*others)}


def unknown(page: str, known: dict[str, set[str]]) -> Iterator[str]:
    """Numbers in a page's prose that neither the report nor a table of their section has."""
    for section in page.split("\n## "):
        own = {number for match in BLOCK.finditer(section) for number in means(match[2])}
        text = re.sub(r"\s+", " ", NO_PROSE.sub("", section))
        for kind, pattern in KINDS.items():
            for groups in (match.groups() for match in pattern.finditer(text)):
                numbers = [" ".join(groups)] if kind == "interval" else filter(None, groups)
                yield from (n for n in numbers if n not in known[kind] | own)
            text = pattern.sub("", text)


@pytest.mark.slow
def test_every_number_in_prose_is_one_that_the_archives_give(root: Path) -> None:
    known = generated(root)
    pages = [(root / page).read_text() for page in PROSE]
    assert [list(unknown(page, known)) for page in pages] == [[] for _ in PROSE]
    for right, wrong in WRONG.items():
        assert right in pages[1]
        assert len(list(unknown(pages[1].replace(right, wrong, 1), known))) == 1, wrong
