"""Synonyms of words in any form: as NLTK looks them up, which the authors' augmentation asks."""

from __future__ import annotations

import io
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from scipy.stats import chi2_contingency

from repro.data.keyed import keyed_rng
from repro.sources.packages import NPM_DIR, WORDNET, PackageError, Tarball, obtain
from repro.sources.wordnet import DATABASE, PARTS, read_wordnet, spell
from repro.train.views.synonyms import Synonyms
from repro.train.views.text import STOP_WORDS, eda

DRAWS = 20_000

# In the manner of captions found on the web: plurals, participles, past tense, comparatives.
WEB = """
two dogs playing with their toys on the grass
children watching boats in the harbour at sunset
cars parked along the streets of the old town
the players celebrated after scoring in the final minutes
a woman holding flowers and smiling at photographers
mountains covered with snow and clouds seen from the valley
actor arrives at the premiere wearing a black suit
close up of hands preparing vegetables in a kitchen
fans cheering during the concert in the crowded stadium
the best beaches for families with small kids
stacks of books lying on wooden shelves
politicians discussing the new laws in parliament
geese flying over frozen lakes in early winter
a cyclist riding past fields of yellow flowers
men and women dancing at the wedding party
leaves falling from trees in the autumn park
an aerial view of bridges crossing the river
police officers standing near damaged vehicles
chefs cooking larger meals for hungry guests
singers performing live on the main stage
how to make easy chocolate cookies with nuts
vintage illustration of ladies wearing fancy hats
silhouettes of people walking on the beach
wolves running through deep snow
the bigger house has newer windows and doors
tourists taking pictures of ancient ruins
a student writes notes while listening to music
football teams shaking hands before the match
birds built nests under the roofs of houses
babies sleeping in their cribs with teddy bears
"""
CAPTIONS = [line for line in WEB.splitlines() if line]


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
    package = _package(root)
    with tarfile.open(fileobj=io.BytesIO(package.read(DATABASE)), mode="r:gz") as archive:
        for part in PARTS:
            for kind in ("data", "index"):
                content = archive.extractfile(f"dict/{kind}.{part}")
                assert content is not None
                (folder / f"{kind}.{part}").write_bytes(content.read())
            (folder / f"{part}.exc").write_bytes(package.read(f"data/{part}.exc"))

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


def _package(root: Path):
    try:
        return Tarball(obtain(WORDNET, root / NPM_DIR))
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
    found = synonyms[word]
    assert base in found and word not in found


def test_endings_are_stripped_by_hand_as_the_rules_say() -> None:
    """leaves: noun leaf and leave, verb leave; a form whose word is unknown finds nothing."""
    lemmas = {
        "noun": {"leaf": ["foliage", "leaf"], "leave": ["furlough", "leave"]},
        "verb": {"leave": ["depart", "leave"]},
    }
    small = Synonyms(lemmas, {"noun": {"lice": ["louse"]}, "verb": {}})
    assert list(small["leaves"]) == ["depart", "foliage", "furlough", "leaf", "leave"]
    assert list(small["leaving"]) == ["depart", "leave"]
    assert small.get("lice") is None and "lice" not in small and small.get("dogs") is None


@pytest.mark.slow
def test_synonyms_are_those_of_nltk(
    synonyms: Synonyms, nltk_synonyms: Callable[..., list[str]]
) -> None:
    """Every word of the captions, every irregular form, and 4,000 words with four endings each."""
    words = {word for caption in CAPTIONS for word in caption.split()}
    words |= set().union(*synonyms.exceptions.values())
    some = random.Random(0).sample(sorted(synonyms), 4_000)
    words |= {word + ending for word in some for ending in ("", "s", "ed", "ing", "er")}

    assert len(words) > 20_000
    different = [word for word in words if list(synonyms.get(word, [])) != nltk_synonyms(word)]
    assert not different


def effect(before: list[str], after: list[str]) -> str:
    """What a reader sees that was done to the words of a caption."""
    if before == after:
        return "unchanged"
    if sorted(before) == sorted(after):
        return "swapped"
    if len(after) < len(before) and is_within(after, before):
        return "deleted"
    if len(after) > len(before) and is_within(before, after):
        return "inserted"
    return "replaced"


def is_within(few: Iterable[str], many: Iterable[str]) -> bool:
    """Whether `few` are `many` with words left out."""
    rest = iter(many)
    return all(word in rest for word in few)


def plain_eda(words: list[str], look_up: Callable[..., list[str]], rng: random.Random) -> list[str]:
    """EDA as its paper tells it (Wei and Zou 2019, Sec. 2), with a counter of ten in insertions."""
    words, count = list(words), max(1, len(words) // 10)
    operation = rng.choice(["replace", "insert", "swap", "delete"])
    if operation == "replace":
        others = sorted(set(words) - STOP_WORDS)
        rng.shuffle(others)
        for word in [other for other in others if look_up(other)][:count]:
            synonym = rng.choice(look_up(word))
            words = [synonym if one == word else one for one in words]
    elif operation == "insert":
        for _ in range(count):
            for _ in range(9):
                found = look_up(rng.choice(words))
                if found:
                    words.insert(rng.randrange(len(words)), found[0])
                    break
    elif operation == "swap":
        for _ in range(count):
            one, other = rng.randrange(len(words)), rng.randrange(len(words))
            for _ in range(2):
                if one == other:
                    other = rng.randrange(len(words))
            words[one], words[other] = words[other], words[one]
    else:
        words = [word for word in words if rng.random() > 0.1] or [rng.choice(words)]
    return " ".join(words).split()


@pytest.mark.slow
def test_captions_of_the_web_are_changed_as_often_in_each_way_as_the_authors_change_them(
    synonyms: Synonyms, nltk_synonyms: Callable[..., list[str]]
) -> None:
    """20,000 draws each; a look-up of bare lemmas, which misses plurals, is told apart."""
    known: dict[str, list[str]] = {}

    def look_up(word: str) -> list[str]:
        if word not in known:
            known[word] = nltk_synonyms(word)
        return known[word]

    bare: dict[str, list[str]] = {}
    for known_words in synonyms.lemmas.values():
        for word, others in known_words.items():
            bare[word] = sorted({*bare.get(word, ()), *others} - {word})
    rng = random.Random(0)
    theirs, ours, without = Counter(), Counter(), Counter()
    for draw in range(DRAWS):
        words = CAPTIONS[draw % len(CAPTIONS)].split()
        theirs[effect(words, plain_eda(words, look_up, rng))] += 1
        for counts, table in ((ours, synonyms), (without, bare)):
            after = eda(" ".join(words), keyed_rng("mix", draw), table).split()
            counts[effect(words, after)] += 1

    kinds = sorted(theirs)
    table = [[counts[kind] for kind in kinds] for counts in (theirs, ours, without)]
    equal = chi2_contingency(table[:2]).pvalue
    told_apart = chi2_contingency([table[0], table[2]]).pvalue
    print(kinds, table, equal, told_apart)
    assert len(kinds) == 5
    assert equal > 0.05
    assert told_apart < 0.01
