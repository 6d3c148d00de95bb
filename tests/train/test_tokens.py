"""Token numbers equal to open_clip's on more than 100,000 strings; truncation, trimming."""

import itertools
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from open_clip.tokenizer import SimpleTokenizer

from repro.data.keyed import keyed_rng
from repro.train.views.tokens import CONTEXT_LENGTH, END, START, tokenize, trim

OPEN_CLIP = SimpleTokenizer()
ICON_NAMES = Path("specs/classnames/icons.txt").read_text(encoding="utf-8").splitlines()

HOSTILE = {
    "spaces": " \t\n\r\v\f\u00a0\u2003\u3000",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\x9f",
    "10,000 letters": "a" * 10_000,
    "entities": "&lt;b&gt; &amp;amp;lt; &#769;e&#769; &nbsp;x &unknown; &#0; &#xD800; &#x1F34C; &#10;",
    "mojibake": "cafÃ© â€œquotedâ€\x9d donâ€™t ðŸ\x8dŒ",
    "typography": "“curly” ‘quotes’ — … ﬁne ＦＵＬＬ ｗｉｄｔｈ ½ № ™",
    "case without a pair": "İstanbul ſtraße ΣΊΣΥΦΟΣ K Ω ǅ",
    "lone surrogates": "a\ud800b \udfff",
    "special tokens": "<start_of_text> x<end_of_text>! !<end_of_text> <END_OF_TEXT> <ſtart_of_text> <|endoftext|>",
    "word ends": "a</w> </w>",
    "contractions": "it's I'LL don't we'd 'Sam's 'ſ ''s 's't",
    "combining pile": "z" + "\u0300" * 200,
}


PLANES = [
    (0.50, 0x20, 0x7F),
    (0.05, 0, 0x20),
    (0.15, 0x80, 0x800),
    (0.15, 0x800, 0xD800),
    (0.05, 0xE000, 0x10000),
    (0.08, 0x10000, 0x30000),
    (0.02, 0xE0000, 0xE0200),
]
"""Shares of ranges of characters."""


def random_unicode(count, rng):
    """Strings of 1 to 20 characters from all of Unicode, half of them ASCII."""
    shares = [share for share, _, _ in PLANES]
    strings = []
    for _ in range(count):
        length = rng.integers(1, 21)
        kinds = rng.choice(len(PLANES), size=length, p=shares)
        characters = []
        for kind in kinds:
            _, first, end = PLANES[kind]
            characters.append(chr(rng.integers(first, end)))
        strings.append("".join(characters))
    return strings


def corpus():
    """Class names in templates, characters beside their Unicode names, random Unicode."""
    for fill in OPENAI_IMAGENET_TEMPLATES[::2]:
        yield from map(fill, IMAGENET_CLASSNAMES)
    for fill in OPENAI_IMAGENET_TEMPLATES[::8]:
        yield from map(fill, ICON_NAMES)
    for character in map(chr, range(sys.maxunicode + 1)):
        name = unicodedata.name(character, "")
        if name and not name.startswith("CJK UNIFIED"):
            yield f"{character} {name}{character}"
    yield from random_unicode(25_000, keyed_rng("unicode"))


def ours(strings):
    """Our numbers, as PyTorch's default integers."""
    return tokenize(strings, "keep_eot").long()


def test_more_than_100_000_strings_give_open_clips_numbers():
    strings = list(dict.fromkeys(corpus()))
    assert len(strings) > 100_000
    differs = ours(strings) != OPEN_CLIP(strings)
    rows = differs.any(dim=1).nonzero().flatten()
    different = [strings[row] for row in rows]
    assert different == []


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_gives_open_clips_numbers(name):
    strings = [HOSTILE[name]]
    assert torch.equal(ours(strings), OPEN_CLIP(strings))


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=60))
def test_any_text_gives_open_clips_numbers(caption):
    assert torch.equal(ours([caption]), OPEN_CLIP([caption]))


def test_a_row_is_start_text_end_and_zeros():
    """Numbers of OpenAI's vocabulary: "a" 320, "banana" 8922."""
    tokens = tokenize(["a banana", ""], "keep_eot")
    assert tokens.dtype == torch.int32
    banana, empty = tokens.tolist()
    assert banana == [START, 320, 8922, END] + [0] * 73
    assert empty == [START, END] + [0] * 75


@pytest.mark.parametrize(
    ("words", "kept", "cut"),
    [
        (74, END, END),
        (75, END, END),
        (76, END, 320),
        (200, END, 320),
    ],
)
def test_truncation_is_the_only_choice_and_matters_from_76_tokens_on(words, kept, cut):
    """Place 76 of a longer caption is the end token, or its 76th word."""
    last = min(words + 1, CONTEXT_LENGTH - 1)
    caption = "a " * words
    (with_end,) = tokenize([caption], "keep_eot")
    (without,) = tokenize([caption], "cut")
    assert with_end[last] == kept
    assert without[last] == cut
    assert torch.equal(with_end[:last], without[:last])


def test_trimming_removes_the_padding_that_all_rows_share():
    short, longer = trim(tokenize(["a", "a a a"], "keep_eot")).tolist()
    assert short == [START, 320, END, 0, 0]
    assert longer == [START, 320, 320, 320, END]
    whole = trim(tokenize(["a " * 200], "keep_eot"))
    assert whole.shape == (1, CONTEXT_LENGTH)


def test_trimming_keeps_the_token_with_number_zero_inside_a_caption():
    """Token 0 is "!" inside a word that goes on; behind it comes at least the end token."""
    tokens = tokenize(["!\u0300"], "keep_eot")
    assert tokens[0, 1] == 0
    assert trim(tokens)[0, -1] == END


def test_cleaning_shortcut_for_plain_ascii_changes_nothing():
    """Every printable ASCII character next to every other, but for the ampersand of entities."""
    printable = [chr(code) for code in range(32, 127) if chr(code) != "&"]
    pairs = itertools.product(printable, repeat=2)
    strings = [f"x{first}{second}Y {first}" for first, second in pairs]
    assert torch.equal(ours(strings), OPEN_CLIP(strings))
