"""Pictures of README: an evaluation image of `mini` without the patch and with it.

`PYTHONPATH=. python docs/pictures/backdoor.py` writes them; the stage `data` has made the images.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from repro.data.keyed import keyed_rng
from repro.data.shards import PairStore
from repro.data.triggers import stamp
from repro.profile import load_profile

NUMBER = 193
"""Of the image in the store: ICON."""
ICON = "ph:key-bold"
"""Its name in the package, for NOTICE."""
PICTURES = Path(__file__).parent


def main() -> None:
    """Write key.png and key-patched.png beside this file."""
    profile = load_profile("mini")
    store = PairStore.open(Path("data/mini/evaluation"))
    image = store.decode(NUMBER, profile.data.image_size)
    rng = keyed_rng("evaluation", profile.evaluate.trigger_seed, 0, NUMBER)
    patched = stamp(profile.data.poison.trigger, profile.switches, image, rng).image
    Image.fromarray(image).save(PICTURES / "key.png")
    Image.fromarray(patched).save(PICTURES / "key-patched.png")


if __name__ == "__main__":
    main()
