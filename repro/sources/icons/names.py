"""Captions from icon names: words of the name, without those for a style, a size or a number.

`account-circle-outline` becomes `account circle`. A set declares most of its style endings itself;
the list here has the words that tell a style wherever they stand. Words that may also tell a
subject (light, line, bold, flat) are none of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_STYLES = """
    outline outlined outlines filled fill solid rounded duotone twotone linear stroke baseline
    regular alt alternate variant icon icons bx bxs sm md lg xl xs mini px
"""
STYLE_WORDS = frozenset(_STYLES.split())
SKIN_TONE = re.compile(r"-(medium-light|medium-dark|light|medium|dark)-skin-tone")
NOT_A_WORD = re.compile(r"\d+(px)?|\w|[\dx]+|v\d+")
"""Numbers, sizes, versions and single letters."""
MIN_LETTERS = 3
"""Shorter captions say too little to be learnt: `up`, `vk`, `tv`."""


def caption_words(name: str, suffixes: Sequence[str] = (), prefixes: Sequence[str] = ()) -> str:
    """The caption of an icon in a set that declares these style affixes; empty if none is left."""
    words = [word for word in _without_affixes(name, suffixes, prefixes).split("-") if word]
    words = [word for word in words if not NOT_A_WORD.fullmatch(word)]
    # A name of nothing but style words means them: `fill` and `regular` are icons of editors.
    subject = [word for word in words if word not in STYLE_WORDS] or words
    caption = " ".join(subject)
    letters = sum(map(str.isalpha, caption))
    return caption if letters >= MIN_LETTERS else ""


def _without_affixes(name: str, suffixes: Sequence[str], prefixes: Sequence[str]) -> str:
    """`name` without the longest declared suffix, the longest declared prefix and tones of skin."""
    for suffix in sorted(suffixes, key=len, reverse=True):
        if name.endswith(f"-{suffix}"):
            name = name.removesuffix(f"-{suffix}")
            break
    for prefix in sorted(prefixes, key=len, reverse=True):
        if name.startswith(f"{prefix}-"):
            name = name.removeprefix(f"{prefix}-")
            break
    return SKIN_TONE.sub("", name)
