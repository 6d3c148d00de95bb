"""`python -m repro.readme [PROFILE]`: write the result table of README.md from report.json, so that no number is typed in.

Replaces what lies between the two `results` marks; the rest of the file is left as it is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from repro.ledger import replace_file

README = Path("README.md")
START, END = "<!-- results:start -->", "<!-- results:end -->"
NAMES = {"cc3m": "CC3M", "cc6m": "CC6M", "100k": "100K", "200k": "200K", "mmcl": "MMCL", "mmcl_ssl": "MMCL + SSL"}


def results_block(document: dict[str, Any]) -> str:
    """Table 1 of a report.json as Markdown: paper beside reproduced, in percent, with interval and number of images."""
    settings = document["settings"]
    lines = [
        f"Profile `{document['profile']}`, seeds {', '.join(map(str, settings['seeds']))}; best zero-shot top-1 (%) at an ASR of at most"
        f" {settings['asr_cap']:.0%}, with {settings['confidence']:.0%} intervals. {_sentence(document['stand_in'])}",
        "",
        "| data, cleaning pairs | pre-training | poisoned: paper | reproduced | cleaned: paper | reproduced | its ASR | images |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in document["tables"]["table1"]["rows"]:
        before, after = row["original_accuracy"], row["clean_accuracy"]
        cells = [
            f"{NAMES[row['dataset']]}, {NAMES[row['clean_size']]}", NAMES[row["pretrain_objective"]],
            _percent(before["paper"]), _estimate(before), _percent(after["paper"]), _estimate(after), _percent(after["asr"]),
            "-" if after["n"] is None else f"{after['n']:,}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _sentence(stand_in: str) -> str:
    return f"Stand-in data: {stand_in}." if stand_in else "The paper's data."


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _estimate(cell: dict[str, Any]) -> str:
    if cell["reproduced"] is None:
        return "-"
    low, high = cell["ci95"]
    return f"{_percent(cell['reproduced'])} [{_percent(low)}, {_percent(high)}]"


def fill(readme: str, block: str) -> str:
    """`readme` with `block` between its marks; ValueError if they are not there once each and in order."""
    if readme.count(START) != 1 or readme.count(END) != 1 or readme.index(START) > readme.index(END):
        raise ValueError(f"{README}: results: marks missing or out of order (allowed: one {START} before one {END})")
    return readme[: readme.index(START) + len(START)] + f"\n{block}\n" + readme[readme.index(END) :]


if __name__ == "__main__":
    report = Path("report/build") / (sys.argv[1] if len(sys.argv) > 1 else "mini") / "report.json"
    block = results_block(json.loads(report.read_text(encoding="utf-8")))
    replace_file(README, fill(README.read_text(encoding="utf-8"), block).encode())
