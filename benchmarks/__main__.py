"""`python -m benchmarks [NAME...]`: measure all, or some; `--readme` writes what was measured into README.md.

`benchmarks/build/bench.json` holds `{name: {"ratio", "unit", "runs"}}`, ratio the median of the runs;
`benchmarks/build/details.json` the machine and the seconds of both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

BUILD = Path("benchmarks/build")
NAMES = {
    "train_step": ("training step, MMCL + SSL, with the loading of its batch", "at least 2"),
    "evaluation": ("evaluation, clean and triggered images", "at least 3"),
    "cleaning_run": ("a finetuning run, one of {rates} learning rates, from start to last row", "at least 3"),
    "loader": ("loading of an image with its augmented view", "at least 3"),
    "rn50_of_floor": ("training step of RN50, 32 pairs of 224 px", "at least 0.6"),
    "report_seconds": ("report of {points:,} points", "at most 10"),
    "noop_seconds": ("`dvc repro` with nothing to do", "at most 5"),
}
"""What is measured: in words, and what is wanted of it."""
LEARNING_RATES = 2


def main(arguments: list[str]) -> None:
    """Measure, write the two files, print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is given")
    parser.add_argument("--readme", action="store_true", help="measure nothing, write the last measurements into README.md")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(NAMES)):
        parser.error(f"{unknown[0]} (allowed: {', '.join(NAMES)})")
    if not chosen.readme:
        measure(chosen.names or list(NAMES))
    block = table(_read("bench"), _read("details"))
    print(block)
    if chosen.readme:
        from repro.readme import README, fill

        fill(README, "speed", block)


def measure(names: list[str]) -> None:
    """Take measurements on one core and write each as soon as it is there."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    # For the processes that the measurements start; torch here reads the first as well.
    os.environ |= {"OMP_NUM_THREADS": "1", "REPRO_SLOTS": "1", "PYTHONPATH": str(Path.cwd())}
    import torch

    from benchmarks import measures
    from benchmarks.workload import mini_workload
    from repro.launch.identity import environment

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = Path(name).absolute()
        workload = mini_workload(folder, LEARNING_RATES)
        for name in names:
            print(f"{name} ...", file=sys.stderr)
            result = getattr(measures, name)(workload, folder)
            bench, details = _read("bench"), _read("details")
            bench[name] = {"ratio": result.ratio, "unit": result.unit, "runs": result.runs}
            details["machine"] = environment()
            details[name] = {"reference_seconds": result.reference_seconds, "seconds": result.seconds}
            _write("bench", bench)
            _write("details", details)


def table(bench: dict[str, Any], details: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    from benchmarks.workspace import POINTS

    machine = details["machine"]
    lines = [
        f"Medians on one core of an {machine['device']}, torch {machine['torch']}, float32, profile `mini` where nothing else is said.",
        "",
        "| | straightforward | here | | wanted |",
        "|---|---|---|---|---|",
    ]
    for name, (text, wanted) in NAMES.items():
        if name in bench:
            slow, fast = (_seconds(details[name][side]) for side in ("reference_seconds", "seconds"))
            ratio = f"{bench[name]['ratio']:.2g} {bench[name]['unit']}" if bench[name]["unit"] != "seconds" else ""
            lines.append(f"| {text.format(rates=LEARNING_RATES, points=POINTS)} | {slow} | {fast} | {ratio} | {wanted} |")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _read(name: str) -> dict[str, Any]:
    path = BUILD / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def _write(name: str, content: dict[str, Any]) -> None:
    (BUILD / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
