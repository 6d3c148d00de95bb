"""What cleaning may do besides finetuning: each setting against what it says."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from repro.data.sums import hash_folder
from repro.profile import clean_runs, load_profile, pretrain_runs
from repro.spec import Mitigation
from repro.train.model import build_model, shrink_and_perturb
from repro.worker import _rows

OFF = {
    "ssl_weight": 1.0,
    "shrink": 1.0,
    "perturb": 0.0,
    "clusters": 0,
    "cluster_weight": 0.0,
    "poisons_left": 0,
}


def mitigation(**changes: float) -> Mitigation:
    return Mitigation.model_validate({**OFF, **changes})


def test_loss_weights_follow_the_mitigation() -> None:
    profile = load_profile(
        "smoke",
        overrides={
            "clean.mitigation": {**OFF, "ssl_weight": 4.0, "clusters": 3, "cluster_weight": 5.0}
        },
    )
    weights = {run.loss: run.loss_weights for run in clean_runs(profile)}
    assert weights["mmcl"] == {"mmcl": 1.0, "ssl": 0.0, "clusters": 5.0}
    assert weights["mmcl_ssl"] == {"mmcl": 1.0, "ssl": 4.0, "clusters": 5.0}


def test_the_weight_of_pretraining_is_its_own_and_zero_of_it_needs_no_second_view() -> None:
    """The loss of a pre-training with the SSL term at 0 is that of MMCL, at no more cost."""
    for weight, views in ((1.0, 2), (0.25, 2), (0.0, 1)):
        profile = load_profile("smoke", overrides={"pretrain.ssl_weight": weight})
        run = next(run for run in pretrain_runs(profile) if run.loss == "mmcl_ssl")
        assert run.loss_weights == {"mmcl": 1.0, "ssl": weight, "clusters": 0.0}
        assert run.num_views == views
        assert {clean.loss_weights["ssl"] for clean in clean_runs(profile)} == {0.0, 1.0}


def test_shrinking_scales_every_weight_and_perturbing_adds_noise_of_the_given_deviation() -> None:
    spec = load_profile("smoke").pretrain.model
    start, shrunk, noisy, again = (build_model(spec, 0, "fp32") for _ in range(4))
    shrink_and_perturb(shrunk, mitigation(shrink=0.5), 0)
    shrink_and_perturb(noisy, mitigation(perturb=0.01), 1)
    shrink_and_perturb(again, mitigation(perturb=0.01), 1)
    for one, half, other, same in zip(
        *(model.parameters() for model in (start, shrunk, noisy, again)), strict=True
    ):
        torch.testing.assert_close(half, one * 0.5, rtol=0, atol=0)
        assert torch.equal(other, same)
    noise = noisy.token_embedding.weight - start.token_embedding.weight
    assert noise.std().item() == pytest.approx(0.01, rel=0.01)


class Store:
    """Ten rows with keys of their own."""

    keys = np.arange(10, dtype=np.uint8)[:, None].repeat(16, axis=1)

    def __len__(self) -> int:
        return 10


def test_poisons_left_join_the_cleaning_pairs_and_grow_by_inclusion(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "rows.npz", **{"100k": np.array([0, 2, 4]), "poisoned": np.array([1, 3, 5, 7])}
    )
    hash_folder(tmp_path)
    run = next(run for run in clean_runs(load_profile("smoke")) if run.clean_size == "100k")
    rows = [
        set(
            _rows(
                run.model_copy(update={"mitigation": mitigation(poisons_left=count)}),
                tmp_path,
                Store(),
            ).tolist()
        )  # type: ignore[arg-type]
        for count in range(5)
    ]
    assert [len(found) for found in rows] == [3, 4, 5, 6, 7]
    assert rows[0] == {0, 2, 4} and all(few < more for few, more in pairwise(rows))
    assert rows[4] == {0, 1, 2, 3, 4, 5, 7}


@pytest.mark.parametrize(("state", "decay"), [("fresh", 7.0), ("restored", 0.1)])
def test_a_restored_optimizer_brings_its_weight_decay_along(state: str, decay: float) -> None:
    """The authors' "cleaning with heavy regularisation" is undone by loading the optimizer of the
    checkpoint.
    """
    overrides = {"clean.optimizer.weight_decay": 7.0, "switches.optimizer_state": state}
    assert {
        run.optimizer.weight_decay for run in clean_runs(load_profile("smoke", overrides=overrides))
    } == {decay}
