"""Where a phrase stands in a prompt: in characters, then in T5's tokens.

Positions are found anew in every text, from the tokenizer's character offsets: a concept is often
several tokens, moves when the sentence is shuffled, and may occur more than once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from ea_jax.flux.tokens import Tokens, tokenize

WIDTH = 8
Spans = list[tuple[int, int]]


def occurrences(text: str, phrase: str) -> Spans:
    """Start and end, in characters, of every place where `text` has `phrase` as whole words.

    Case, width and composition of letters don't matter (STRASSE is Straße), nor does how much
    space lies between two words.

    Raises:
      ValueError: an empty phrase.
    """
    words = _fold(phrase)[0].split()
    if not words:
        raise ValueError(f"concept {phrase!r} is empty; set concept.word to one or more words")
    folded, origin = _fold(text)
    pattern = r"\s+".join(re.escape(word) for word in words)
    found = re.finditer(rf"(?<!\w){pattern}(?!\w)", folded)
    return [(origin[m.start()][0], origin[m.end() - 1][1]) for m in found]


def require(text: str, phrase: str) -> Spans:
    """`occurrences`, at least one.

    Raises:
      ValueError: an empty phrase, or one that isn't in the text.
    """
    spans = occurrences(text, phrase)
    if not spans:
        raise ValueError(
            f"concept {phrase!r} is not in prompt {text!r}; add it, or set concept.word"
        )
    return spans


def columns(
    tokens: Tokens,
    prompts: Sequence[str],
    phrases: Sequence[Sequence[str]],
    *,
    width: int = WIDTH,
) -> tuple[np.ndarray, np.ndarray]:
    """Token positions of phrases in prompts, padded to one width so that no shape ever changes.

    Args:
      tokens: of `prompts`, from T5's fast tokenizer.
      prompts: texts.
      phrases: per prompt the phrases whose tokens are wanted; none gives an empty row.
      width: positions per prompt.
    Returns:
      int32 [B, N] positions in ascending order, 0 at padding; bool [B, N], True at real ones.
    Raises:
      ValueError: a phrase that is empty, not in its prompt, cut off with the prompt's end, or of
        more tokens than `width`.
    """
    idx_BN = np.zeros((len(prompts), width), np.int32)
    mask_BN = np.zeros((len(prompts), width), bool)
    max_length = tokens.ids_BT.shape[1]
    for row, (prompt, wanted) in enumerate(zip(prompts, phrases, strict=True)):
        offsets = tokens.offsets[row]
        kept = max((end for _, end in offsets), default=0)
        positions: set[int] = set()
        for phrase in wanted:
            for start, end in require(prompt, phrase):
                here = {i for i, (a, b) in enumerate(offsets) if a < end and b > start}
                if not here or (tokens.truncated[row] and end > kept):
                    raise ValueError(
                        f"concept {phrase!r} is cut off in a prompt longer than {max_length} "
                        f"tokens: {prompt!r}; shorten it, or raise model.text_length"
                    )
                positions |= here
        if len(positions) > width:
            raise ValueError(
                f"concept {list(wanted)} takes {len(positions)} tokens in prompt {prompt!r}, more "
                f"than the {width} that are kept; raise concept.max_tokens"
            )
        idx_BN[row, : len(positions)] = sorted(positions)
        mask_BN[row, : len(positions)] = True
    return idx_BN, mask_BN


def locate(
    tokenizer: Any, prompt: str, phrase: str, *, max_length: int, width: int = WIDTH
) -> tuple[np.ndarray, np.ndarray]:
    """`columns` of one phrase in one prompt: positions [N] and mask [N]."""
    tokens = tokenize(tokenizer, [prompt], max_length)
    idx_BN, mask_BN = columns(tokens, [prompt], [[phrase]], width=width)
    return idx_BN[0], mask_BN[0]


def _fold(text: str) -> tuple[str, Spans]:
    """Text as it is compared, and which characters of `text` each of its characters stands for."""
    folded, origin, start = [], [], 0
    while start < len(text):
        end = start + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        letters = unicodedata.normalize("NFKC", text[start:end]).casefold()
        letters = unicodedata.normalize("NFKC", letters)
        folded.append(letters)
        origin += [(start, end)] * len(letters)
        start = end
    return "".join(folded), origin
