"""flux-tiny's two tokenizers, trained on captions: Unigram in T5's form, BPE in CLIP's.

Small vocabularies on purpose: as with FLUX's, a rare or misspelled word falls into pieces, and a
concept is often more than one token.
"""

from __future__ import annotations

import collections
import json
import math
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

METASPACE = "▁"
WORD_END = "</w>"
# T5's own ids: pad 0, end 1, unknown 2.
T5_SPECIAL = ("<pad>", "</s>", "<unk>")
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
CLIP_LENGTH = 77
# A letter that no text holds.
MARK = "\ue000"
MARK_EVERY = 10
# A short word at least this frequent is a piece of its own.
COMMON = 1e-4


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of the two vocabularies."""

    t5_pieces: int
    t5_sentinels: int
    t5_longest_piece: int
    t5_length: int
    clip_merges: int


def train_t5_tokenizer(captions: Iterable[str], config: TokenizerConfig) -> T5Tokenizer:
    """A Unigram tokenizer of about `t5_pieces` pieces plus sentinels for span corruption.

    Args:
      captions: text as users write it; case is kept, as in T5.
      config: `t5_pieces` counts the three special tokens; a few common words are added.
    Returns:
      T5Tokenizer with pad id 0, end id 1, unknown id 2; the sentinels come last.
    """
    captions = list(captions)
    model = Tokenizer(models.Unigram())
    # What T5Tokenizer rebuilds on loading; besides, no piece joins letters and punctuation.
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=METASPACE, prepend_scheme="always", split=True),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=config.t5_pieces,
        special_tokens=list(T5_SPECIAL),
        unk_token=T5_SPECIAL[2],
        initial_alphabet=list(METASPACE + string.ascii_letters + string.digits + ".,-'!?:;()\"&"),
        max_piece_length=config.t5_longest_piece,
        show_progress=False,
    )
    model.train_from_iterator(_marked(captions), trainer)
    trained = json.loads(model.to_str())["model"]["vocab"]
    pieces = {piece: score for piece, score in trained if MARK not in piece}
    # The trainer loses some of the shortest words ("a", "on") to their letters.
    pieces |= {
        piece: score
        for piece, score in _common_words(captions).items()
        if piece not in pieces and len(piece) <= config.t5_longest_piece
    }
    return T5Tokenizer(
        vocab=list(pieces.items()),
        extra_ids=config.t5_sentinels,
        model_max_length=config.t5_length,
    )


def _marked(captions: Iterable[str]) -> Iterator[str]:
    # The trainer only considers pieces that occur in two different words. A mark after a word
    # makes that second word; without it no whole word would ever become a piece.
    for number, caption in enumerate(captions):
        yield caption
        if number % MARK_EVERY == 0:
            yield " ".join(word.rstrip(",") + MARK for word in caption.split())


def _common_words(captions: Iterable[str]) -> dict[str, float]:
    """Log share of each common word that is all letters, as a piece."""
    counts = collections.Counter(word for caption in captions for word in caption.split())
    total = sum(counts.values())
    return {
        METASPACE + word: math.log(count / total)
        for word, count in sorted(counts.items())
        if word.isalpha() and word.isascii() and count >= COMMON * total
    }


def train_clip_tokenizer(captions: Iterable[str], config: TokenizerConfig) -> CLIPTokenizer:
    """A byte-level BPE tokenizer of `clip_merges` merges; the end token has the highest id.

    Args:
      captions: text; CLIP lower-cases it.
      config: `clip_merges` is an upper bound, reached unless the text runs out of pairs.
    Returns:
      CLIPTokenizer: 256 bytes, 256 word-final bytes, merges, start, end.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    template = CLIPTokenizer().backend_tokenizer
    model = Tokenizer(models.BPE(end_of_word_suffix=WORD_END, continuing_subword_prefix=""))
    model.normalizer = template.normalizer
    model.pre_tokenizer = template.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(letters) + config.clip_merges,
        initial_alphabet=letters,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    model.train_from_iterator(captions, trainer)
    merges: Any = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    merges = merges[: config.clip_merges]
    # Every byte gets both forms, seen in training or not: no text is unknown, as with CLIP's own.
    pieces = letters + [letter + WORD_END for letter in letters] + ["".join(m) for m in merges]
    pieces = [*dict.fromkeys(pieces), CLIP_START, CLIP_END]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=merges,
        model_max_length=CLIP_LENGTH,
    )


def save_tokenizers(t5: T5Tokenizer, clip: CLIPTokenizer, folder: str | Path) -> None:
    """Writes `tokenizer` (CLIP) and `tokenizer_2` (T5) as a diffusers folder has them."""
    folder = Path(folder)
    t5.save_pretrained(folder / "tokenizer_2")
    clip.save_pretrained(folder / "tokenizer")
    # Older readers of CLIP's format want these two and ignore tokenizer.json.
    model = json.loads((folder / "tokenizer" / "tokenizer.json").read_text("utf-8"))["model"]
    vocabulary = json.dumps(clip.get_vocab(), ensure_ascii=False)
    (folder / "tokenizer" / "vocab.json").write_text(vocabulary, "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


def run(
    captions: Iterable[str], config: TokenizerConfig, folder: str | Path
) -> tuple[T5Tokenizer, CLIPTokenizer]:
    """Trains both on the captions, writes them into the pipeline folder, and reads them back."""
    captions = list(captions)
    t5 = train_t5_tokenizer(captions, config)
    clip = train_clip_tokenizer(captions, config)
    save_tokenizers(t5, clip, folder)
    return load_tokenizers(folder)


def load_tokenizers(folder: str | Path) -> tuple[T5Tokenizer, CLIPTokenizer]:
    """The pair that `save_tokenizers` wrote, T5's first."""
    folder = Path(folder)
    t5 = T5Tokenizer.from_pretrained(folder / "tokenizer_2")
    clip = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return t5, clip
