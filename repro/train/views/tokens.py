"""Captions to token numbers: the byte-pair encoder of tokenizers, with the merges that open_clip
ships.

Shapes: N captions, B captions of a batch, L at most 77 tokens. A row is start token 49406, text,
end token 49407, zeros.

The numbers are those of open_clip's own tokenizer, for any string, and so is the way to its words:
- text is cleaned first (ftfy, HTML entities twice, whitespace, lower case) and not composed again
  (`e&#769;` stays two characters);
- words are split by open_clip's expression with Python's Unicode tables;
- the special tokens are written `<start_of_text>` and `<end_of_text>` and, inside a caption, count
  only as whole words.

One difference remains and is a switch: from 76 text tokens on, open_clip puts the end token in the
last place, while the authors' tokenizer cuts it off, so that the text feature is read at whichever
kept token has the highest number.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Literal

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

CONTEXT_LENGTH = 77
START, END = 49406, 49407


@cache
def _reference() -> SimpleTokenizer:
    """open_clip's tokenizer: the source of vocabulary, merges, cleaning and splitting."""
    return SimpleTokenizer()


@cache
def _backend() -> Tokenizer:
    """The byte-pair encoder alone: it takes one split word at a time."""
    reference = _reference()
    merges = list(reference.bpe_ranks)
    model = models.BPE(vocab=reference.encoder, merges=merges, end_of_word_suffix="</w>")

    # Words come cleaned and split, by open_clip's rules.
    backend = Tokenizer(model)
    backend.add_special_tokens(["<start_of_text>", "<end_of_text>"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return backend


@lru_cache(maxsize=1 << 16)
def _encode_word(word: str) -> list[int]:
    ids: list[int] = _backend().encode([word], is_pretokenized=True, add_special_tokens=False).ids
    return ids


def _clean(caption: str) -> str:
    # Of printable ASCII without entities, ftfy and unescaping change nothing, and they take most of
    # the time.
    if caption.isascii() and caption.isprintable() and "&" not in caption:
        return " ".join(caption.lower().split())

    cleaned: str = _reference().clean_fn(caption)
    return cleaned


def tokenize(captions: Sequence[str], truncation: Literal["keep_eot", "cut"]) -> Tensor:
    """Token numbers, (N, 77) int32, of `captions`; `truncation` is `Switches.truncation` and
    matters beyond 75 tokens.

    Any string is accepted: an empty one gives start and end token only. About 60,000 captions a
    second on one core.
    """
    # Word by word, for `_encode_word` remembers the common ones.
    split = _reference().pat.findall
    tokens = np.zeros((len(captions), CONTEXT_LENGTH), dtype=np.int32)
    for row, caption in zip(tokens, captions, strict=True):
        text: list[int] = []
        for word in split(_clean(caption)):
            text += _encode_word(word)

        ids = [START, *text, END][:CONTEXT_LENGTH]
        row[: len(ids)] = ids

        # What was cut may have been the end token.
        if truncation == "keep_eot":
            row[len(ids) - 1] = END

    return torch.from_numpy(tokens)


def trim(tokens: Tensor) -> Tensor:
    """Cut the padding that all rows share: (B, 77) to (B, L), a view.

    Exact for a causal text transformer read at its end token: no later position reaches an earlier
    one.
    """
    # Padding is 0, and so is the token of `!`; but no feature is read there, for each row is read
    # at its highest number.
    length = int((tokens != 0).any(dim=0).nonzero().max()) + 1
    return tokens[:, :length]
