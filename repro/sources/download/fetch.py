"""`python -m repro fetch cc3m|cc12m`: the pairs of the profile `paper` from the network into
`incoming/`, resumable.

From the published URL list, by img2dataset, in an environment of its own inside this one: it asks
for older libraries than the study does (pandas below 3, albumentations below 2). Or from a public
mirror of ready shards (repro/sources/download/ready_shards.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import repro
from repro.files import held
from repro.profile import load_profile
from repro.sources.download.ready_shards import fetch_mirror
from repro.spec import Dataset, ShardSource, SpecError

SLOTS: dict[str, Dataset] = {"cc3m": "cc3m", "cc12m": "cc6m"}
"""The dataset slot that each collection fills."""
ROOT = Path(repro.__file__).parents[1]
REQUIREMENTS = ROOT / "requirements-fetch.txt"
QUIET = {
    "WANDB_MODE": "disabled",
    "WANDB_ERROR_REPORTING": "false",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "WDS_SECURE": "1",
}
"""Settings that keep what img2dataset imports from asking the network on its own account."""


def fetch(
    dataset: str,
    url_list: Path | None,
    profile_name: str,
    processes: int,
    allowed: Sequence[str] = (),
) -> str:
    """Run the next pass over `url_list`, or go on with the mirror where none is given; what became
    of the rows, in words.

    `allowed` names private networks that may be asked as well. Raises SpecError for a profile
    without such a source or a list that is not there, RuntimeError if the download ended early.
    """
    profile = load_profile(profile_name)
    source = profile.data.source
    if not isinstance(source, ShardSource):
        raise SpecError(
            f"{profile_name}: data.yaml: source.kind: {source.kind!r} needs nothing fetched "
            "(allowed: webdataset)"
        )

    # Before img2dataset is installed, which takes a minute and 800 MB.
    if url_list is not None and not url_list.is_file():
        raise SpecError(f"--list: {url_list}: no such file (allowed: the published tsv)")

    folder = Path(source.pairs[SLOTS[dataset]])
    with sole_user(folder) as lock:
        if url_list is None:
            return fetch_mirror(dataset, folder)
        # In its own interpreter, which inherits the lock and so holds it even if this process dies.
        command = [
            str(fetch_python()),
            "-m",
            "repro.sources.download.url_list",
            str(folder),
            dataset,
            str(url_list),
            "--size",
            str(profile.data.image_size),
            "--processes",
            str(processes),
            *(part for network in allowed for part in ("--allow-network", network)),
        ]

        if subprocess.run(
            command, env=os.environ | QUIET | {"PYTHONPATH": str(ROOT)}, pass_fds=[lock]
        ).returncode:
            raise RuntimeError(
                f"{folder}: the download ended early; call again to go on from the last complete "
                "shard"
            )
        accounting = json.loads((folder / "accounting.json").read_text(encoding="utf-8"))
    return accounting_in_words(accounting)


def accounting_in_words(accounting: dict[str, int | dict[str, int]]) -> str:
    """The accounting of a URL list in words."""
    lines = [
        f"{accounting['obtained']} of {accounting['listed']} rows obtained in "
        f"{accounting['passes']} passes"
    ]
    for kind in ("refused", "failed"):
        counts = accounting[kind]
        assert isinstance(counts, dict)
        lines += [
            f"  {kind}: {reason}: {count}"
            for reason, count in sorted(counts.items(), key=lambda item: -item[1])
        ]
    if accounting["failed"]:
        lines.append("the same command tries the failed rows again, and only those")
    return "\n".join(lines)


@contextmanager
def sole_user(folder: Path) -> Iterator[int]:
    """Hold the folder, with the descriptor given and as long as any process has it open; SpecError
    if another process fetches into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: another process is fetching into it; wait for it to end"
    with held(folder / ".lock", busy) as descriptor:
        yield descriptor


def fetch_python() -> Path:
    """Interpreter of the environment of img2dataset, made when it is not there; RuntimeError if
    pip cannot.
    """
    environment = Path(sys.prefix) / "fetch"
    python, complete = environment / "bin" / "python", environment / ".complete"
    # Changed requirements make the environment anew.
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not complete.is_file() or complete.read_text() != wanted:
        print(
            f"repro: installing img2dataset into {environment} (about a minute and 800 MB, once)",
            file=sys.stderr,
        )

        make = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(environment)]
        install = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "-r",
            str(REQUIREMENTS),
        ]
        if subprocess.run(make).returncode or subprocess.run(install).returncode:
            raise RuntimeError(
                f"{environment}: pip could not install {REQUIREMENTS.name}; its message is above"
            )

        # Written last: an installation that was cut short has no mark.
        complete.write_text(wanted)
    return python
