"""The stage `data`: pairs and evaluation images of a profile."""

from pathlib import Path

from repro.data.memory import devices, gpus_usable
from repro.data.shards import write_json
from repro.data.stages import DATA, data_settings, is_absent, write_settings
from repro.edits import unedited
from repro.files import building
from repro.profile import SPECS, load_classnames, resolved_file, resolved_profile
from repro.sources.packages import WORDNET, obtain
from repro.sources.wordnet import read_wordnet
from repro.spec import IconTask, Profile, ShardSource


def data_stage(profile_name: str) -> None:
    """Build `data/<profile>`: stores of pairs and evaluation images, synonyms, credits, counts."""
    # Before a day is spent on data that no training could use here.
    gpus_usable(devices())
    profile = resolved_profile(profile_name)
    with unedited(resolved_file(profile_name), SPECS / "classnames"):
        make_data(profile, DATA / profile_name)


def make_data(profile: Profile, out: Path) -> None:
    """Build the data of a profile in `out`, which appears when complete."""
    with building(out) as folder:
        # First: this may need the registry, and the rest may take hours.
        write_json(folder / "synonyms.json", read_wordnet(obtain(WORDNET)))

        # Each source imports a library that the other does not need.
        match profile.data.source:
            case IconTask():
                from repro.sources.icons.build import build_icons

                build_icons(profile, folder)
            case ShardSource():
                from repro.sources.shards.build import build_external

                build_external(profile, folder)

        names = "".join(f"{name}\n" for name in load_classnames(profile))
        (folder / "evaluation" / "classnames.txt").write_text(names, encoding="utf-8")
        for store in (*profile.data.num_pairs, "evaluation"):
            if not is_absent(folder / store):
                write_settings(folder / store, data_settings(profile))
