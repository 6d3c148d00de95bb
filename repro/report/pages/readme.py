"""The generated blocks of README.md and specs/README.md."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

from repro.markdown import fill
from repro.profile import SPECS
from repro.spec import Switches

README = Path("README.md")
NAMES = {
    "cc3m": "CC3M",
    "cc6m": "CC6M",
    "100k": "100K",
    "200k": "200K",
    "mmcl": "MMCL",
    "mmcl_ssl": "MMCL + SSL",
}


def write_blocks(profile: str) -> None:
    """Write the result table of README.md from report.json, and the table of switches of specs/README.md."""
    report = Path("report/build") / profile / "report.json"
    fill(README, "results", results_block(json.loads(report.read_text(encoding="utf-8"))))
    fill(SPECS / "README.md", "switches", switches_block())


def results_block(document: dict[str, Any]) -> str:
    """Table 1 of a report.json as Markdown: paper beside reproduced, in percent, with interval, number of images and other seeds."""
    settings, repeats = document["settings"], _repeats(document)
    lines = [
        f"Profile `{document['profile']}`, seeds {', '.join(map(str, settings['seeds']))}; best zero-shot top-1 (%) at an ASR of at most"
        f" {settings['asr_cap']:.0%}, with {settings['confidence']:.0%} intervals. {_sentence(document['stand_in'])}",
        "",
        "| data, cleaning pairs | pre-training | poisoned: paper | reproduced | cleaned: paper | reproduced | its ASR | images"
        " | cleaned, over seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in document["tables"]["table1"]["rows"]:
        before, after = row["original_accuracy"], row["clean_accuracy"]
        cells = [
            f"{NAMES[row['dataset']]}, {NAMES[row['clean_size']]}",
            NAMES[row["pretrain_objective"]],
            _percent(before["paper"]),
            _estimate(before),
            _percent(after["paper"]),
            _estimate(after),
            _percent(after["asr"]),
            "-" if after["n"] is None else f"{after['n']:,}",
            repeats.get((row["dataset"], row["clean_size"], row["pretrain_objective"]), "-"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for study in document["studies"]:
        judged = {claim["id"]: claim["verdict"] for claim in study["claims"]}
        if said := [
            f"{NAMES[c['dataset']]}, {NAMES[c['clean_size']]}: {judged[c['id']]}"
            for c in document["headline"]["claims"]
            if judged
        ]:
            seeds = ", ".join(map(str, study["rows"][0]["seeds"]))
            claim = "That the pre-training objective decides whether CleanCLIP works"
            lines += [
                "",
                f"{claim}, judged on seeds {seeds}: **{'; '.join(said)}**;",
                "see [docs/findings.md](docs/findings.md).",
            ]
    return "\n".join(lines)


def _repeats(document: dict[str, Any]) -> dict[tuple[str, ...], str]:
    """Best accuracy at the cap of each cell in the study that repeats the whole graph: mean, standard deviation and seeds."""
    return {
        (
            row["dataset"],
            row["clean_size"],
            row["pretrain_objective"],
        ): f"{_percent(statistics.mean(values))} ± {_percent(statistics.stdev(values))} ({len(values)} seeds)"
        for study in document["studies"]
        if study["claims"]
        for row in study["rows"]
        if row["variant"] == study["reference"]
        and len(values := row["values"]["cleaned_accuracy"]) > 1
    }


def switches_block(specs: Path = SPECS) -> str:
    """Every switch with both protocols' values and the source of each, as the protocol files have them."""
    columns = [_sourced(specs / "protocols" / f"{name}.yaml") for name in ("paper", "authors")]
    lines = [
        "| switch | protocol `paper` | its source | protocol `authors` | its source |",
        "|---|---|---|---|---|",
    ]
    for name in Switches.model_fields:
        cells = [
            cell
            for column in columns
            for cell in (f"`{column[name][0]}`", column[name][1].replace("|", "\\|"))
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _sourced(path: Path) -> dict[str, tuple[str, str]]:
    """Value and provenance comment of each field of a flat YAML file."""
    found = re.findall(r"^(\w+): +(\S+) +# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: (value, source) for name, value, source in found}


def _sentence(stand_in: str) -> str:
    return f"Stand-in data: {stand_in}." if stand_in else "The paper's data."


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _estimate(cell: dict[str, Any]) -> str:
    if cell["reproduced"] is None:
        return "-"
    low, high = cell["ci95"]
    return f"{_percent(cell['reproduced'])} [{_percent(low)}, {_percent(high)}]"
