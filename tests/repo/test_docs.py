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
from repro.report.study_tables import REPLICATES
from repro.study.archive import read_archive
from repro.study.spec import archive_of, load_study

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

    page = (root / "docs/a100.md").read_text()
    table = page.partition(f"<!-- plan-{profile}:start -->")[2].partition(":end -->")[0]
    (head,) = re.findall(r"^\| device \|.*$", table, re.MULTILINE)
    (row,) = re.findall(r"^\| a100 \|.*$", table, re.MULTILINE)
    column = head.split(" | ").index("in all")
    low, *_, high = row.split(" | ")[column].split(", ")
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
WRONG = {"10.5 points": "11.4 points", "4 to 13%": "4 to 57%", "-0.58": "-0.93"}


def printed(*numbers: float) -> set[str]:
    return {f"{number:.{digits}f}" for number in numbers for digits in range(3)}


def means(block: str) -> set[str]:
    """The numbers of a generated block, without the ends of intervals."""
    without_intervals = re.sub(r"\[[^]]*\]", "", block)
    return printed(*map(float, KINDS["decimal"].findall(without_intervals)))


def parts(content: Any, kind: type) -> Iterator[Any]:
    """Every object, or every float, of a report."""
    if isinstance(content, kind):
        yield content
    if isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from parts(part, kind)


def document_of(name: str) -> Any:
    """The report of a profile's archives alone."""
    evidence = evidence_of(load_profile(name))
    return plain(build_document(evidence, load_claims(), read_study_results(name)))


def intervals_of(document: Any) -> set[str]:
    """Every mean with its interval, as it is and in percent, of either sign."""
    found = set()
    for part in parts(document, dict):
        value = part.get("value", part.get("mean"))
        ends = part.get("ci", part.get("interval"))
        if not ends or value is None:
            continue
        for scale in (1, -1, 100, -100):
            low, high = sorted(scale * end for end in ends)
            found.add(f"{scale * value:.1f} [{low:.1f}, {high:.1f}]")
        # A share has its interval cut off at 0 and 1.
        low, high = (100 * min(max(end, 0), 1) for end in ends)
        found.add(f"{100 * value:.1f} [{low:.1f}, {high:.1f}]")
    return found


def shares_of(mini: Any, midi: Any) -> Iterator[float]:
    """Numbers that prose tells in percent or in points."""
    for of in mini["replicates"]:
        yield from parts(of if of["measure"] == "lost" else of["sd"], float)
    for study in midi["studies"]:
        for row in study["rows"]:
            yield from parts(row["measures"]["lost"]["mean"], float)
    for of in mini["bench"]:
        yield from parts([of["left"]["mean"], of["blind"]["0.05"]["mean"]], float)
    for of in mini["verdicts"]["secondary"]:
        yield from parts(of["measures"][0]["cells"][0]["start_accuracy"], float)
    for study in ("par", "confirm", "reversal", "whose_view", "bench"):
        yield from parts([row["means"] for row in mini["hypotheses"][study]], float)
    for study in mini["studies"]:
        if study["name"] in ("scenes", "vit"):
            for row in study["rows"]:
                yield from (
                    row["measures"][name]["mean"]
                    for name in ("accuracy", "asr", "cleaned_accuracy")
                )
    for row in mini["draws"]["rows"]:
        yield stdev(row["difference"]["by_seed"].values())
    yield from parts([mini["scales"], mini["settings"]], float)


def of_one_rank() -> Iterator[float]:
    """The model on which `midi` was tried, by two ranks and by one: accuracy, ASR, loss by set."""
    for archive in (archive_of("midi"), REPLICATES / "midi_one_rank.jsonl.gz"):
        runs = [run for run in read_archive(archive) if run.record.spec.seed == 0]
        starts = [run.rows[-1] for run in runs if run.record.spec.stage == "pretrain"]
        assert len({(row.accuracy, row.asr("all")) for row in starts}) == 1
        yield from (starts[0].accuracy, starts[0].asr("all"))
        for variant in ("midi_as_it_is", "more_pairs"):
            cleaned = [
                row.accuracy
                for run in runs
                if (run.record.spec.stage, run.record.spec.variant) == ("clean", variant)
                for row in run.rows
                if row.step and row.asr("all") <= 0.05
            ]
            yield 1 - max(cleaned) / starts[0].accuracy


def generated(root: Path) -> dict[str, set[str]]:
    """What the archives give, by kind of number: with their intervals, in percent, other ones."""
    with chdir(root):
        mini = document_of("mini")
        midi = document_of("midi")
        tried = list(of_one_rank())
        predicted = set(re.findall(r"\d+(?= points)", load_study("vit").predicted))
    readme = BLOCK.search((root / PROSE[0]).read_text())
    assert readme
    shares = printed(*(100 * share for share in [*shares_of(mini, midi), *tried]))
    losses = [entry["loss_ssl"] for entry in mini["mechanism"]["models"]]
    correlations = parts(mini["mechanism"]["correlations"], float)
    return {
        "interval": intervals_of(mini),
        "share": means(readme[2]) | shares | predicted,
        "decimal": printed(*losses, *correlations, 0.05),
    }


def unknown(page: str, known: dict[str, set[str]]) -> Iterator[str]:
    """Numbers in a page's prose that neither the report nor a table of their section has."""
    for section in page.split("\n## "):
        own = {number for match in BLOCK.finditer(section) for number in means(match[2])}
        text = re.sub(r"\s+", " ", NO_PROSE.sub("", section))
        for kind, pattern in KINDS.items():
            for match in pattern.finditer(text):
                groups = match.groups()
                numbers = [" ".join(groups)] if kind == "interval" else filter(None, groups)
                for number in numbers:
                    if number not in known[kind] | own:
                        yield number
            text = pattern.sub("", text)


def found_column(history: str) -> str:
    """What studies found, by the table of predictions."""
    section = history.partition("## Predicted and found")[2]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    return "\n".join(row[3].replace("+", "") for row in rows)


def test_every_number_in_prose_is_one_that_the_archives_give(root: Path) -> None:
    known = generated(root)
    pages = {name: (root / name).read_text() for name in PROSE}
    for name, page in pages.items():
        assert list(unknown(page, known)) == [], name

    found = found_column(pages["docs/history.md"])
    assert "45.4 [21.4, 69.3]" in found
    assert list(unknown(found, known)) == []
    assert list(unknown(found.replace("45.4 [", "46.4 ["), known)) == ["46.4 [21.4, 69.3]"]

    findings = pages["docs/findings.md"]
    for right, wrong in WRONG.items():
        assert right in findings
        edited = findings.replace(right, wrong, 1)
        assert len(list(unknown(edited, known))) == 1, wrong
