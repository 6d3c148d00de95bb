"""Values that would fail or lie only after hours of training are refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repro.profile import load_profile
from repro.spec import SpecError

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "more poisons left than there are": (
        {"clean.mitigation.poisons_left": 11},
        "mitigation.poisons_left: 11 (allowed: 0 to 10, the poisoned pairs of cc3m)",
    ),
    "a negative seed": (
        {"pretrain.seeds": [-1]},
        "seeds.0: Input should be greater than or equal to 0 (got -1)",
    ),
    "a seed of more than 32 bits": (
        {"pretrain.seeds": [2**32]},
        "seeds.0: Input should be less than 4294967296 (got 4294967296)",
    ),
    "batch statistics of one pair": (
        {"pretrain.objectives.mmcl.norm_batch_size": 1},
        "norm_batch_size: Input should be greater than or equal to 2 (got 1)",
    ),
    "a beta of one": (
        {"pretrain.optimizer.betas": [1.0, 1.0]},
        "betas.0: Input should be less than 1 (got 1.0)",
    ),
    "a batch larger than the data": (
        {
            "pretrain.objectives.mmcl.global_batch_size": 256,
            "pretrain.objectives.mmcl.norm_batch_size": 64,
        },
        "objectives.mmcl.global_batch_size: 256 (allowed: 2 to 155, the pairs that cc3m trains on)",
    ),
    "a batch larger than what validation leaves": (
        {"data.num_validation": 135},
        "objectives.mmcl.global_batch_size: 32 (allowed: 2 to 20, the pairs that cc3m trains on)",
    ),
    "a template with a second, named place": (
        {"evaluate.templates": ["a {0.x} {}"]},
        "templates: 'a {0.x} {}' (allowed: strings with exactly one {})",
    ),
    "a template with a lone brace": (
        {"evaluate.templates": ["a { {}"]},
        "templates: 'a { {}' (allowed: strings with exactly one {})",
    ),
    "a template that formats the name": (
        {"evaluate.templates": ["a {!r}{}"]},
        "templates: 'a {!r}{}' (allowed: strings with exactly one {})",
    ),
    "more classes than there are names": (
        {"data.source.num_concepts": 100_000},
        "source.num_concepts: 100000 (allowed: 1 to 1000, the names in",
    ),
}


@pytest.mark.faults(17)
@pytest.mark.parametrize("case", CASES)
def test_a_value_that_fails_late_is_refused_early(root: Path, case: str) -> None:
    overrides, expected = CASES[case]
    with pytest.raises(SpecError) as error:
        load_profile("smoke", root / "specs", overrides)
    assert expected in str(error.value)


def test_the_largest_values_that_work_are_taken(root: Path) -> None:
    overrides = {
        "clean.mitigation.poisons_left": 10,
        "pretrain.seeds": [0, 2**32 - 1],
        "evaluate.templates": ["{}", "a {{braced}} {}"],
    }
    profile = load_profile("smoke", root / "specs", overrides)
    assert profile.pretrain.seeds == [0, 2**32 - 1]
