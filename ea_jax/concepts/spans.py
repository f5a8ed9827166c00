"""Where a phrase stands in a prompt: in characters, then in T5's tokens.

Positions are found anew in every text, from the tokenizer's character offsets: a concept is often
several tokens, moves when the sentence is shuffled, and may occur more than once.
"""

from __future__ import annotations

import functools
import logging
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import regex

from ea_jax.flux.tokens import Tokens, tokenize

WIDTH = 8
Spans = list[tuple[int, int]]
_log = logging.getLogger(__name__)

# Scripts whose words have no space between them: Chinese, Japanese; Thai, Lao, Khmer, Burmese.
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Bopomofo}\p{Hiragana}\p{Katakana}\u30fc\p{Line_Break=Complex_Context}]"
)
_WORD_BORDER = regex.compile(r"\b", regex.WORD)
_CLUSTER = regex.compile(r"\X")
# Soft hyphens, zero-width spaces, variation selectors. An emoji keeps what joins it to the next
# (U+200D) and what makes it a region's flag: those are other emoji.
_IGNORED = regex.compile(r"\p{Default_Ignorable_Code_Point}")
_IGNORED_IN_EMOJI = regex.compile(r"[\ufe0e\ufe0f]")
_EMOJI = regex.compile(r"\p{Extended_Pictographic}")


def occurrences(text: str, phrase: str) -> Spans:
    """Start and end, in characters, of every place where `text` has `phrase` as whole words.

    Case, width and composition of letters don't matter (STRASSE is Straße), nor do characters that
    nobody sees (soft hyphens), nor how much space lies between two words. Chinese, Japanese, Thai
    and the like have words without spaces: their borders are Unicode's (UAX 29), which knows no
    dictionary, so 猫 is in 熊猫. A part of an emoji is not the emoji.

    Raises:
      ValueError: an empty phrase.
    """
    words = fold(phrase)[0].split()
    if not words:
        raise ValueError(f"concept {phrase!r} is empty; set concept.word to one or more words")
    folded, origin = fold(text)
    if not all(word in folded for word in words):
        return []
    pattern = re.compile(r"\s+".join(re.escape(word) for word in words))
    found, at = [], 0
    while match := pattern.search(folded, at):
        start, end = match.span()
        at = start + 1
        if _is_border(folded, origin, start, outside=start - 1) and _is_border(
            folded, origin, end, outside=end
        ):
            found.append((origin[start][0], origin[end - 1][1]))
            at = end
    return found


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


def standing(
    tokenizer: Any, prompts: Sequence[str], phrases: Sequence[str], *, max_length: int
) -> np.ndarray:
    """Where phrases stand in prompts that need not hold them, bool [B, T].

    Args:
      tokenizer: T5's fast tokenizer.
      prompts: texts; what is cut off of them stands nowhere.
      phrases: words, found as `occurrences` finds them.
      max_length: T.
    """
    tokens = tokenize(tokenizer, list(prompts), max_length)
    found_BT = np.zeros(tokens.ids_BT.shape, bool)
    for row, prompt in enumerate(prompts):
        for start, end in (span for phrase in phrases for span in occurrences(prompt, phrase)):
            for place, (a, b) in enumerate(tokens.offsets[row]):
                found_BT[row, place] |= a < end and b > start
    return found_BT


def require_known(tokenizer: Any, phrase: str) -> None:
    """A phrase has tokens of its own; a part of it that has none is logged.

    Args:
      tokenizer: T5's fast tokenizer.
      phrase: a concept, or a word in its place.
    Raises:
      ValueError: every token is `<unk>`, which all words have that T5 doesn't know.
    """
    made = tokenizer(phrase, add_special_tokens=False, return_offsets_mapping=True)
    nothing = tokenizer.unk_token_id
    # The mark of a word's start says nothing about which word it is.
    start = tokenizer.convert_tokens_to_ids("▁")
    if {*made["input_ids"]} <= {start, nothing}:
        raise ValueError(
            f"T5 has no token for {phrase!r}: it reads <unk>, as for every word that it doesn't "
            "know, so all of them would be erased; use a word or description that T5 knows"
        )
    pairs = zip(made["input_ids"], made["offset_mapping"], strict=True)
    unknown = [phrase[slice(*where)] for token, where in pairs if token == nothing]
    if unknown:
        _log.warning(
            "T5 has no token for %s in %r and reads <unk> there",
            ", ".join(map(repr, unknown)),
            phrase,
        )


def fits(tokenizer: Any, phrase: str, *, width: int) -> bool:
    """Whether T5 knows every letter of a phrase and makes at most `width` tokens of it."""
    ids = tokenizer(phrase, add_special_tokens=False)["input_ids"]
    return tokenizer.unk_token_id not in ids and len(ids) <= width


@functools.lru_cache(maxsize=4096)
def fold(text: str) -> tuple[str, Sequence[tuple[int, int]]]:
    """Text as it is compared, and which characters of `text` each of its characters stands for."""
    if text.isascii():
        return text.lower(), tuple((at, at + 1) for at in range(len(text)))
    folded, origin = [], []
    for cluster in _CLUSTER.finditer(text):
        letters = unicodedata.normalize("NFKC", cluster[0]).casefold()
        letters = unicodedata.normalize("NFKC", letters)
        ignored = _IGNORED_IN_EMOJI if _EMOJI.match(letters) else _IGNORED
        letters = ignored.sub("", letters)
        folded.append(letters)
        origin += [cluster.span()] * len(letters)
    return "".join(folded), tuple(origin)


def _is_border(folded: str, origin: Sequence[tuple[int, int]], at: int, *, outside: int) -> bool:
    """Whether a phrase may start or end at `at`; `outside` is the character beyond it."""
    if not 0 <= outside < len(folded):
        return True
    if origin[at - 1] == origin[at]:
        return False
    letter = folded[outside]
    if not (letter.isalnum() or letter == "_" or unicodedata.category(letter)[0] == "M"):
        return True
    unspaced = _UNSPACED.search(folded, at - 1, at + 1)
    return bool(unspaced and _WORD_BORDER.match(folded, at))
