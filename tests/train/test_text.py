"""Text views: what each operation may do to a caption, and synonyms as NLTK looks them up."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.data.keyed import keyed_rng
from repro.sources.packages import WORDNET, PackageError, obtain
from repro.sources.wordnet import DATABASE, PARTS, members, read_wordnet, spell
from repro.train.views import text
from repro.train.views.synonyms import Synonyms
from repro.train.views.text import STOP_WORDS, eda

SYNONYMS = {
    "dog": ["canis familiaris", "domestic dog"],
    "quick": ["fast", "speedy"],
    "jump": ["leap", "spring"],
    "the": ["not used"],
    "fox": [],
}
CAPTION = "The quick fox can jump over a dog, and the DOG's cat will not jump at all: so quick is the fox 123"
CLEANED = (
    "the quick fox can jump over a dog and the dogs cat will not jump at all so quick is the fox"
)
WORDS = CLEANED.split()


def test_words_are_lower_case_letters_apostrophes_joined_and_all_else_a_space():
    """A single word has no operation to undergo without synonyms, so that it comes back cleaned."""
    assert eda("It's", keyed_rng(0), {}) == "its"
    assert text._words(CAPTION) == WORDS
    assert text._words("Wi-Fi\tcafé’s\nÅB") == ["wi", "fi", "caf", "s", "b"]


def test_the_four_operations_are_chosen_equally_often(monkeypatch):
    """1,000 draws: 250 each, standard deviation 13.7."""
    chosen = Counter()
    for name in ("_replace_by_synonyms", "_insert_synonyms", "_swap", "_delete"):

        def counted(words, *_, name=name):
            chosen[name] += 1
            return words

        monkeypatch.setattr(text, name, counted)
    for key in range(1000):
        eda(CAPTION, keyed_rng(key), SYNONYMS)
    assert len(chosen) == 4
    for count in chosen.values():
        assert abs(count - 250) < 70


def test_synonym_replacement_changes_a_tenth_of_the_words_everywhere_they_stand():
    """22 words: int(2.2) = 2 of quick, jump and dog; never a stop word, even one with synonyms."""
    for key in range(50):
        words = text._replace_by_synonyms(WORDS, 2, keyed_rng(key), SYNONYMS)
        replaced = {old: new for old, new in zip(WORDS, words, strict=True) if old != new}
        assert len(replaced) == 2
        for old, new in replaced.items():
            assert new in SYNONYMS[old]
        assert words == [replaced.get(word, word) for word in WORDS]
        assert STOP_WORDS.isdisjoint(replaced)


def test_insertion_adds_synonyms_and_keeps_the_order_of_the_others():
    every = {synonym for options in SYNONYMS.values() for synonym in options}
    with_two = 0
    for key in range(50):
        words = text._insert_synonyms(WORDS, 2, keyed_rng(key), SYNONYMS)
        added = Counter(words) - Counter(WORDS)
        assert added.keys() <= every
        assert [word for word in words if word not in added] == WORDS
        assert words[-1] == WORDS[-1]  # a place is that of a word, never the end
        if len(words) == len(WORDS) + 2:
            with_two += 1
    assert with_two >= 45  # 8 of the 22 words have synonyms: nine tries fail once in 58


def test_swap_exchanges_two_words():
    words = list("abcdefgh")
    for key in range(50):
        swapped = text._swap(words, 1, keyed_rng(key))
        changed = [old for old, new in zip(words, swapped, strict=True) if old != new]
        assert len(changed) in (0, 2)  # 0 if three draws all hit the first place: once in 512
    assert text._swap(["a"], 1, keyed_rng(0)) == ["a"]


def test_deletion_takes_each_word_with_probability_a_tenth_and_never_all():
    """20,000 words: 18,000 stay, standard deviation 42."""
    left = text._delete(["word"] * 20_000, keyed_rng(0))
    assert abs(len(left) - 18_000) < 210
    for key in range(50):
        assert text._delete(["a"], keyed_rng(key)) == ["a"]


@given(st.text(), st.integers(0, 2**32))
def test_any_caption_gives_letters_and_single_spaces_or_itself(caption, seed):
    augmented = eda(caption, keyed_rng(seed), SYNONYMS)
    assert augmented == caption or re.fullmatch("[a-z]+( [a-z]+)*", augmented)
    assert augmented == eda(caption, keyed_rng(seed), SYNONYMS)


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
        found = set()
        for synset in wordnet.synsets(word):
            found |= {spell(lemma.name()) for lemma in synset.lemmas()}
        return sorted(found - {word, ""})

    # NLTK reads from the folders of this list alone, and warns that it has one language only.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nltk.data.path", [str(folder)])
        with pytest.warns(UserWarning, match="multilingual"):
            wordnet = Reader(str(folder), None)
        yield look_up


def _package(root: Path) -> Path:
    try:
        with chdir(root):
            return root / obtain(WORDNET)
    except PackageError as error:
        pytest.skip(str(error))


FORMS = {
    "dogs": "dog",
    "children": "child",
    "geese": "goose",
    "women": "woman",
    "boxes": "box",
    "ran": "run",
    "playing": "play",
    "larger": "large",
    "best": "good",
}


def test_a_form_finds_the_synonyms_of_its_word_and_the_word_itself(synonyms: Synonyms) -> None:
    for word, base in FORMS.items():
        found = synonyms.get(word)
        assert base in found
        assert word not in found


def test_endings_are_stripped_by_hand_as_the_rules_say() -> None:
    """leaves: noun leaf and leave, verb leave; a form whose word is unknown finds nothing."""
    lemmas = {
        "noun": {"leaf": ["foliage", "leaf"], "leave": ["furlough", "leave"]},
        "verb": {"leave": ["depart", "leave"]},
    }
    exceptions = {"noun": {"lice": ["louse"]}, "verb": {}}
    small = Synonyms(lemmas, exceptions)
    assert list(small.get("leaves")) == ["depart", "foliage", "furlough", "leaf", "leave"]
    assert list(small.get("leaving")) == ["depart", "leave"]
    assert not small.get("lice")
    assert not small.get("dogs")


def test_they_equal_nltks(synonyms: Synonyms, nltk_synonyms: Callable[..., list[str]]) -> None:
    """Every irregular form, and 4,000 words with four endings each."""
    irregular = set().union(*synonyms.exceptions.values())
    lemmas = set().union(*synonyms.lemmas.values())
    some = random.Random(0).sample(sorted(lemmas), 4_000)
    endings = ("", "s", "ed", "ing", "er")
    words = irregular | {word + ending for word in some for ending in endings}

    assert len(words) > 20_000
    for word in words:
        assert list(synonyms.get(word)) == nltk_synonyms(word), word
