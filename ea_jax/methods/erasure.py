"""From an experiment's settings to a run: what the loop calls, pair after pair.

    run = prepare(settings)
    with jax.set_mesh(run.mesh):
        state = run.initial()
        for step in range(settings.optim.pairs):
            state, terms = run.pair(state, step)
    edit = run.edit(state)

The text encoders encode every prompt that the run will ever need, and are dropped before the
transformer comes in.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from ea_jax import edits, lora
from ea_jax.concepts import bank as banks
from ea_jax.concepts import choose, rows
from ea_jax.concepts.encoding import Encoded
from ea_jax.flux import euler
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.sharded import unrolled_on
from ea_jax.flux.transformer import TransformerConfig, dtype_of
from ea_jax.methods import inversions, pictures
from ea_jax.methods.batches import Batches
from ea_jax.methods.erase_anything import (
    State,
    StepSettings,
    Terms,
    lower_step,
    upper_step,
    velocity_of,
)
from ea_jax.methods.fit import opened, resolved
from ea_jax.methods.trajectories import Rota
from ea_jax.runtime import compiler
from ea_jax.runtime.fingerprint import base_hash, fingerprint, fingerprint_files
from ea_jax.runtime.hosts import on_host, require_same
from ea_jax.runtime.memory import peak_host_bytes
from ea_jax.runtime.mesh import batch_parts, make_mesh, put, put_rows, sharding
from ea_jax.runtime.progress import Laps
from ea_jax.runtime.streams import normal
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
_LORA_KEY, _POOL_KEY = range(2)

Step = Callable[[State, Any, Any], tuple[State, Terms]]


@dataclasses.dataclass(frozen=True)
class Erasure:
    """A run that is ready to start, or to go on.

    Attributes:
      settings: of the run; a weight that nothing can serve is 0 in them.
      pipeline: with its transformer loaded, text encoders dropped.
      mesh: that the weights lie on.
      steps: what is static about a step.
      batches: what each step trains on.
      texts: encoded prompts for painting.
      words: the record of where words came from.
      base: fingerprint of the transformer as it is loaded.
      base_hash: of the transformer in whatever precision; an edit carries it.
      seconds: what preparing took, by part.
      lower, upper: the jitted pair; `upper` is None where nothing preserves.
      search: for inversions; None where none are wanted.
    """

    settings: Settings
    pipeline: Pipeline
    mesh: Mesh
    steps: StepSettings
    batches: Batches
    texts: Encoded
    words: choose.Record
    base: str
    base_hash: str
    seconds: dict[str, float]
    lower: Step
    upper: Step | None
    search: inversions.Search | None

    def initial(self) -> State:
        """The state before the first pair: a LoRA that changes nothing, a staggered pool."""
        state = jax.jit(self._blank, out_shardings=_whole(self.mesh))()
        if self.steps.x_t != "pool":
            return state
        _log.info("staggering %d paths over the schedule", self.settings.data.pool)
        return state.replace(pool_PSC=self._pool())

    def no_edit(self) -> Any:
        """Adapters that change nothing: the frozen model, in the program of an edited one."""
        return _no_edit(self.settings, self.pipeline, self.mesh)

    def template(self) -> State:
        """Shapes and shardings of the state, for restoring it."""
        whole = _whole(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
            jax.eval_shape(self._blank),
        )

    def pair(self, state: State, step: int) -> tuple[State, dict[str, Terms]]:
        """One lower and one upper step, after a round of the search where one is due.

        The state given is used up.

        Args:
          state: after `step` pairs.
          step: number of the pair, from 0.
        Returns:
          The new state, and each level's terms by name.
        Raises:
          NonFiniteError: the search gave NaN or Inf.
        """
        base = self.pipeline.weights["transformer"]
        terms = {}
        if self.search is not None and (numbers := inversions.due(self.settings, step)):
            all_MND = on_host(state.inversions_MND).copy()
            frozen = None if step else self.base
            all_MND[numbers] = self.search.find(base, state.lora, numbers, frozen=frozen)
            state = state.replace(inversions_MND=self.whole(all_MND))
        batch = put_rows(self.mesh, self.batches.lower(step))
        state, terms["lower"] = self.lower(state, base, batch)
        if self.upper is not None:
            batch = put_rows(self.mesh, self.batches.upper(step))
            state, terms["upper"] = self.upper(state, base, batch)
        return state, terms

    def whole(self, tree: Any) -> Any:
        """A tree on every device, as the state is: it then runs in the same programs."""
        return jax.tree.map(lambda leaf: put(leaf, _whole(self.mesh)), tree)

    def adapters(self, state: State) -> Any:
        """The state's LoRA with alpha / rank folded in, as samplers and files want it."""
        return lora.scaled(state.lora, self.steps.lora_scale)

    def edit(self, state: State) -> edits.Edit:
        """What a run leaves behind."""
        return edits.Edit(
            adapters=self.adapters(state),
            base=self.base_hash,
            concept=self.settings.concept.word,
            preset=self.settings.preset,
            strength=1.0,
        )

    def _blank(self) -> State:
        settings = self.settings
        adapters = _fresh_lora(settings, self.pipeline)
        shared = settings.optim.optimisers == "one"
        lower, upper = optimisers(settings)
        shape = (settings.data.pool, *_packed_shape(self.pipeline, settings))
        inversions_MND = None if self.search is None else jnp.zeros(self.search.shape, jnp.float32)
        return State(
            lora=adapters,
            lower=lower.init(adapters),
            upper=None if shared else upper.init(adapters),
            pool_PSC=jnp.zeros(shape, jnp.float32),
            inversions_MND=inversions_MND,
        )

    def _pool(self) -> jax.Array:
        s, rota = self.steps, self.batches.rota
        numbers = [self.batches.path_row(member, 0) for member in range(rota.members)]
        key = jax.random.fold_in(jax.random.key(self.settings.optim.seed), _POOL_KEY)

        def stagger(base, text, key):
            frozen = lambda x_PSC, t_P: velocity_of(base, None, x_PSC, t_P, text, s)[0]  # noqa: E731
            shape = (rota.members, *_packed_shape(self.pipeline, self.settings))
            noise_PSC = normal(key, shape)
            return euler.follow(frozen, noise_PSC, s.sigmas, rota.offsets(), dtype=dtype_of(base))

        text = self.batches.bank.text("un", numbers)
        program = compiler.jit(stagger, self.mesh, out_shardings=_whole(self.mesh))
        return program(self.pipeline.weights["transformer"], text, key)


def prepare(
    settings: Settings,
    *,
    tested: Sequence[str] = (),
    painted: Sequence[str] = (),
    check: Callable[[Sequence[str]], None] = lambda prompts: None,
    to_train: bool = True,
) -> Erasure:
    """Loads, encodes and samples all that a run needs.

    Args:
      settings: of the run.
      tested: words that will measure the erasure; none of them may train it.
      painted: prompts beyond those of the grid that will be painted.
      check: given every prompt of training before any is encoded; raises if one won't do.
      to_train: False for a run that only paints: no words are chosen, no pictures sampled.
    Raises:
      ValueError: a model, words or prompts that don't do; the message says what to change.
    """
    laps = Laps()
    log = dataclasses.replace(settings.log, folder="anywhere")
    require_same("settings", repr(dataclasses.replace(settings, log=log)), "the same config")
    mesh = make_mesh(dataclasses.asdict(settings.mesh))
    pipeline = opened(settings, mesh, columns=settings.concept.max_tokens if to_train else 0)
    latent = pipeline.latent_shape(settings.model.resolution, settings.model.resolution)
    settings = resolved(settings, pipeline.transformer_config, mesh, latent=latent)
    concept, words = rows.Concept(settings.concept.word, settings.concept.sentences), {}
    if to_train:
        concept, words = choose.concept(settings, tested=tested)
    bank, texts = _encode(settings, pipeline, concept, painted, check)
    require_same(
        "prompts",
        bank.digest,
        "words that are the same each time: from the config, or from a data.cache that all share",
    )
    if to_train and settings.data.inversions:
        inversions.require_words(bank)
    if settings.loss.rsc and not len(bank.contrast_rows()):
        settings = dataclasses.replace(settings, loss=dataclasses.replace(settings.loss, rsc=0.0))
    pipeline.drop("text_encoder", "text_encoder_2")
    laps.lap("encode")
    _log.info(
        "%d prompts encoded, text encoders dropped; peak host memory %.2f GiB",
        len(bank.prompts) + len(texts.prompts),
        peak_host_bytes() / 2**30,
    )
    transformer = pipeline.load_part("transformer")
    base = fingerprint(transformer)
    # Rounded to bfloat16, which these may be already.
    made_on = base if settings.model.dtype == "bfloat16" else base_hash(transformer)
    if settings.model.blocks == "unrolled":
        pipeline.weights["transformer"] = unrolled_on(mesh, transformer)
    laps.lap("load")
    albums: tuple[pictures.Album | None, pictures.Album | None] = (None, None)
    if to_train:
        with jax.set_mesh(mesh):
            albums = pictures.albums(
                pipeline,
                bank,
                settings=settings,
                mesh=mesh,
                lora=_no_edit(settings, pipeline, mesh),
                base=base,
            )
    laps.lap("sample")
    side = settings.model.resolution
    h, w, _ = pipeline.latent_shape(side, side)
    sigmas = pipeline.sigmas(settings.sample.steps, side, side)
    steps = step_settings(settings, pipeline.transformer_config, (h // 2, w // 2), sigmas)
    search = None
    if settings.data.inversions and albums[0] is not None:
        search = inversions.Search(bank, albums[0], settings=settings, steps=steps, mesh=mesh)
    rota = Rota(settings.data.pool, settings.optim.batch, len(steps.sigmas) - 1)
    batches = Batches(settings, bank, rota, *albums, parts=batch_parts(mesh))
    lower, upper = jitted(settings, steps, mesh)
    return Erasure(
        settings=settings,
        pipeline=pipeline,
        mesh=mesh,
        steps=steps,
        batches=batches,
        texts=texts,
        words=words,
        base=base,
        base_hash=made_on,
        seconds=laps.seconds,
        lower=lower,
        upper=upper if batches.has_upper else None,
        search=search,
    )


def jitted(settings: Settings, steps: StepSettings, mesh: Mesh) -> tuple[Any, Any]:
    """The pair of steps as programs of (state, base weights, batch); the state is used up."""
    whole = _whole(mesh)

    def program(step, optimiser):
        bound = functools.partial(step, settings=steps, optimiser=optimiser)
        return compiler.jit(bound, mesh, donate_argnums=0, out_shardings=(whole, whole))

    lower, upper = optimisers(settings)
    return program(lower_step, lower), program(upper_step, upper)


def _encode(
    settings: Settings,
    pipeline: Pipeline,
    concept: Any,
    painted: Sequence[str],
    check: Callable[[Sequence[str]], None],
) -> tuple[banks.PromptBank, Encoded]:
    """The prompt bank, and all prompts that will be painted; encoders load when first needed."""
    length = settings.model.text_length
    encoders = ("text_encoder", "text_encoder_2")

    def encode(prompts):
        for part in encoders:
            pipeline.load_part(part)
        text, _ = pipeline.encode(prompts, max_length=length)
        return text.t5_BTD, text.pooled_BD

    files = [
        file
        for part in (*encoders, "tokenizer", "tokenizer_2")
        for file in pipeline.part_folder(part).iterdir()
        if file.is_file()
    ]
    options = {
        "encode": encode,
        "encoder": f"{fingerprint_files(files)} {settings.model.dtype}",
        "tokenizer": pipeline.t5_tokenizer,
        "max_length": length,
        "batch": 8,
        "cache": settings.data.cache,
    }
    both = settings.concept.erase == "word_and_synonyms"
    bank = banks.build(
        rows.with_synonyms(concept) if both else [concept],
        choose.recipe(settings),
        preserve=settings.concept.preserve_prompts,
        width=settings.concept.max_tokens,
        check=check,
        **options,
    )
    shown = (*settings.sample.prompts, *settings.concept.sentences[:1], *painted)
    return bank, Encoded.make(shown, **options)


def step_settings(
    settings: Settings,
    model: TransformerConfig,
    grid: tuple[int, int],
    sigmas: Iterable[float],
) -> StepSettings:
    """What is static about a run's steps: the model's shape, packed tokens, noise levels."""
    return StepSettings(
        model=model,
        grid=grid,
        sigmas=tuple(map(float, sigmas)),
        loss=settings.loss,
        lora_scale=settings.lora.alpha / settings.lora.rank,
        x_t=settings.data.x_t,
        guidance=settings.model.guidance,
        attention=settings.model.attention,
        remat=settings.model.remat,
    )


def optimisers(
    settings: Settings,
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """AdamW for each level, over the adapters of the scope; both the same where there is one."""
    optim, scope = settings.optim, settings.lora.scope
    updates = optim.pairs * (2 if optim.optimisers == "one" else 1)
    falling = round(optim.lr_decay * updates)

    def adamw(highest: float) -> optax.GradientTransformation:
        rate = highest
        if falling:
            rate = optax.linear_schedule(highest, 0.0, falling, updates - falling)
        trained = optax.adamw(
            rate, b1=optim.b1, b2=optim.b2, eps=optim.eps, weight_decay=optim.weight_decay
        )
        return optax.partition(
            {"train": trained, "frozen": optax.set_to_zero()},
            lambda tree: lora.labels(tree, scope),
        )

    return adamw(optim.lr_lower), adamw(optim.lr_upper)


def _fresh_lora(settings: Settings, pipeline: Pipeline) -> Any:
    key = jax.random.fold_in(jax.random.key(settings.optim.seed), _LORA_KEY)
    template = pipeline.template("transformer")
    return lora.init(key, template, scope=settings.lora.scope, rank=settings.lora.rank)


def _no_edit(settings: Settings, pipeline: Pipeline, mesh: Mesh) -> Any:
    return jax.jit(lambda: _fresh_lora(settings, pipeline), out_shardings=_whole(mesh))()


def _packed_shape(pipeline: Pipeline, settings: Settings) -> tuple[int, int]:
    h, w, channels = pipeline.latent_shape(settings.model.resolution, settings.model.resolution)
    return h * w // 4, 4 * channels


def _whole(mesh: Mesh) -> NamedSharding:
    return sharding(mesh, ())
