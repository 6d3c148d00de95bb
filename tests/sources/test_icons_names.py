"""Captions from the names of icons."""

from __future__ import annotations

import pytest

from repro.sources.icons.names import caption_words


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("account-circle-outline", "account circle"),
        ("calendar-2", "calendar"),
        ("folder-24px", "folder"),
        ("traffic-light", "traffic light"),
        ("format-bold", "format bold"),
        ("battery-5x-v2", "battery"),
        ("woman-teacher-medium-dark-skin-tone", "woman teacher"),
        ("fill", "fill"),
        ("regular-icon", "regular icon"),
    ],
)
def test_styles_sizes_and_numbers_are_no_words_of_a_caption(name: str, caption: str):
    assert caption_words(name) == caption


def test_a_set_says_which_endings_are_styles():
    """The longest declared one goes, and only at its end of the name."""
    suffixes = ["light", "broken", "light-duotone"]
    assert caption_words("sun-light-duotone", suffixes) == "sun"
    assert caption_words("traffic-light-broken", suffixes) == "traffic light"
    assert caption_words("sharp-home", prefixes=["sharp"]) == "home"


@pytest.mark.parametrize("name", ["123", "x", "tv", "4k", "up-2", "24px"])
def test_a_name_of_fewer_than_three_letters_gives_no_caption(name: str):
    assert caption_words(name) == ""
