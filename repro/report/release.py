"""`python -m repro publish`: a folder that a web server or an archive takes as it is.

It holds the report, every evaluation as CSV, the article, the models of one seed with a card, and
what is needed to cite and check them.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.files import file_sha256, replace_file
from repro.ledger import LedgerError, cleaned_row
from repro.names import TRIGGERS
from repro.profile import load_profile
from repro.report.build import DOCUMENT, report_folder
from repro.report.pages.html import markdown, shared_values
from repro.report.readme import read_document
from repro.report.verify import verify
from repro.runs.layout import MODELS, WEIGHTS

SHOWN = 10
"""Problems that the message of a refusal lists."""
BESIDE = ("LICENSE", "NOTICE", "CITATION.cff")
SUMS = "SHA256SUMS"


def release(profile: str) -> Path:
    """Pack the built report of a profile into `report/publish/<profile>`; returns the folder.

    LedgerError if the report is not built, or if it or a result is not what it should be.
    """
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
    values["models"] = _copy_models(profile, values["document"], out / "models")
    if values["models"]:
        trigger = load_profile(profile).data.poison.trigger
        card = markdown("model_card", **values, trigger=trigger, looks=TRIGGERS[trigger.name])
        replace_file(out / "models/README.md", card.encode())
    replace_file(out / "README.md", markdown("release", **values).encode())

    # Last, over all files but itself, as `sha256sum --check` reads it.
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    sums = "".join(f"{file_sha256(out / name)}  {name}\n" for name in names)
    replace_file(out / SUMS, sums.encode())
    shutil.make_archive(str(out), "zip", out.parent, out.name)
    return out


def _copy_models(profile: str, document: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """Copy the poisoned and cleaned models of the first seed; returns what their card says."""
    settings, folder = document["settings"], MODELS / profile
    seed, copied = settings["seeds"][0], []
    for row in document["tables"]["table2"]["rows"]:
        cell = f"{row['dataset']}-{row['pretrain_objective']}"
        start = [row[share]["reproduced"] for share in ("accuracy", "asr")]
        paths = {folder / cell / f"seed{seed}" / WEIGHTS[0]: f"{cell}-poisoned"}
        for path in sorted((folder / "cleaned" / cell).glob(f"*-seed{seed}.safetensors")):
            paths[path] = f"{cell}-cleaned-{path.name.partition('-')[0]}"
        for path, name in paths.items():
            if path.is_file():
                best = cleaned_row(path)
                shares = [best.accuracy, best.asr(settings["asr_denominator"])] if best else start
                out.mkdir(exist_ok=True)
                shutil.copy2(path, out / f"{name}.safetensors")
                copied.append({"name": name, "shares": shares, "sha256": file_sha256(path)})
    return copied
