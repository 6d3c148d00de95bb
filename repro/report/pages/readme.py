"""Generated blocks: ladder, results and graph of README.md, and switches of specs/README.md."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from repro.markdown import fill
from repro.profile import SPECS, read_yaml
from repro.report.format import label, worded
from repro.report.format import markdown_percent as percent
from repro.report.judging.control import control_words
from repro.report.pages.verdicts import control_lines, discussion, settling
from repro.report.scales.printed import ladder_table
from repro.report.schema.document import ReportDocument, read_report
from repro.report.studies.words import model_name, not_cleaned
from repro.spec import Switches

README = Path("README.md")
GRAPH = Path("dvc.yaml")
PLACEHOLDER = re.compile(r"\$\{[^}]*\}")
"""What DVC fills in, as in `data/${item.profile}/${item.dataset}`."""
HEADS = (
    "data, cleaning pairs",
    "pre-training",
    "poisoned: paper",
    "reproduced",
    "cleaned: paper",
    "reproduced",
    "its ASR",
    "images",
    "cleaned, over seeds",
)
"""Columns of the table of results."""
CELL = ("dataset", "clean_size", "pretrain_objective")
"""Fields that name a row of Table 1."""
CLAIM = "That the pre-training objective decides whether CleanCLIP works"
CONTROL = "Positive control, CleanCLIP on the poisoned MMCL model"
NONE = "-"
NOT_CLEANED = "none"
"""Where no evaluation met the cap."""


def write_blocks(profile: str) -> None:
    """Write ladder, results and graph into README.md, from report.json and dvc.yaml, and the
    switches into specs/README.md.
    """
    fill(README, "graph", graph_block())
    document = read_report(Path("report/build") / profile / "report.json")
    fill(README, "ladder", ladder_block(document))
    fill(README, "results", results_block(document))
    fill(SPECS / "README.md", "switches", switches_block())


def ladder_block(document: ReportDocument) -> str:
    """The ladder of scales as Markdown: what is smaller at each, and what came out there."""
    table = ladder_table(document)
    return "\n".join(
        [
            "What was done at which scale, and what came out there for CC6M, means over seeds "
            "(positive control: CleanCLIP on the poisoned MMCL model; resistance: the points of "
            "its start accuracy that the MMCL model keeps more than the MMCL + SSL model, in the "
            "mean over ASRs up to 20%):",
            "",
            _row(list(table.heads)),
            "|---" * len(table.heads) + "|",
            *(_row(list(row)) for row in table.rows),
        ]
    )


def results_block(document: ReportDocument) -> str:
    """Table 1 as Markdown, in percent: paper beside reproduced, with interval, images and seeds."""
    settings = document["settings"]

    # Nobody may take results on stand-in data for results on the paper's.
    data = "The paper's data."
    if document["stand_in"]:
        data = f"Stand-in data: {document['stand_in']}."
    seeds, cap = _seeds(settings["seeds"]), f"{settings['asr_cap']:.0%}"
    lines = [
        f"Profile `{document['profile']}`, {seeds}; best zero-shot top-1 (%) at an ASR of at most "
        f"{cap}, with {settings['confidence']:.0%} intervals. {data}",
        "",
        _row(HEADS),
        # A rule under the heads, as Markdown tables have it.
        "|---" * len(HEADS) + "|",
    ]

    # First seed in the table's own columns; over seeds in the last one, where a study has them.
    repeats = _repeats(document)
    for row in document["tables"]["table1"]["rows"]:
        before, after = row["original_accuracy"], row["clean_accuracy"]
        cells = (
            f"{label(row['dataset'])}, {label(row['clean_size'])}",
            label(row["pretrain_objective"]),
            percent(before["paper"]),
            _estimate(before),
            percent(after["paper"]),
            _cleaned(after),
            percent(after["asr"]),
            NONE if after["n"] is None else f"{after['n']:,}",
            repeats.get(_cell(row), NONE),
        )
        lines.append(_row(cells))
    return "\n".join([*lines, *_verdicts(document)])


def switches_block(specs: Path = SPECS) -> str:
    """Every switch with both protocols' values and the source of each, as the files have them."""
    # Read from the text of the files, since a YAML parser drops comments, where the sources stand.
    columns = [_sourced(specs / "protocols" / f"{name}.yaml") for name in ("paper", "authors")]
    heads = ("switch", "protocol `paper`", "its source", "protocol `authors`", "its source")
    lines = [_row(heads), "|---" * len(heads) + "|"]

    for name in Switches.model_fields:
        cells = [f"`{name}`"]
        for column in columns:
            value, source = column[name]
            cells += [f"`{value}`", source.replace("|", "\\|")]
        lines.append(_row(cells))
    return "\n".join(lines)


def graph_block(graph: Path = GRAPH) -> str:
    """The stages of dvc.yaml and which reads what another makes, as a picture of Mermaid."""
    stages: dict[str, Any] = read_yaml(graph)["stages"]
    made = {name: list(_paths(stage["outs"])) for name, stage in stages.items()}
    edges = [
        f"  {maker} --> {reader}"
        for reader, stage in stages.items()
        for maker, outs in made.items()
        if any(_share_files(dep, out) for dep in _paths(stage.get("deps", [])) for out in outs)
    ]
    return "\n".join(["```mermaid", "flowchart LR", *edges, "```"])


def _paths(entries: Sequence[Any]) -> Iterator[str]:
    """Paths of dependencies or outputs; one with options is a mapping by its path."""
    for entry in entries:
        yield entry if isinstance(entry, str) else next(iter(entry))


def _share_files(one: str, other: str) -> bool:
    """Whether one of two paths may lie in the other, whatever their placeholders stand for."""
    parts = [PLACEHOLDER.sub("*", path).split("/") for path in (one, other)]
    return all(fnmatch(a, b) or fnmatch(b, a) for a, b in zip(*parts, strict=False))


def _seeds(numbers: Sequence[int]) -> str:
    """One seed or several, by number."""
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _verdicts(document: ReportDocument) -> Iterator[str]:
    """What is said of the main claims: first over seeds, by the studies that clean every cell, then
    in this report; and what would settle them.
    """
    stand_in = document["stand_in"]
    for study in document["studies"]:
        # Studies of a part of the graph judge no claim.
        judged = {claim["id"]: claim for claim in study["claims"]}
        if not judged:
            continue
        main = document["headline"]["claims"]
        said = [
            f"{_place(claim)}: {worded(judged[claim['id']]['verdict'], stand_in)}" for claim in main
        ]
        controls = [
            f"{_place(cell)} {control_words(cell['control'])}"
            for claim in main
            for cell in judged[claim["id"]]["evidence"]
        ]
        yield ""
        yield f"{CLAIM}, judged on {_seeds(study['rows'][0]['seeds'])}: **{'; '.join(said)}**;"
        yield "see [docs/findings.md](docs/findings.md)."
        yield f"{CONTROL}: {'; '.join(controls)}."

    # The runs of this report, whose table stands above.
    seeds = _seeds(document["settings"]["seeds"])
    said = [
        f"{_place(claim)}: {worded(claim['verdict'], stand_in)}"
        for claim in document["headline"]["claims"]
    ]
    controls = [
        f"{label(line.dataset)}, {label(line.clean_size)} {line.said}"
        for line in control_lines(document)
    ]
    yield ""
    yield f"{CLAIM}, in this report ({seeds}): **{'; '.join(said)}**."
    yield f"{CONTROL}: {'; '.join(controls)}."

    # What of the loss is the finetuning's own doing, and what is still missing.
    found = discussion(document)
    yield ""
    for price in found.prices:
        starts = [percent(row["means"]["accuracy"]) for row in (price.control, price.poisoned)]
        yield (
            f"Price of the finetuning itself, {model_name(price.control)}: a model without a "
            f"backdoor loses {percent(price.without_backdoor)} points of its {starts[0]}% by it, "
            f"the poisoned one {percent(price.with_backdoor)} of its {starts[1]}%."
        )
    yield f"What would settle it: {' '.join(settling(document, found))}"


def _repeats(document: ReportDocument) -> dict[tuple[Any, ...], str]:
    """Best accuracy at the cap of each cell over the seeds of a study that repeats the graph."""
    found = {}
    for study in document["studies"]:
        if not study["claims"]:
            continue
        # The reference alone: other variants are other experiments.
        for row in study["rows"]:
            if row["variant"] == study["reference"]:
                found[_cell(row)] = _spread(row)
    return found


def _spread(row: Mapping[str, Any]) -> str:
    """Mean and standard deviation over seeds; a seed on which no model was cleaned is told."""
    values = row["values"]["cleaned_accuracy"]
    known = [value for value in values if value is not None]

    # A standard deviation takes two values.
    if row["tried"] < 2:
        return NONE
    if len(known) < 2:
        return not_cleaned(row) or NONE

    # A mean over fewer seeds than were run is told, or it would look better than it is.
    seeds = f"{len(known)} seeds"
    if len(known) < len(values):
        seeds = f"{len(known)} of {len(values)} seeds"
    return f"{percent(statistics.mean(known))} ± {percent(statistics.stdev(known))} ({seeds})"


def _cell(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in CELL)


def _sourced(path: Path) -> dict[str, tuple[str, str]]:
    """Value and provenance comment of each field of a flat YAML file."""
    # `name: value  # source`; a field without a comment does not match, and is then missed by name.
    found = re.findall(r"^(\w+): +(\S+) +# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: (value, source) for name, value, source in found}


def _estimate(cell: Mapping[str, Any]) -> str:
    if cell["reproduced"] is None:
        return NONE

    # A number never stands without the interval over images.
    low, high = cell["ci95"]
    return f"{percent(cell['reproduced'])} [{percent(low)}, {percent(high)}]"


def _cleaned(cell: Mapping[str, Any]) -> str:
    """The best evaluation at the cap, and `none` where there are evaluations but none met it."""
    if cell["reproduced"] is None and cell["evaluations"]:
        return NOT_CLEANED
    return _estimate(cell)


def _place(entry: Mapping[str, Any]) -> str:
    return f"{label(entry['dataset'])}, {label(entry['clean_size'])}"


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"
