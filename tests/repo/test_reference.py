"""The reference of the benchmarks does no work that the authors' code spares itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest

from benchmarks import reference
from repro.profile import clean_runs, load_profile


def test_clean_and_triggered_images_share_a_text_classifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[object] = []
    used: list[tuple[object, bool]] = []

    def text_classifier(*_: object) -> object:
        built.append(object())
        return built[-1]

    def predictions(*arguments: Any, triggered: bool) -> Iterator[Any]:
        used.append((arguments[-1], triggered))
        return iter(())

    monkeypatch.setattr(reference, "text_classifier", text_classifier)
    monkeypatch.setattr(reference, "predictions", predictions)
    spec = clean_runs(load_profile("smoke"))[0]
    reference.evaluate(MagicMock(), spec, MagicMock(), [spec.target_class])
    assert len(built) == 1
    assert used == [(built[0], False), (built[0], True)]
