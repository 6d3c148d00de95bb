"""Text view of the self-supervised loss: EDA, "easy data augmentation" (Wei and Zou 2019, arXiv
1901.11196).

One of four operations, chosen uniformly, changes about a tenth of a caption's words: synonym
replacement, random insertion, random swap, random deletion (code: CleanCLIP utils/augment_text.py,
one sentence of each, shuffled, the first taken). The result has lower-case letters and single
spaces only, as there.

What surprises: the original draws from Python sets, so that its output changes with PYTHONHASHSEED
under one seed; here synonyms come as sorted lists and every draw from a generator of the caller.
For the same reason the original inserts one fixed synonym of a word, whichever comes first in the
set of its process; here one is drawn.
The original fails on a caption without letters; here such a caption comes back unchanged.
"""

import re
from collections.abc import Mapping, Sequence

from numpy.random import Generator

from repro.train.views.synonyms import Synonyms

ALPHA = 0.1
"""Share of words changed, and probability of a deletion (code: CleanCLIP utils/eda.py)."""
INSERTION_TRIES = 9
"""Words tried for one with synonyms before an insertion is given up (code: CleanCLIP utils/eda.py,
whose counter gives up at its tenth look-up, whatever that finds).
"""
SWAP_TRIES = 3
"""Second places tried before a swap is given up (code: CleanCLIP utils/eda.py)."""
_COMMON = """
    a about above after again against all am an and any are as at be because been before being
    below between both but by can did do does doing don down during each few for from further had
    has have having he her here hers herself him himself his how i if in into is it its itself just
    me more most my myself no nor not now of off on once only or other our ours ourselves out over
    own s same she should so some such t than that the their theirs them themselves then there these
    they this those through to too under until up very was we were what when where which while who
    whom why will with you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_COMMON.split())
"""Common English words, never replaced by a synonym."""


Lookup = Synonyms | Mapping[str, Sequence[str]]
"""Word -> synonyms in a fixed order; nothing, or an empty list, where there are none."""


def eda(caption: str, rng: Generator, synonyms: Lookup) -> str:
    """Augmented `caption`; without any letter a-z it is returned unchanged."""
    words = _words(caption)
    if not words:
        return caption

    # In the shortest caption too one word changes (code: CleanCLIP utils/eda.py).
    count = max(1, int(ALPHA * len(words)))
    match _below(4, rng):
        case 0:
            words = _replace_by_synonyms(words, count, rng, synonyms)
        case 1:
            words = _insert_synonyms(words, count, rng, synonyms)
        case 2:
            words = _swap(words, count, rng)
        case _:
            words = _delete(words, rng)

    return " ".join(words)


def shuffled(caption: str, rng: Generator, synonyms: Lookup) -> str:
    """The words of `caption`, each left out with probability 0.3, in a random order; a random word
    if none would be left.
    """
    words = caption.split()
    if not words:
        return caption
    kept = rng.random(len(words)) >= 0.3
    order = rng.permutation(len(words))
    return " ".join(words[i] for i in order if kept[i]) or words[order[0]]


def _words(text: str) -> list[str]:
    """Lower-case words of letters a-z; apostrophes vanish, everything else separates."""
    return re.findall("[a-z]+", text.lower().replace("'", "").replace("’", ""))


def _below(count: int, rng: Generator) -> int:
    """A whole number in 0..count-1: `rng.integers` takes ten times as long for a single one."""
    return int(rng.random() * count)


def _replace_by_synonyms(
    words: list[str], count: int, rng: Generator, synonyms: Lookup
) -> list[str]:
    """Replace at most `count` different words, each wherever it stands, by one of its synonyms."""
    # In the order of the caption, for a set of strings has another one in each process.
    distinct = dict.fromkeys(words)
    words_left = [word for word in distinct if word not in STOP_WORDS]
    candidates = [(word, options) for word in words_left if (options := synonyms.get(word))]

    # Drawn without replacement.
    chosen = {}
    for _ in range(min(count, len(candidates))):
        word, options = candidates.pop(_below(len(candidates), rng))
        chosen[word] = options[_below(len(options), rng)]

    return [chosen.get(word, word) for word in words]


def _insert_synonyms(words: list[str], count: int, rng: Generator, synonyms: Lookup) -> list[str]:
    """Insert `count` times a synonym of a random word before a random word."""
    # A word that was inserted may be drawn for the next insertion, as in the original.
    words = list(words)
    for _ in range(count):
        for _ in range(INSERTION_TRIES):
            options = synonyms.get(words[_below(len(words), rng)])
            if options:
                # The place is drawn before the synonym.
                place = _below(len(words), rng)
                words.insert(place, options[_below(len(options), rng)])
                break

    return words


def _swap(words: list[str], count: int, rng: Generator) -> list[str]:
    """Exchange two random words, `count` times."""
    # Nothing is exchanged where all tries meet the first place, as in a caption of one word.
    words = list(words)
    for _ in range(count):
        first = _below(len(words), rng)
        for _ in range(SWAP_TRIES):
            second = _below(len(words), rng)
            if second != first:
                words[first], words[second] = words[second], words[first]
                break

    return words


def _delete(words: list[str], rng: Generator) -> list[str]:
    """Delete each word with probability ALPHA; if none would be left, keep a random one."""
    draws = rng.random(len(words))
    left = [word for word, draw in zip(words, draws, strict=True) if draw > ALPHA]
    return left or [words[_below(len(words), rng)]]


TEXT_VIEWS = {"eda": eda, "shuffled": shuffled}
