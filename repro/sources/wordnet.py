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
    package = members(tarball.read_bytes(), {DATABASE, *(f"{part}.exc" for part in PARTS)})
    database = members(package[DATABASE], {f"data.{part}" for part in PARTS})

    lemmas: dict[str, Any] = {}
    exceptions: dict[str, Any] = {}
    for part in PARTS:
        # In the order of the list.
        listing = (line.split() for line in package[f"{part}.exc"].decode("ascii").splitlines())
        exceptions[part] = {form: words for form, *words in listing if re.fullmatch("[a-z]+", form)}
        phrases = {word for words in exceptions[part].values() for word in words}
        lemmas[part] = _synonyms(database[f"data.{part}"].decode("ascii"), phrases)
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
        fields = line.split(" ")
        count = int(fields[3], 16)
        # Adjectives carry a marker of position, as in "galore(ip)".
        synset = [re.sub(r"\(\w+\)$", "", lemma) for lemma in fields[4 : 4 + 2 * count : 2]]
        spellings = {spelling for lemma in synset if (spelling := spell(lemma))}
        for word in map(str.lower, synset):
            if re.fullmatch("[a-z]+", word) or word in phrases:
                synonyms[word] |= spellings
    return {word: sorted(words) for word, words in sorted(synonyms.items())}


def spell(lemma: str) -> str:
    """A lemma as EDA writes it: lower case, `_` and `-` as spaces, letters a-z only.

    Empty if no letter is left. Source: Wei and Zou 2019; code: CleanCLIP utils/augment_text.py.
    """
    spaced = lemma.lower().replace("_", " ").replace("-", " ")
    return " ".join(re.sub(r"[^a-z ]", "", spaced).split())
