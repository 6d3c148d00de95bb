"""Train a variant and seed of a study again and compare it with the archive, as in
`python -m tools.rerun bench stripes_par 25`. Without a name both are drawn at random.

A clone of the last commit trains it. Processors of the archive's kind give its counts. Others give
a replicate, whose ASR has to lie where the archive's other seeds expect it, else the exit status
is 1.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from statistics import fmean
from tempfile import TemporaryDirectory

import click

from repro.intervals import student
from repro.ledger import Counts
from repro.study.archive import ArchivedRun, read_archive
from repro.study.spec import archive_of, study_names

COUNTS = {*Counts.model_fields, "validation", "step"}


def has_archive(study: str) -> bool:
    """Whether git has results of it."""
    return archive_of(study).is_file()


@click.command(help=__doc__)
@click.argument("study", type=click.Choice([*filter(has_archive, study_names())]), metavar="STUDY")
@click.argument("named", nargs=-1, metavar="[VARIANT SEED]")
def main(study: str, named: tuple[str, ...]) -> None:
    """Rerun the named variant and seed, or any; SystemExit with 1 if its ASR is another."""
    runs = read_archive(archive_of(study))
    pairs = sorted({(record.spec.variant, str(record.spec.seed)) for record, _ in runs})
    if named and named not in pairs:
        listed = ", ".join(" ".join(pair) for pair in pairs)
        sys.exit(f"{' '.join(named)}: not in {study} (allowed: {listed})")
    variant, seed = named or random.choice(pairs)
    print(f"{study}: variant {variant}, seed {seed}")

    with TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", ".", folder], check=True)
        archive = folder / archive_of(study)
        archive.unlink()
        command = [sys.executable, "-m", "repro", "study", study, "--variant", variant]
        subprocess.run([*command, "--seed", seed], cwd=folder, check=True)
        differences = list(compare(runs, read_archive(archive)))

    sys.exit(bool(differences))


def compare(archived: Sequence[ArchivedRun], again: Sequence[ArchivedRun]) -> Iterator[str]:
    """Print how models cleaned again differ from the archive; yield what is too far off."""
    old = {key(run): counts(run) for run in archived}
    cleaned = [run for run in again if run.record.spec.stage == "clean"]
    if all(counts(run) == old[key(run)] for run in cleaned):
        print(f"all {len(cleaned)} runs have the counts of the archive")
        return

    first = cleaned[0].record.spec
    variant, seed = first.variant, first.seed
    of_variant = [run for run in archived if run.record.spec.variant == variant]
    for objective in sorted({record.spec.pretrain_objective for record, _ in cleaned}):
        value = asr_left(cleaned, objective, seed)
        others = {record.spec.seed for record, _ in of_variant} - {seed}
        values = [asr_left(of_variant, objective, other) for other in others]
        low, high = student(values, 0.95, further=1)
        text = (
            f"{objective}: mean ASR at the ends of the runs {value:.3f}, "
            f"in the archive {asr_left(of_variant, objective, seed):.3f}, "
            f"expected from its other seeds [{low:.3f}, {high:.3f}]"
        )
        print(text)
        if not low <= value <= high:
            yield text


def key(run: ArchivedRun) -> tuple[str, str, str]:
    """What names a run in its archive."""
    spec = run.record.spec
    return spec.stage, spec.model_name, spec.run_id


def counts(run: ArchivedRun) -> list[dict[str, object]]:
    """The counts of each evaluation of a run."""
    return [row.model_dump(include=COUNTS) for row in run.rows]


def asr_left(runs: Sequence[ArchivedRun], objective: str, seed: int) -> float:
    """Mean over learning rates of the ASR at the end of cleaning, a fraction."""
    return fmean(
        rows[-1].asr(record.spec.switches.asr_denominator)
        for record, rows in runs
        if record.spec.stage == "clean"
        and (record.spec.pretrain_objective, record.spec.seed) == (objective, seed)
    )


if __name__ == "__main__":
    main()
