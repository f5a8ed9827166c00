"""The paper's Table 1: the words nearest to a word by T5, beside synonyms from elsewhere.

    ea-jax evaluate t5-neighbours --word nude --model FLUX_FOLDER --out out/neighbours

The paper leaves open whether its T5 feature is the input embedding or the encoder's output, so both
are given. What T5 puts near a word is seldom what means the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ea_jax.arguments import Parser, number, text
from ea_jax.concepts import wordnet
from ea_jax.evaluate import worlds
from ea_jax.evaluate.outputs import versions
from ea_jax.exam import record
from ea_jax.flux import encoders, hub, tokens
from ea_jax.flux.pipeline import Pipeline
from ea_jax.runtime.hosts import on_host
from ea_jax.runtime.program import one_line_errors, start_program

TASK = "t5-neighbours"
_LENGTH = 16  # T5 tokens of a word by itself
_SPACE = "▁"  # begins a word of T5's vocabulary


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = Parser("evaluate t5-neighbours", "Words that T5 puts near a word (Table 1).")
    parser.add("--word", rule=text, often=True, required=True, help="may be given several times")
    parser.add("--model", rule=text, default=hub.EMBEDDED, help="flux-tiny, a folder, or a hub id")
    parser.add("--out", rule=text, required=True, help="folder for the results")
    parser.add("--top", rule=number(int, low=1), default=5, help="how many")
    given = parser.parse_args(arguments)
    start_program()
    with one_line_errors():
        out = record.claim(given.out, TASK, record.asked(given))
        pipeline = Pipeline(given.model)
        pipeline.load_part("text_encoder_2")
        vocabulary = words_of(pipeline.t5_tokenizer)
        found = {
            word: {
                "T5's input": nearest(word, vocabulary, _inputs(pipeline), given.top),
                "T5's output": nearest(word, vocabulary, _outputs(pipeline), given.top),
                **_others(given.model, word, given.top),
            }
            for word in given.word
        }
        shown = table(found)
        record.write(
            out,
            TASK,
            command=record.command(TASK, arguments),
            table=shown,
            protocol={"words": len(vocabulary), "versions": versions()},
            nearest={
                word: {
                    name: [list(one) if isinstance(one, tuple) else one for one in near]
                    for name, near in columns.items()
                }
                for word, columns in found.items()
            },
        )
        sys.stdout.write(shown)


def words_of(tokenizer: Any) -> list[str]:
    """Whole words of a T5 vocabulary: tokens that begin with a space, of three letters or more."""
    pieces = sorted(tokenizer.get_vocab())
    words = [piece.removeprefix(_SPACE) for piece in pieces if piece.startswith(_SPACE)]
    return list(dict.fromkeys(w.casefold() for w in words if len(w) > 2 and w.isalpha()))


def nearest(
    word: str, vocabulary: Sequence[str], vectors: Any, top: int
) -> list[tuple[str, float]]:
    """Words with the highest cosine to a word, without those that hold it.

    Args:
      word: any text.
      vocabulary: where to look.
      vectors: texts -> [N, D].
      top: how many.
    Returns:
      (word, cosine) pairs, the nearest first.
    """
    own = word.casefold()
    others = [one for one in vocabulary if own not in one and one not in own]
    vector_ND = _unit(vectors([word, *others]))
    cosine_N = vector_ND[1:] @ vector_ND[0]
    return [(others[i], round(float(cosine_N[i]), 3)) for i in np.argsort(-cosine_N)[:top]]


def table(found: dict[str, dict[str, Any]]) -> str:
    """A Markdown table: a row a word, a column a source."""
    columns = list(dict.fromkeys(name for one in found.values() for name in one))
    rows = []
    for word, sources in found.items():
        cells = [
            ", ".join(f"{one[0]} {one[1]:.2f}" if isinstance(one, tuple) else one for one in near)
            for near in (sources.get(name, ()) for name in columns)
        ]
        rows.append([word, *(cell or "none" for cell in cells)])
    return record.markdown(["word", *columns], rows)


def _inputs(pipeline: Pipeline) -> Any:
    """Mean of a text's input embeddings."""
    table_VD = on_host(pipeline.loaded("text_encoder_2")["shared"]["embedding"])

    def vectors(texts: Sequence[str]) -> np.ndarray:
        return _pooled(pipeline, texts, lambda ids_BT: np.asarray(table_VD[ids_BT], np.float32))

    return vectors


def _outputs(pipeline: Pipeline) -> Any:
    """Mean of the encoder's outputs at a text's tokens, the text by itself."""
    weights = pipeline.loaded("text_encoder_2")

    def vectors(texts: Sequence[str]) -> np.ndarray:
        return _pooled(
            pipeline,
            texts,
            lambda ids_BT: np.asarray(
                on_host(encoders.encode_t5(weights, pipeline.t5_config, ids_BT)), np.float32
            ),
        )

    return vectors


def _pooled(pipeline: Pipeline, texts: Sequence[str], features: Any) -> np.ndarray:
    made = tokens.tokenize(pipeline.t5_tokenizer, texts, _LENGTH)
    # Neither padding nor the end of the text, which all of them share.
    width_B = np.array([sum(stop > start for start, stop in one) for one in made.offsets])
    mask_BT = np.arange(_LENGTH) < width_B[:, None]
    found = []
    for start in range(0, len(texts), encoders.ROWS):
        part = slice(start, start + encoders.ROWS)
        x_BTD = features(made.ids_BT[part])
        found.append((x_BTD * mask_BT[part, :, None]).sum(1) / width_B[part, None])
    return np.concatenate(found)


def _unit(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=-1, keepdims=True), 1e-12)


def _others(model: str, word: str, top: int) -> dict[str, Sequence[str]]:
    """Synonyms of the model's own words, and of WordNet where it is installed."""
    world = worlds.of_model(model)
    found: dict[str, Sequence[str]] = {
        f"synonyms: {world.lexicon.name}": tuple(world.lexicon.synonyms(word))[:top]
    }
    try:
        reader = wordnet.load()
    except ValueError:
        return found
    senses = wordnet.by_use(reader, word)
    if senses:
        found["synonyms: WordNet"] = tuple(wordnet.synonyms(reader, word, sense=senses[0].name()))[
            :top
        ]
    return found
