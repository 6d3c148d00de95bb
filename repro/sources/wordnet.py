"""Synonyms of the text augmentation from WordNet 3.0.

NLTK, which the authors use, reads version 3.0. The npm package holds Princeton's database in an
inner archive, and the lists of irregular forms beside it.
"""

import io
import re
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

DATABASE = "WNdb-3.0.tar.gz"

PARTS = ("noun", "verb", "adj", "adv")
"""Parts of speech, as in the names of WordNet's files."""


def read_wordnet(tarball: Path) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Content of `synonyms.json`: `lemmas` and `exceptions`, each by part of speech.

    `lemmas` maps a word to all words and phrases of its synsets, itself included. `exceptions` maps
    an irregular form to its base forms. EDA looks up single words of letters a-z only, so these are
    the keys, besides the few phrases that are base forms ("comics": "comic_strip").
    """
    lists = {f"{part}.exc" for part in PARTS}
    package = members(tarball.read_bytes(), {DATABASE} | lists)
    database = members(package[DATABASE], {f"data.{part}" for part in PARTS})

    lemmas: dict[str, Any] = {}
    exceptions: dict[str, Any] = {}
    for part in PARTS:
        forms = {}
        for line in package[f"{part}.exc"].decode("ascii").splitlines():
            form, *words = line.split()
            if re.fullmatch("[a-z]+", form):
                forms[form] = words
        exceptions[part] = forms

        phrases = {word for words in forms.values() for word in words}
        data = database[f"data.{part}"].decode("ascii")
        lemmas[part] = _synonyms(data, phrases)
    return {"lemmas": lemmas, "exceptions": exceptions}


def members(archive: bytes, names: set[str]) -> dict[str, bytes]:
    """Contents of an archive's files by name without folder; each name occurs once in WordNet."""
    # One pass: a seek in a compressed archive reads it again from its beginning.
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            name = Path(member.name).name
            if name in names and (file := tar.extractfile(member)):
                contents[name] = file.read()
    return contents


def _synonyms(data: str, phrases: set[str]) -> dict[str, list[str]]:
    """Word -> sorted words and phrases of its synsets, from a data file (format: wndb(5WN)).

    Of phrases only those in `phrases` have an entry.
    """
    synonyms: dict[str, set[str]] = defaultdict(set)
    for line in data.splitlines():
        # The licence at the head of each file is indented.
        if line.startswith("  "):
            continue
        synset = _synset(line)
        spellings = {spell(lemma) for lemma in synset} - {""}
        for word in map(str.lower, synset):
            if re.fullmatch("[a-z]+", word) or word in phrases:
                synonyms[word] |= spellings
    return {word: sorted(words) for word, words in sorted(synonyms.items())}


def _synset(line: str) -> list[str]:
    """The lemmas of a line of a data file: the fourth field is their number, hexadecimal."""
    fields = line.split(" ")
    count = int(fields[3], 16)
    lemmas = fields[4::2][:count]
    # Adjectives carry a marker of position, as in "galore(ip)".
    return [re.sub(r"\(\w+\)$", "", lemma) for lemma in lemmas]


def spell(lemma: str) -> str:
    """A lemma as EDA writes it: lower case, `_` and `-` as spaces, letters a-z only.

    Empty if no letter is left. Source: Wei and Zou 2019; code: CleanCLIP utils/augment_text.py.
    """
    spaced = re.sub("[_-]", " ", lemma.lower())
    letters = re.sub("[^a-z ]", "", spaced)
    return " ".join(letters.split())
