"""What a run loads and encodes before its first step, a part at a time.

The text encoders encode every prompt that the run will ever need, and are dropped before the
transformer comes in.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from ea_jax.concepts import bank as banks
from ea_jax.concepts import choose, kept_words, rows, slips, spans
from ea_jax.concepts import prompts as texts
from ea_jax.concepts.encoding import ENCODERS, Encoded, encoder_of
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.sharded import unrolled_on
from ea_jax.methods import registry
from ea_jax.methods.fit import opened, resolved
from ea_jax.methods.forward import Forward, forward_of
from ea_jax.methods.method import Needs
from ea_jax.runtime.fingerprint import base_hash
from ea_jax.runtime.hosts import require_same
from ea_jax.runtime.memory import peak_host_bytes
from ea_jax.runtime.mesh import make_mesh, put, sharding
from ea_jax.runtime.progress import Laps
from ea_jax.runtime.streams import stream
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
_SLIPS = 102  # first key of their stream; see `concepts.rows`


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model that paints a run's prompts.

    Attributes:
      settings: of the run.
      pipeline: with its transformer loaded, text encoders dropped.
      mesh: that the weights lie on.
      forward: what is static about a pass through the model.
      texts: encoded prompts for painting.
      fingerprint: of the transformer as it is loaded.
      base_hash: of the transformer in whatever precision; an edit carries it.
      laps: what preparing took, by part.
    """

    settings: Settings
    pipeline: Pipeline
    mesh: Mesh
    forward: Forward
    texts: Encoded
    fingerprint: str
    base_hash: str
    laps: Laps

    @property
    def weights(self) -> Any:
        """The transformer's, frozen."""
        return self.pipeline.weights["transformer"]

    def no_edit(self) -> Any:
        """Adapters that change nothing: the frozen model, in the program of an edited one.

        None where the run's edit has no adapters.
        """
        blank = registry.chosen(self.settings).blank
        program = jax.jit(
            lambda: blank(self.settings, self.pipeline.template("transformer")),
            out_shardings=sharding(self.mesh, ()),
        )
        return program() or None

    def replicated(self, tree: Any) -> Any:
        """A tree replicated on every device, as the state is: it then runs in the same programs."""
        return jax.tree.map(lambda leaf: put(leaf, sharding(self.mesh, ())), tree)


def open_model(settings: Settings, *, columns: bool) -> tuple[Settings, Mesh, Pipeline]:
    """A run's settings with `attention=auto` resolved, its mesh, its pipeline with no part loaded.

    Args:
      settings: of the run.
      columns: whether it will want the columns of the concept's tokens.
    Raises:
      ValueError: a model, or settings that don't fit it or the devices here.
    """
    log = dataclasses.replace(settings.log, folder="anywhere")
    require_same("settings", repr(dataclasses.replace(settings, log=log)), "the same config")
    mesh = make_mesh(dataclasses.asdict(settings.mesh))
    pipeline = opened(settings, mesh, columns=settings.concept.max_tokens if columns else 0)
    side = settings.model.resolution
    latent = pipeline.latent_shape(side, side)
    return resolved(settings, pipeline.transformer_config, mesh, latent=latent), mesh, pipeline


def with_names(
    settings: Settings,
    words: choose.Words,
    tokenizer: Any = None,
    *,
    taken: Callable[[str], bool] = lambda word: False,
) -> choose.Words:
    """The words with all names that a run erases: synonyms and slips, as far as it wants them.

    Args:
      settings: of the run.
      words: its texts.
      tokenizer: T5's fast tokenizer, to see that slips fit; None looks at none.
      taken: whether a word means something else, and so is nobody's slip.
    """
    concepts = list(words.concepts)
    if settings.concept.erase == "word_and_synonyms":
        concepts = [rows.with_synonyms(one) for one in concepts]
    if not settings.data.slips:
        return dataclasses.replace(words, concepts=tuple(concepts))
    made = [_slips(settings, n, words, tokenizer, taken) for n in range(len(concepts))]
    concepts = [
        dataclasses.replace(one, slips=slips) for one, slips in zip(concepts, made, strict=True)
    ]
    record = {**words.record, "slips": {one.word: list(one.slips) for one in concepts}}
    return dataclasses.replace(words, concepts=tuple(concepts), record=record)


def prompts(settings: Settings, words: choose.Words, tokenizer: Any = None) -> texts.Prompts:
    """All texts that a run trains on; see `ea_jax.concepts.prompts`."""
    return texts.make(
        words.concepts,
        choose.recipe(settings),
        preserve=words.preserve,
        near=words.near,
        tokenizer=tokenizer,
    )


def _slips(
    settings: Settings,
    number: int,
    words: choose.Words,
    tokenizer: Any,
    taken: Callable[[str], bool],
) -> tuple[str, ...]:
    """Slips of a word to train on.

    None holds a word that is taken, or is in the run's own texts; none a letter that T5 doesn't
    know, or more tokens than are kept.
    """
    concepts, width = words.concepts, settings.concept.max_tokens
    own = (text for one in concepts for text in one.prompts)
    used = {
        word
        for text in (*words.preserve, *words.near, *own)
        for word in re.findall(r"\w+", text.casefold())
    }
    rng = stream(settings.optim.seed, _SLIPS, number)
    found = slips.trained(
        concepts[number].word, rng, count=settings.data.slips, avoid=lambda w: w in used or taken(w)
    )
    if tokenizer is None:
        return tuple(found)
    return tuple(form for form in found if spans.fits(tokenizer, form, width=width))


def bank(
    settings: Settings, pipeline: Pipeline, prompts: texts.Prompts, needs: Needs
) -> banks.PromptBank:
    """The prompt bank; encoders load when first needed.

    Raises:
      ValueError: what the method says of a bank that lacks what it needs, or hosts differ.
    """
    width = settings.concept.max_tokens
    made = banks.encode(prompts, width=width, **_encoding(settings, pipeline))
    require_same(
        "prompts",
        made.digest,
        "words that are the same each time: from the config, or from a data.cache that all share",
    )
    needs.check(made)
    return made


def vocabulary(
    settings: Settings, pipeline: Pipeline, listed: Mapping[str, Sequence[str]]
) -> kept_words.KeptWords | None:
    """Moments of words that are kept, by their sentences; None without any."""
    return kept_words.streamed(listed, **_encoding(settings, pipeline)) if listed else None


def load(
    settings: Settings, mesh: Mesh, pipeline: Pipeline, *, painted: Sequence[str], laps: Laps
) -> Loaded:
    """Encodes what will be painted, drops the encoders, and loads the transformer.

    Args:
      settings: of the run.
      mesh, pipeline: see `open_model`.
      painted: all prompts of pictures, but for those of the bank.
      laps: begun with the run.
    """
    texts = Encoded.make(painted, **_encoding(settings, pipeline))
    pipeline.drop(*ENCODERS)
    laps.lap("encode")
    _log.info(
        "prompts encoded, text encoders dropped; peak host memory %.2f GiB",
        peak_host_bytes() / 2**30,
    )
    transformer = pipeline.load_part("transformer")
    loaded = pipeline.fingerprint("transformer")
    # Rounded to bfloat16, which these may be already.
    made_on = loaded if settings.model.dtype == "bfloat16" else base_hash(transformer)
    if settings.model.blocks == "unrolled":
        pipeline.weights["transformer"] = unrolled_on(mesh, transformer)
    laps.lap("load")
    side = settings.model.resolution
    h, w, _ = pipeline.latent_shape(side, side)
    sigmas = pipeline.sigmas(settings.sample.steps, side, side)
    forward = forward_of(settings, pipeline.transformer_config, (h // 2, w // 2), sigmas)
    return Loaded(settings, pipeline, mesh, forward, texts, loaded, made_on, laps)


def _encoding(settings: Settings, pipeline: Pipeline) -> dict[str, Any]:
    """How a run's prompts are encoded, and where that is kept."""
    model = settings.model
    return encoder_of(
        pipeline, text_length=model.text_length, dtype=model.dtype, cache=settings.data.cache
    )
