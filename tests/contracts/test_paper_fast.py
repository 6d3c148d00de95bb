"""The profile `paper_fast` is `paper` with other arithmetic, and nothing else."""

from __future__ import annotations

from typing import Any

from repro.profile import clean_runs, load_profile, pretrain_runs


def differences(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted paths of what differs between two JSON documents, and both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = {}
        for key in one.keys() | other.keys():
            found |= differences(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))
        return found
    return {} if one == other else {path: (one, other)}


def test_paper_fast_differs_from_paper_by_its_arithmetic_alone() -> None:
    paper, fast = (load_profile(name).model_dump() for name in ("paper", "paper_fast"))

    assert differences(paper, fast) == {
        "name": ("paper", "paper_fast"),
        "pretrain.precision": ("tf32", "bf16"),
        "pretrain.compile": (False, True),
        "pretrain.deterministic": (True, False),
        "clean.precision": ("tf32", "bf16"),
        "clean.compile": (False, True),
        "clean.deterministic": (True, False),
    }


def test_a_difference_would_be_seen() -> None:
    one = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    other = {"a": {"b": 1, "c": [1, 3]}, "e": 2}
    assert differences(one, other) == {"a.c": ([1, 2], [1, 3]), "e": (None, 2)}


def test_both_profiles_have_the_same_runs() -> None:
    runs = [
        [(run.cell, run.run_id) for run in [*pretrain_runs(profile), *clean_runs(profile)]]
        for profile in (load_profile("paper"), load_profile("paper_fast"))
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 4 + 174
