"""A broad vocabulary that a closed form keeps: the text encoders' outputs, as second moments alone.

20,000 words in a few sentences each would be tens of gigabytes of outputs at FLUX's width. They are
encoded a batch at a time, and of each batch only its share of the Gram matrices stays.

    listed = sentences(world, Vocabulary("world", captions=2), avoid=["cat", "kitty"])
    moments = streamed(listed, **encoder_of(pipeline, ...))
"""

from __future__ import annotations

import itertools
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convert.disk import FileError
from ea_jax.concepts import forms, minors
from ea_jax.concepts.array_cache import cached
from ea_jax.concepts.encoding import Encode
from ea_jax.concepts.lexicon import World
from ea_jax.flux.tokens import tokenize
from ea_jax.runtime.hosts import on_host

_log = logging.getLogger(__name__)
NONE, WORLD = "none", "world"
# Changes when the same inputs would give other moments.
_VERSION = 1
# Rows that are held before they go into the moments.
_ROWS = 1024


class Vocabulary(NamedTuple):
    """Which words are kept.

    Attributes:
      source: `none`, `world` for all words that the model's world knows, or a file with one a line.
      captions: sentences around each word, at most.
      left_out: one word in so many is left out, to see what becomes of a word that nothing keeps; 0
        leaves out none.
    """

    source: str = NONE
    captions: int = 0
    left_out: int = 0


class KeptWords(NamedTuple):
    """Second moments of words that are kept, float64; each word weighs one.

    Attributes:
      t5_DD: of T5's outputs at the tokens of a word's sentences, their ends among them.
      pooled_DD: of CLIP's pooled outputs of these.
    """

    t5_DD: np.ndarray
    pooled_DD: np.ndarray


def words_of(world: World, chosen: Vocabulary) -> list[str]:
    """All words of a vocabulary but for those that are left out on purpose; errors as `sentences`.

    Which these are depends on the word alone.
    """
    if chosen.source == NONE:
        return []
    words = world.lexicon.words() if chosen.source == WORLD else _listed(Path(chosen.source))
    return [
        word
        for word in dict.fromkeys(words)
        if not chosen.left_out or zlib.crc32(word.casefold().encode()) % chosen.left_out
    ]


def sentences(
    world: World, chosen: Vocabulary, *, avoid: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Sentences around each word of a vocabulary, by word.

    Words for minors are left out, and so is each word or sentence that holds one of `avoid`.

    Args:
      world: of the model; it makes the sentences.
      chosen: which words, and how many sentences.
      avoid: what is erased, its synonyms, and what is asked of it.
    Raises:
      FileError: no such file, or one without words.
    """
    barred, found = forms.AnyOf(avoid), {}
    for word in words_of(world, chosen):
        if barred.first(word) or minors.minor_in(word):
            continue
        kind = next(iter(world.lexicon.kinds(word)), "thing")
        made = world.phrases.around(word, kind, avoid=avoid).sentences
        clean = (text for text in made if not (barred.first(text) or minors.minor_in(text)))
        if texts := tuple(itertools.islice(clean, chosen.captions)):
            found[word] = texts
    return found


def streamed(
    listed: Mapping[str, Sequence[str]],
    *,
    encode: Encode,
    tokenizer: Any,
    max_length: int,
    encoder: str,
    batch: int,
    cache: str | Path | None,
) -> KeptWords:
    """Moments of words, of which never more than a batch and `_ROWS` outputs are held.

    Args:
      listed: each word's sentences; at least one word.
      encode, tokenizer, max_length, encoder, batch, cache: see `encoding.encode_once`.
    """
    inputs = {
        "version": _VERSION,
        "encoder": encoder,
        "length": max_length,
        "sentences": {word: list(texts) for word, texts in listed.items()},
    }

    def make() -> tuple[np.ndarray, ...]:
        return _streamed(listed, encode, tokenizer, max_length, batch)

    what = f"moments of {len(listed)} words"
    return KeptWords(
        *cached(cache, inputs, make, names=("t5_DD", "pooled_DD"), kind="kept", what=what)
    )


class Moments:
    """Second moments of weighted rows as they come, [D, D] float64.

    Args:
      width: D.
    """

    def __init__(self, width: int) -> None:
        self._total_DD = np.zeros((width, width))
        self._rows: list[np.ndarray] = []
        self._held = 0

    def add(self, x_ND: np.ndarray, weight: float) -> None:
        """Adds rows that weigh `weight` together."""
        self._rows.append(np.sqrt(weight / max(len(x_ND), 1)) * x_ND.astype(np.float64))
        self._held += len(x_ND)
        if self._held >= _ROWS:
            self._settle()

    def total(self) -> np.ndarray:
        """Of all rows so far."""
        self._settle()
        return self._total_DD

    def _settle(self) -> None:
        if self._held:
            rows_ND = np.concatenate(self._rows)
            self._total_DD += rows_ND.T @ rows_ND
        self._rows, self._held = [], 0


def _streamed(
    listed: Mapping[str, Sequence[str]],
    encode: Encode,
    tokenizer: Any,
    max_length: int,
    batch: int,
) -> tuple[np.ndarray, ...]:
    asked = [(text, 1 / len(texts)) for texts in listed.values() for text in texts]
    both: tuple[Moments, ...] = ()
    for done, part in _parts(asked, batch):
        texts = [text for text, _ in part]
        # The last batch is filled up, so that one shape is compiled.
        full = texts + texts[-1:] * (batch - len(texts))
        t5_BTD, pooled_BD = (on_host(x) for x in encode(full))
        both = both or (Moments(t5_BTD.shape[-1]), Moments(pooled_BD.shape[-1]))
        offsets = tokenize(tokenizer, texts, max_length).offsets
        for row, (_, weight) in enumerate(part):
            length = sum(end > start for start, end in offsets[row])
            both[0].add(t5_BTD[row, : length + 1], weight)
            both[1].add(pooled_BD[row, None], weight)
        if (done // batch).bit_count() == 1 or done == len(asked):
            _log.info("%d of %d sentences to keep encoded", done, len(asked))
    return tuple(one.total() for one in both)


def _parts(asked: Sequence[Any], batch: int) -> Iterator[tuple[int, Sequence[Any]]]:
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        yield start + len(part), part


def _listed(file: Path) -> list[str]:
    """Words of a file, one a line; `#` begins a comment."""
    way_out = "give embedder.vocabulary a file with one word a line, or world, or none"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{file} can't be read ({error}); {way_out}") from None
    words = [" ".join(line.partition("#")[0].split()) for line in lines]
    if not (found := [word for word in words if word]):
        raise FileError(f"{file} holds no words; {way_out}")
    return found
