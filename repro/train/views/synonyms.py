"""Synonyms of a word in any form, looked up as NLTK's `wordnet.synsets` does for the authors.

A caption says "dogs", WordNet "dog": WordNet's morphology (Miller et al.; morphy(7WN) of WordNet
3.0) strips endings and knows irregular forms, for each part of speech by itself. A word's synonyms
are all that share a synset with any word that it may be a form of, without the word itself, so that
"dogs" has "dog" among its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

# fmt: off
ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"),
             ("shes", "sh"), ("men", "man"), ("ies", "y")),
    "verb": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""),
             ("ing", "e"), ("ing", "")),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}
# fmt: on
"""Endings and what stands in their place, by part of speech (morphy(7WN); `ves` as NLTK has it)."""

REMEMBERED = 1 << 16
"""Words whose synonyms are kept at hand."""

Lists = Mapping[str, Mapping[str, Sequence[str]]]
"""Part of speech -> word -> words."""


class Synonyms:
    """Word in any form -> its synonyms, sorted, from `repro.sources.wordnet.read_wordnet`."""

    def __init__(self, lemmas: Lists, exceptions: Lists) -> None:
        self.lemmas, self.exceptions = lemmas, exceptions
        self.get = lru_cache(maxsize=REMEMBERED)(self._look_up)

    @classmethod
    def read(cls, path: Path) -> Synonyms:
        """From `data/<profile>/synonyms.json`."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def base_forms(self, word: str, part: str) -> list[str]:
        """The words of one part of speech that `word` may be a form of, itself first."""
        # As WordNet's morphy: the endings are tried only where no irregular form is listed.
        lemmas = self.lemmas.get(part, {})
        forms = self.exceptions.get(part, {}).get(word)
        if forms is None:
            endings = ENDINGS[part]
            forms = [word.removesuffix(old) + new for old, new in endings if word.endswith(old)]

        # Endings may lead to one form twice, or to no word at all.
        return [form for form in dict.fromkeys([word, *forms]) if form in lemmas]

    def _look_up(self, word: str) -> tuple[str, ...]:
        # The list of a form has all words that share a synset with it, in any of its meanings.
        forms = [(part, form) for part in self.lemmas for form in self.base_forms(word, part)]
        synonyms = set().union(*(self.lemmas[part][form] for part, form in forms))
        return tuple(sorted(synonyms - {word}))
