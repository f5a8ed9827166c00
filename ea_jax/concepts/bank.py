"""Prompt bank: every prompt of a run encoded once, kept on the host, drawn from at each step.

T5-XXL has 4.7 billion parameters; with the bank no text encoder is needed in the training loop.
All rows have one shape, so no prompt causes a recompilation. What a step draws is a function of
the seed and the step, so a resumed run draws the same.

    bank = build(concepts, recipe, encode=..., tokenizer=pipe.t5_tokenizer, max_length=32, ...)
    row = draw(bank.rows(concept=0), seed, step)
    bank.text("target", [row]), bank.columns("target", [row]), bank.text("anchor", [row])
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ea_jax.concepts import encoding, rows, spans
from ea_jax.concepts.prompts import Prompts, make
from ea_jax.flux.columns import Columns
from ea_jax.flux.tokens import tokenize
from ea_jax.flux.transformer import Text
from ea_jax.runtime.streams import stream

# Names that are erased in earnest: paths follow them, and pictures are made of them.
_ERASED = (rows.WORD, rows.SYNONYM)
_CONCEPT = 11  # first key of the streams that draw a concept


@dataclasses.dataclass(frozen=True)
class Group:
    """Prompts of one purpose, as numbers into the bank's distinct prompts, and their columns.

    Attributes:
      prompt_G: int32 numbers of prompts; [G, W] in the group `others`.
      idx_GN: int32 token positions of the concept (or of the word in its place), 0 at padding.
      mask_GN: True at real positions.
    """

    prompt_G: np.ndarray
    idx_GN: np.ndarray
    mask_GN: np.ndarray


@dataclasses.dataclass(frozen=True)
class PromptBank:
    """Encoded prompts and what they are for.

    Attributes:
      prompts: the distinct texts.
      t5_UTD, pooled_UD: bfloat16, one row for each of them.
      text_mask_UT: True at tokens of the text, False at its end and at padding.
      groups: `target`, `anchor`: [rows], a row's sentence with the concept and without it;
        `others`: [G, W], a row's synonym first, then its irrelevant words;
        `plain`: the unshuffled sentences, `plain_G` says whose; `preserve`: prompts without the
        concept, those about what is nearest to it last; `empty`: the empty prompt.
      concept_G, sentence_G: concept of each row, and which of its sentences.
      name_G: what its target names the concept by: `word`, `synonym` or `slip`.
      contrast_G: for each row its place in `others`, -1 where its concept has no synonym.
      plain_G, plain_name_G: concept of each sentence in `plain`, and what names it there.
      near: how many prompts of `preserve` are about what is nearest.
      words: all words besides the concepts that rows were made with.
    """

    prompts: tuple[str, ...]
    t5_UTD: np.ndarray
    pooled_UD: np.ndarray
    text_mask_UT: np.ndarray
    groups: Mapping[str, Group]
    concept_G: np.ndarray
    name_G: np.ndarray
    sentence_G: np.ndarray
    contrast_G: np.ndarray
    plain_G: np.ndarray
    plain_name_G: np.ndarray
    near: int
    words: tuple[str, ...]

    def rows(
        self,
        *,
        concept: int | None = None,
        sentence: int | None = None,
        names: Sequence[str] = _ERASED,
    ) -> np.ndarray:
        """Numbers of the rows with names of these kinds, of one concept, of one sentence."""
        chosen = _is(self.concept_G, concept) & _is(self.sentence_G, sentence)
        return np.flatnonzero(chosen & np.isin(self.name_G, list(names)))

    def drawn(self, seed: int, *purpose: int) -> int:
        """A row drawn for a purpose, of the concepts one as likely as another; see `draw`."""
        if self.concepts == 1:
            return draw(self.rows(), seed, *purpose)
        concept = draw(np.arange(self.concepts), seed, _CONCEPT, *purpose)
        return draw(self.rows(concept=concept), seed, *purpose)

    def contrast_rows(self, *, concept: int | None = None) -> np.ndarray:
        """Numbers of the rows that have a synonym and irrelevant words; maybe none."""
        return np.flatnonzero(_is(self.concept_G, concept) & (self.contrast_G >= 0))

    @property
    def digest(self) -> str:
        """Hash of all texts, in their order: the same on every machine, as encodings are not."""
        return hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()[:16]

    @property
    def concepts(self) -> int:
        """How many there are."""
        return int(self.concept_G.max()) + 1

    @property
    def without(self) -> np.ndarray:
        """Numbers of the prompts without any concept: anchors, and prompts to preserve."""
        return np.union1d(self.groups["anchor"].prompt_G, self.groups["preserve"].prompt_G)

    def plain(self, *, concept: int | None = None, names: Sequence[str] = _ERASED) -> np.ndarray:
        """Numbers of the unshuffled sentences with names of these kinds, or of one concept's."""
        named = np.isin(self.plain_name_G, list(names))
        return np.flatnonzero(_is(self.plain_G, concept) & named)

    def text(self, group: str, numbers: Sequence[int] | np.ndarray) -> Text:
        """Encoded prompts [B, ...] of a group, in host memory.

        For `others` [B W, ...]: a row's synonym, its irrelevant words, the next row.
        """
        prompt_B = self.groups[group].prompt_G[self._places(group, numbers)].reshape(-1)
        t5_BTD: Any = self.t5_UTD[prompt_B]
        pooled_BD: Any = self.pooled_UD[prompt_B]
        return Text(t5_BTD=t5_BTD, pooled_BD=pooled_BD)

    def columns(self, group: str, numbers: Sequence[int] | np.ndarray) -> Columns:
        """Token positions of the same prompts as `text`."""
        chosen, places = self.groups[group], self._places(group, numbers)
        width = chosen.idx_GN.shape[-1]
        idx_BN: Any = chosen.idx_GN[places].reshape(-1, width)
        mask_BN: Any = chosen.mask_GN[places].reshape(-1, width)
        return Columns(idx_BN=idx_BN, mask_BN=mask_BN)

    def outputs(self, group: str, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """T5's outputs at the columns of the same prompts as `text`, [N, D] float32."""
        text, columns = self.text(group, numbers), self.columns(group, numbers)
        rows, places = np.nonzero(columns.mask_BN)
        t5_BTD = np.asarray(text.t5_BTD)
        return t5_BTD[rows, columns.idx_BN[rows, places]].astype(np.float32)

    def texts(self, group: str) -> list[str]:
        """The prompts of a group, in order."""
        return [self.prompts[number] for number in self.groups[group].prompt_G.reshape(-1)]

    def _places(self, group: str, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        rows_B = np.asarray(numbers, np.int64)
        if group != "others":
            return rows_B
        places = self.contrast_G[rows_B]
        if (places < 0).any():
            raise ValueError(
                f"row {rows_B[places < 0][0]} has no synonym; draw from contrast_rows()"
            )
        return places


def encode(
    prompts: Prompts,
    *,
    encode: encoding.Encode,
    tokenizer: Any,
    max_length: int,
    encoder: str,
    width: int = spans.WIDTH,
    batch: int = 8,
    cache: str | Path | None = None,
) -> PromptBank:
    """Finds the concept in each text, and encodes every distinct one once.

    Args:
      prompts: the texts.
      encode: [batch] prompts -> (t5_BTD, pooled_BD), T = max_length. Not called when the cache
        has all prompts, so it may load the encoders when first called.
      tokenizer: T5's fast tokenizer.
      max_length: T5 tokens of a prompt, padding included.
      encoder: name or hash of the encoders' weights; a cache made by others is not used.
      width: token positions of a concept.
      batch: prompts given to `encode`, always this many.
      cache: folder; None keeps nothing on disk.
    Raises:
      ValueError: a concept that is cut off, or of more tokens than `width`; see `spans.columns`.
    """
    texts = prompts.texts
    number = {text: n for n, text in enumerate(texts)}
    tokens = tokenize(tokenizer, texts, max_length)
    locate = functools.partial(_group, tokens=tokens, prompts=texts, number=number, width=width)
    groups = {name: locate(variants) for name, variants in prompts.groups.items()}
    encoded = encoding.encode_once(
        texts, tokens.ids_BT, encode=encode, encoder=encoder, batch=batch, cache=cache
    )
    text_mask_UT = np.array([[end > start for start, end in row] for row in tokens.offsets])
    return _bank(prompts, groups, *encoded, text_mask_UT)


def blank(
    prompts: Prompts, *, max_length: int, width: int, t5_width: int, pooled_width: int
) -> PromptBank:
    """A bank of the same shapes without encoders or tokenizers: zeros that take no memory.

    Args:
      prompts, max_length, width: see `encode`.
      t5_width, pooled_width: of the encoders' outputs.
    """
    texts = prompts.texts
    number = {text: n for n, text in enumerate(texts)}

    def zeros(*shape: int, dtype: Any = jnp.bfloat16) -> np.ndarray:
        return np.broadcast_to(np.zeros((), dtype), shape)

    def group(variants: Sequence[rows.Variant]) -> Group:
        mask_GN = np.ones((len(variants), width), bool)
        prompt_G = np.array([number[v.text] for v in variants], np.int32)
        return Group(prompt_G, zeros(*mask_GN.shape, dtype=np.int32), mask_GN)

    return _bank(
        prompts,
        {name: group(variants) for name, variants in prompts.groups.items()},
        zeros(len(texts), max_length, t5_width),
        zeros(len(texts), pooled_width),
        np.arange(max_length)[None].repeat(len(texts), 0) == 0,
    )


def build(
    concepts: Sequence[rows.Concept],
    recipe: rows.Recipe,
    *,
    tokenizer: Any,
    preserve: Sequence[str] = (),
    near: Sequence[str] = (),
    **options: Any,
) -> PromptBank:
    """`prompts.make`, and `encode` with its `options`."""
    made = make(concepts, recipe, preserve=preserve, near=near, tokenizer=tokenizer)
    return encode(made, tokenizer=tokenizer, **options)


def _bank(
    prompts: Prompts,
    groups: dict[str, Group],
    t5_UTD: np.ndarray,
    pooled_UD: np.ndarray,
    text_mask_UT: np.ndarray,
) -> PromptBank:
    made = prompts.rows
    return PromptBank(
        prompts=prompts.texts,
        t5_UTD=t5_UTD,
        pooled_UD=pooled_UD,
        text_mask_UT=text_mask_UT,
        groups={**groups, "others": _by_row(groups["others"], len(prompts.contrast))},
        concept_G=np.array([row.concept for row in made], np.int32),
        name_G=np.array([row.name for row in made]),
        sentence_G=np.array([row.sentence for row in made], np.int32),
        contrast_G=_places([bool(row.others) for row in made]),
        plain_G=np.array([number for number, *_ in prompts.plain], np.int32),
        plain_name_G=np.array([kind for _, kind, _ in prompts.plain]),
        near=prompts.near,
        words=tuple(dict.fromkeys(word for row in made for word in row.words)),
    )


def draw(choices: np.ndarray, seed: int, *key: int) -> int:
    """One of `choices`, a function of seed and key alone: purpose, step, and what else tells.

    Raises:
      ValueError: nothing to choose from.
    """
    if not len(choices):
        raise ValueError("there are no rows to draw from; check concept.synonyms and the concept")
    return int(choices[stream(seed, *key).integers(len(choices))])


def _group(variants, *, tokens, prompts, number, width) -> Group:
    prompt_G = np.array([number[v.text] for v in variants], np.int32)
    idx_GN, mask_GN = spans.columns(
        dataclasses.replace(
            tokens,
            ids_BT=tokens.ids_BT[prompt_G],
            offsets=tuple(tokens.offsets[n] for n in prompt_G),
            truncated=tuple(tokens.truncated[n] for n in prompt_G),
        ),
        [prompts[n] for n in prompt_G],
        [v.phrases for v in variants],
        width=width,
    )
    return Group(prompt_G, idx_GN, mask_GN)


def _by_row(group: Group, count: int) -> Group:
    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(count, len(x) // max(count, 1), *x.shape[1:])

    return Group(split(group.prompt_G), split(group.idx_GN), split(group.mask_GN))


def _places(has: Sequence[bool]) -> np.ndarray:
    """Running number of the rows that have something, -1 for the others."""
    has_G = np.array(has, bool)
    return np.where(has_G, np.cumsum(has_G) - 1, -1).astype(np.int32)


def _is(number_G: np.ndarray, wanted: int | None) -> np.ndarray:
    return np.full(len(number_G), True) if wanted is None else number_G == wanted
