"""The stage `data`: pairs and evaluation images of a profile."""

from __future__ import annotations

from pathlib import Path

from repro.data.shards import write_json
from repro.data.stages import DATA, data_key, tell_settings
from repro.data.sums import hash_folder
from repro.files import building
from repro.profile import load_classnames, load_profile
from repro.sources.packages import WORDNET, Tarball, obtain
from repro.sources.wordnet import read_wordnet
from repro.spec import IconSource, Profile, ShardSource


def data_stage(profile_name: str) -> None:
    """Build `data/<profile>`.

    A store per dataset slot, the evaluation store, synonyms, attribution and accounting.
    """
    make_data(load_profile(profile_name), DATA / profile_name)


def make_data(profile: Profile, out: Path) -> None:
    """Build the data of a profile in `out`, which appears when complete."""
    with building(out) as folder:
        # First, because it may need the registry, and what follows may take hours.
        wordnet = Tarball(obtain(WORDNET))
        write_json(folder / "synonyms.json", read_wordnet(wordnet))

        # Imported here, because each source brings a library that the others do not need.
        match profile.data.source:
            case IconSource():
                from repro.sources.icons.build import build_icons

                build_icons(profile, folder)
            case ShardSource():
                from repro.sources.shards.build import build_external

                build_external(profile, folder)

        # What the labels are numbers of.
        names = "".join(f"{name}\n" for name in load_classnames(profile))
        (folder / "evaluation" / "classnames.txt").write_text(names, encoding="utf-8")
        hash_folder(folder)
    tell_settings(out, data_key(profile))
