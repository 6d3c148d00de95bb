"""EDA: what each operation may do to a caption, how often it is chosen, and that only the generator
decides.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.data.keyed import keyed_rng
from repro.train.views import text
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


def outputs():
    """Results for 40 keys: what another process has to give too."""
    return [eda(CAPTION, keyed_rng("caption", index), SYNONYMS) for index in range(40)]


def test_words_are_lower_case_letters_apostrophes_joined_and_all_else_a_space():
    """A single word has no operation to undergo without synonyms, so that it comes back cleaned."""
    assert eda("It's", keyed_rng(0), {}) == "its"
    assert text._words(CAPTION) == WORDS
    assert text._words("Wi-Fi\tcafé’s\nÅB") == ["wi", "fi", "caf", "s", "b"]


def test_the_four_operations_are_chosen_equally_often(monkeypatch):
    """1,000 draws: 250 each, standard deviation 13.7."""
    chosen = Counter()
    for name in ("_replace_by_synonyms", "_insert_synonyms", "_swap", "_delete"):
        monkeypatch.setattr(text, name, lambda words, *_, name=name: chosen.update([name]) or words)
    for key in range(1000):
        eda(CAPTION, keyed_rng(key), SYNONYMS)
    assert len(chosen) == 4
    assert all(abs(count - 250) < 70 for count in chosen.values())


def test_synonym_replacement_changes_a_tenth_of_the_words_everywhere_they_stand():
    """22 words: int(2.2) = 2 of quick, jump and dog; never a stop word, even one with synonyms."""
    for key in range(50):
        words = text._replace_by_synonyms(WORDS, 2, keyed_rng(key), SYNONYMS)
        replaced = {old: new for old, new in zip(WORDS, words, strict=True) if old != new}
        assert len(replaced) == 2
        assert all(new in SYNONYMS[old] for old, new in replaced.items())
        assert words == [replaced.get(word, word) for word in WORDS]
        assert not STOP_WORDS & replaced.keys()


def test_insertion_adds_synonyms_and_keeps_the_order_of_the_others():
    added_counts = Counter()
    for key in range(50):
        words = text._insert_synonyms(WORDS, 2, keyed_rng(key), SYNONYMS)
        added = Counter(words) - Counter(WORDS)
        assert added.keys() <= {synonym for options in SYNONYMS.values() for synonym in options}
        assert [word for word in words if word not in added] == WORDS
        assert words[-1] == WORDS[-1]  # a place is that of a word, never the end
        added_counts[len(words) - len(WORDS)] += 1
    assert added_counts[2] >= 45  # 8 of the 22 words have synonyms: nine tries fail once in 58


def test_an_insertion_gives_up_after_nine_words_without_synonyms():
    """One word of ten has a synonym: 1 - 0.9^9 = 0.613, standard deviation 0.008; ten tries would
    give 0.651.
    """
    words = ["dog", *"abcdefghi"]
    added = [
        len(text._insert_synonyms(words, 1, keyed_rng("tries", key), SYNONYMS)) - len(words)
        for key in range(4000)
    ]
    assert abs(sum(added) / 4000 - 0.613) < 0.024


def test_swap_exchanges_two_words():
    words = list("abcdefgh")
    for key in range(50):
        changed = [
            position
            for position, word in enumerate(text._swap(words, 1, keyed_rng(key)))
            if word != words[position]
        ]
        assert len(changed) in (0, 2)  # 0 if three draws all hit the first place: once in 512
    assert text._swap(["a"], 1, keyed_rng(0)) == ["a"]


def test_deletion_takes_each_word_with_probability_a_tenth_and_never_all():
    """20,000 words: 18,000 stay, standard deviation 42."""
    assert abs(len(text._delete(["word"] * 20_000, keyed_rng(0))) - 18_000) < 210
    assert {tuple(text._delete(["a"], keyed_rng(key))) for key in range(50)} == {("a",)}


@given(st.text(), st.integers(0, 2**32))
def test_any_caption_gives_letters_and_single_spaces_or_itself(caption, seed):
    augmented = eda(caption, keyed_rng(seed), SYNONYMS)
    assert augmented == caption or re.fullmatch("[a-z]+( [a-z]+)*", augmented)
    assert augmented == eda(caption, keyed_rng(seed), SYNONYMS)


@pytest.mark.parametrize("hash_seed", ["0", "1", "12345"])
def test_results_do_not_depend_on_the_hash_seed(hash_seed):
    code = "import json; from tests.train.test_text import outputs; print(json.dumps(outputs()))"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == outputs()
    assert len(set(outputs())) > 30
