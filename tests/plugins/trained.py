"""Trains by the objective, and cleans by the defence, of the example package; prints what came out."""

import json
import sys
from pathlib import Path

import numpy as np

from repro.data.keyed import keyed_rng
from repro.data.stages import poison_settings
from repro.data.triggers import stamp
from repro.ledger import pending_rows
from repro.names import DEFENCES, LOSSES, TRIGGERS
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.runs.run import fingerprint_of
from repro.spec import RunSpec
from tests.support.short_run import BATCH, Pairs, run, scheduled

NAMED = ("white", "pairwise", "half_step")
OVERRIDES = {
    "plugins": dict.fromkeys(NAMED, "repro-toys==0.2"),
    "data.poison.trigger.name": "white",
    "pretrain.objectives.pairwise": {
        "learning_rate": 1.0e-3,
        "epochs": 2,
        "warmup_steps": 2,
        "global_batch_size": 32,
        "norm_batch_size": 16,
    },
    "pretrain.model_age.cc3m.pairwise": "last",
    "pretrain.model_age.cc6m.pairwise": "last",
    "clean.cells.*.pretrain_objectives": ["pairwise"],
    "clean.defence": {"name": "half_step", "part": 0.25},
}


class Single(Pairs):
    """One view of every pair."""

    def batch(self, step: int):
        images, tokens = super().batch(step)
        return images[:1], tokens[:1]


def trained(spec: RunSpec, folder: Path) -> dict[str, object]:
    """Plug-ins, fingerprint and last losses of the run."""
    short = {"epochs": 2, "warmup_steps": 3, "global_batch_size": BATCH, "norm_batch_size": BATCH}
    run(folder, scheduled(spec, **short), pairs=Single())
    return {
        "plugins": spec.computed()["plugins"],
        "fingerprint": fingerprint_of(spec, {}),
        "losses": sorted(pending_rows(folder)[-1]["row"]["train_loss"]),
    }


def main(folder: Path) -> None:
    profile = load_profile("smoke", overrides=OVERRIDES)
    [pretraining] = pretrain_runs(profile, "cc3m", "pairwise")
    cleaning = next(run for run in clean_runs(profile) if run.loss == "mmcl")
    stamped = stamp(
        pretraining.trigger,
        pretraining.switches,
        np.zeros((32, 32, 3), np.uint8),
        keyed_rng("test"),
    )
    print(
        json.dumps(
            {
                "labels": [
                    TRIGGERS["white"],
                    LOSSES["pairwise"].label,
                    DEFENCES["half_step"].label,
                ],
                "white": int((stamped.image == 255).all(axis=-1).sum()),
                "store": poison_settings(profile)["plugin"],
                "again": RunSpec.model_validate_json(cleaning.model_dump_json()) == cleaning,
                "pretraining": trained(pretraining, folder / "pretraining"),
                "cleaning": trained(cleaning, folder / "cleaning"),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
