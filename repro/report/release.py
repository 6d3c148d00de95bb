"""`python -m repro publish`: a folder that a web server or an archive takes as it is.

It holds the report, every evaluation as CSV, the article, models with their card, and what is
needed to cite and check them.
"""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from repro.files import file_sha256, replace_file
from repro.ledger import LedgerError, Row, cleaned_row
from repro.names import TRIGGERS
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.report.build import DOCUMENT, report_folder
from repro.report.pages.html import markdown, shared_values
from repro.report.pages.tables import models_table
from repro.report.readme import read_document
from repro.report.verify import verify
from repro.study.models import (
    SUMS,
    cleaned_model,
    evaluation_of,
    poisoned_model,
    released_name,
)

SHOWN = 10
"""Problems that the message of a refusal lists."""
BESIDE = ("LICENSE", "NOTICE", "CITATION.cff")


class Model(NamedTuple):
    """A model that a release takes."""

    file: str
    """Its name in the folder `models` of the release."""
    path: Path
    counts: Row
    """Its evaluation."""

    @property
    def sha256(self) -> str:
        """Hash of the weights."""
        return file_sha256(self.path)


def release(profile: str, seeds: Collection[int] = ()) -> Path:
    """Pack the built report of a profile, and the models of some seeds, by default the first, into
    `report/publish/<profile>`; returns the folder.

    LedgerError if the report is not built, if it or a result is not what it should be, or if a seed
    that is named has no model.
    """
    wanted: Collection[int | None] = seeds or [None]
    kept = [model for seed in wanted for model in _kept(profile, seed)]
    report = report_folder(profile)
    if problems := verify(report / DOCUMENT):
        first = "\n  ".join(problems[:SHOWN])
        raise LedgerError(f"{report}: {len(problems)} problem(s)\n  {first}")
    values = shared_values(read_document(profile))

    # From nothing: what an earlier release held must not stay among the files.
    out = Path("report/publish") / profile
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(report, out)
    for name in BESIDE:
        shutil.copy2(name, out / name)
    values["files"] = [path.name for path in report.iterdir()]

    values["models"] = kept
    if kept:
        (out / "models").mkdir()
        for model in kept:
            shutil.copy2(model.path, out / "models" / model.file)
        trigger = load_profile(profile).data.poison.trigger
        denominator = values["document"]["settings"]["asr_denominator"]
        text = markdown(
            "model_card",
            **values,
            card=models_table(kept, denominator),
            trigger=trigger,
            looks=TRIGGERS[trigger.name],
        )
        replace_file(out / "models/README.md", text.encode())
    replace_file(out / "README.md", markdown("release", **values).encode())

    # Last, over all files but itself, as `sha256sum --check` reads it.
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    sums = "".join(f"{file_sha256(out / name)}  {name}\n" for name in names)
    replace_file(out / SUMS, sums.encode())
    shutil.make_archive(str(out), "zip", out.parent, out.name)
    return out


def _kept(profile: str, seed: int | None) -> list[Model]:
    """The poisoned and cleaned models of a seed, or of the profile's first."""
    loaded = load_profile(profile)
    first = loaded.pretrain.seeds[0]
    of_seed = {"seed": first if seed is None else seed}
    found = []
    for start in (
        of.model_copy(update=of_seed) for of in pretrain_runs(loaded) if of.seed == first
    ):
        if model := poisoned_model(start):
            found.append(Model(released_name(start), model[0], evaluation_of(start)))
        runs = [
            of.model_copy(update=of_seed)
            for of in clean_runs(loaded)
            if of.keeps_cleaned and of.model_name == start.model_name and of.seed == first
        ]
        for size in dict.fromkeys(of.clean_size for of in runs):
            of_size = [of for of in runs if of.clean_size == size]
            if (model := cleaned_model(of_size)) and (row := cleaned_row(model[0])):
                found.append(Model(released_name(of_size[0]), model[0], row))
    if seed is not None and not found:
        names = ", ".join(of.model_name for of in pretrain_runs(loaded))
        raise LedgerError(f"--seed: {seed}: no model of it in models/ (models: {names})")
    return found
