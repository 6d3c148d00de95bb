"""`python -m benchmarks [NAME...]`: measure all, or some; `--docs` writes what was measured into
benchmarks/README.md.

`benchmarks/build/bench.json` holds `{name: {"ratio", "unit", "runs"}}`, ratio the median of the
runs;
`benchmarks/build/details.json` the machine, the seconds of both sides, and the same for the paper's
model and resolution.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repro.launch.places import TRAINING_ENVIRONMENT

BUILD = Path("benchmarks/build")
NAMES = {
    "train_step": ("training step, MMCL + SSL, with the loading of its batch", "at least 2"),
    "evaluation": ("evaluation, clean and triggered images", "at least 3"),
    "cleaning_run": (
        "a finetuning run, one of {rates} learning rates, from start to last row",
        "at least 3",
    ),
    "loader": ("loading of an image with its augmented view", "at least 3"),
    "rn50_of_floor": ("training step of RN50, 32 pairs of 224 px", "at least 0.6"),
}
"""What bench.json holds: in words, and what is wanted of it."""
BESIDES = {
    "train_step_rn50": ("training step, MMCL + SSL, of RN50 with 16 pairs of 224 px", ""),
    "evaluation_rn50": ("evaluation of RN50, 50 images of 224 px and 80 prompts", ""),
    "loader_rn50": ("loading of an image of 224 px with its augmented view", ""),
}
"""What only details.json holds."""
LEARNING_RATES = 2
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "REPRO_SLOTS": "1",
    "PYTHONPATH": str(Path.cwd()),
} | TRAINING_ENVIRONMENT
"""For this process and those that it starts; the reference gains too."""


def main(arguments: list[str]) -> None:
    """Measure, write the two files, print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(NAMES | BESIDES)}; all if none is given",
    )
    parser.add_argument(
        "--docs",
        action="store_true",
        help="measure nothing, write the last measurements into benchmarks/README.md",
    )
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(NAMES | BESIDES)):
        parser.error(f"{unknown[0]} (allowed: {', '.join(NAMES | BESIDES)})")
    if not chosen.docs:
        if (
            not ENVIRONMENT.items() <= os.environ.items()
        ):  # the allocator reads it when the process starts
            sys.exit(
                subprocess.call(
                    [sys.executable, "-m", "benchmarks", *arguments], env=os.environ | ENVIRONMENT
                )
            )
        measure(chosen.names or list(NAMES | BESIDES))
    details = _read("details")
    if not details:
        parser.error("nothing is measured yet; `make bench` does")
    block = table(details)
    print(block)
    if chosen.docs:
        from repro.markdown import fill

        fill(Path("benchmarks/README.md"), "speed", block)


def measure(names: list[str]) -> None:
    """Take measurements on one core and write each as soon as it is there."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from benchmarks import measures
    from benchmarks.workload import mini_workload
    from repro.runs.machine import environment
    from repro.train.process import distributed

    distributed.repeatable(threads=1)
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        workload = mini_workload(folder, LEARNING_RATES)
        for name in names:
            print(f"{name} ...", file=sys.stderr)
            result = getattr(measures, name)(workload, folder)
            details = _read("details") | {"machine": environment(), name: asdict(result)}
            _write("details", details)
            kept = ("ratio", "unit", "runs")
            _write(
                "bench",
                {
                    key: {part: details[key][part] for part in kept}
                    for key in NAMES
                    if key in details
                },
            )


def table(details: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    machine = details["machine"]
    lines = [
        f"Processor time on one core of an {machine['device']}, medians, with the least and the"
        " most of the repetitions in brackets;",
        f"torch {machine['torch']}, float32, and the profile `mini` where nothing else is said.",
        "",
        "| | straightforward, or floor | here | | wanted |",
        "|---|---|---|---|---|",
    ]
    for name, (text, wanted) in (NAMES | BESIDES).items():
        if found := details.get(name):
            slow, fast = (_seconds(found[side]) for side in ("reference_seconds", "seconds"))
            least, most = min(found["runs"]), max(found["runs"])
            ratio = f"{found['ratio']:.2g} [{least:.2g}, {most:.2g}] {found['unit']}"
            what = text.format(rates=LEARNING_RATES)
            lines.append(f"| {what} | {slow} | {fast} | {ratio} | {wanted} |")
    return "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _read(name: str) -> dict[str, Any]:
    path = BUILD / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def _write(name: str, content: dict[str, Any]) -> None:
    (BUILD / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
