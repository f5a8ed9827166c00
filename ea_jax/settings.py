"""What an experiment can set: one frozen section each, checked as it is made.

A config of `configs/` becomes `Settings` by `from_config`, which wants every key once and no
other. The library takes these sections, never a ConfigDict. An invalid value is an error that names
key, value and what is allowed; an upper bound is where nothing works beyond it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ea_jax.concept_settings import ConceptSettings
from ea_jax.fields import (
    SettingsError,
    check,
    choice,
    integers,
    number,
    optional,
    require_keys,
    shown,
    text,
    texts,
)

_MANY = 10**6  # pictures, rows or steps: no host holds more


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The base model and how it is run.

    Attributes:
      path: `flux-tiny`, a folder in diffusers' layout, or a hub id.
      revision: branch, tag or commit on the hub; None for main.
      dtype: of base weights and activations; adapters are float32 always.
      resolution: side of the square pictures, pixels.
      text_length: T5 tokens of a prompt, end token included.
      guidance: distilled guidance; None for a model without (schnell).
      attention: backend of joint attention; `splash` is for TPUs, `cudnn` for Hopper GPUs.
      remat: what a backward pass computes again to save memory.
      blocks: `stacked`, one program for all blocks, or `apart`: each written out, which compiles
        longer and runs faster; for models of few blocks.
    """

    path: str = text()
    revision: str | None = optional(text())
    dtype: str = choice("float32", "bfloat16")
    resolution: int = number(int, low=16, high=2**16)
    text_length: int = number(int, low=2, high=512)
    guidance: float | None = optional(number(float, low=0))
    attention: str = choice("chunked", "full", "splash", "cudnn")
    remat: str = choice("none", "block", "dots")
    blocks: str = choice("stacked", "apart")

    def __post_init__(self) -> None:
        check(self, "model")


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """The adapter: which layers it is on (see `ea_jax.lora`), rank, alpha (strength alpha/rank)."""

    scope: str = text()
    rank: int = number(int, low=1)
    alpha: float = number(float, low=0, above=True)

    def __post_init__(self) -> None:
        check(self, "lora")


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """Terms of the two levels, and their forms; see `ea_jax.methods.losses`.

    Attributes:
      esd, attn: weights of the lower level's terms; a term of weight 0 isn't computed.
      lora, keep, rsc: weights of the upper level's.
      eta: negative guidance of L_esd.
      teacher: L_esd's target comes from the frozen `base`, or from the `student`.
      teacher_guidance: distilled guidance of that teacher; None for a model without.
      attn_form, attn_blocks, attn_queries: how L_attn sums the concept's columns.
      rsc_form: sign and similarity of L_rsc. tau: its temperature.
      features: L_rsc's prompts see one `shared` x_t, or each its own, `denoise`d.
      rsc_t_min: lowest noise level at which L_rsc looks.
      t_draw: noise levels of L_lora and L_keep: `uniform`, `logit_normal`, or the `sampler`'s own.
    """

    esd: float = number(float, low=0)
    attn: float = number(float, low=0)
    lora: float = number(float, low=0)
    keep: float = number(float, low=0)
    rsc: float = number(float, low=0)
    eta: float = number(float, low=0)
    teacher: str = choice("base", "student")
    teacher_guidance: float | None = optional(number(float, low=0))
    attn_form: str = choice("mass", "sum", "release")
    attn_blocks: str = choice("all", "last")
    attn_queries: str = choice("all", "image")
    rsc_form: str = choice("intent", "printed", "release")
    tau: float = number(float, low=0, above=True)
    features: str = choice("shared", "denoise")
    rsc_t_min: float = number(float, low=0, high=1)
    t_draw: str = choice("uniform", "logit_normal", "sampler")

    def __post_init__(self) -> None:
        check(self, "loss")
        if not self.esd and not self.attn:
            raise SettingsError(
                "loss.esd and loss.attn are both 0, so nothing erases; give one a weight"
            )


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """How long and how fast.

    Attributes:
      pairs: lower steps, and as many upper steps.
      optimisers: moments for each level (`two`), or shared (`one`).
      lr_lower, lr_upper: learning rates; with `one` optimiser they have to be equal.
      lr_decay: share of the run, its end, in which both rates fall evenly to 0.
      batch: trajectories in a lower step; divides data.pool.
      lora_batch, keep_batch, rsc_batch: pictures in an upper step, for each term.
      b1, b2, eps, weight_decay: AdamW's.
      seed: of everything a run draws.
    """

    pairs: int = number(int, low=1)
    optimisers: str = choice("two", "one")
    lr_lower: float = number(float, low=0, above=True)
    lr_upper: float = number(float, low=0, above=True)
    lr_decay: float = number(float, low=0, high=1)
    batch: int = number(int, low=1, high=_MANY)
    lora_batch: int = number(int, low=1, high=_MANY)
    keep_batch: int = number(int, low=1, high=_MANY)
    rsc_batch: int = number(int, low=1, high=_MANY)
    b1: float = number(float, low=0, high=1, below=True)
    b2: float = number(float, low=0, high=1, below=True)
    eps: float = number(float, low=0, above=True)
    weight_decay: float = number(float, low=0)
    seed: int = number(int, low=0)

    def __post_init__(self) -> None:
        check(self, "optim")
        if self.optimisers == "one" and self.lr_lower != self.lr_upper:
            raise SettingsError(
                f"optim.lr_lower = {self.lr_lower:g} and optim.lr_upper = {self.lr_upper:g} "
                "differ; one optimiser has one learning rate: make them equal, or set "
                "optim.optimisers=two"
            )


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Prompts and latents that steps draw from.

    Attributes:
      pool: paths in progress.
      x_t: the lower level's latents come from the `pool`, or are `resample`d at every step.
      shuffle: sentences are shuffled by `phrase` (the concept stays together) or by `word`.
      shuffle_probability: how often; otherwise the plain order.
      shuffles: rows of the prompt bank; they take the sentences in turn.
      irrelevant: words drawn for a row (K), from the three classes in turn.
      pictures: I_f, pictures of the concept for L_lora and L_rsc.
      keep_pictures: pictures of each of concept.preserve_prompts.
      inversions: embeddings other than the word's, found to paint the concept, that are erased
        like it; 0 for none. See `ea_jax.methods.inversions`.
      inversion_rounds: searches, spread evenly over the run; each against the model as it is then.
      inversion_steps, inversion_rate: of the search for each; its learning rate.
      cache: folder for encoded prompts, pictures, inversions and compiled programs, for the next
        run; None keeps nothing.
    """

    pool: int = number(int, low=1, high=_MANY)
    x_t: str = choice("pool", "resample")
    shuffle: str = choice("phrase", "word")
    shuffle_probability: float = number(float, low=0, high=1)
    shuffles: int = number(int, low=1, high=_MANY)
    irrelevant: int = number(int, low=1, high=_MANY)
    pictures: int = number(int, low=1, high=_MANY)
    keep_pictures: int = number(int, low=1, high=_MANY)
    inversions: int = number(int, low=0, high=_MANY)
    inversion_rounds: int = number(int, low=1, high=_MANY)
    inversion_steps: int = number(int, low=1)
    inversion_rate: float = number(float, low=0, above=True)
    cache: str | None = optional(text())

    def __post_init__(self) -> None:
        check(self, "data")


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """Pictures made before and after.

    Attributes:
      steps: Euler steps.
      prompts: rows of the grid: the concept, a synonym, something irrelevant.
      seeds: its columns; below 2**31, where training's seeds begin.
      batch: pictures painted at once.
      eval_pictures: pictures a number of the final table rests on; 0 leaves the table out.
    """

    steps: int = number(int, low=1, high=_MANY)
    prompts: tuple[str, ...] = texts(least=1, distinct=True)
    seeds: tuple[int, ...] = integers(least=1, distinct=True)
    batch: int = number(int, low=1, high=_MANY)
    eval_pictures: int = number(int, low=0, high=_MANY)

    def __post_init__(self) -> None:
        check(self, "sample")


@dataclasses.dataclass(frozen=True)
class LogSettings:
    """What a run leaves behind; no value here changes a result.

    Attributes:
      folder: of the run.
      every: pairs between two lines of metrics.
      image_every: pairs between two grids; 0 for the last only.
      checkpoint_every: pairs between two checkpoints. keep: how many stay.
      pictures: grids and maps go to disk `plain`, `pixelated`, or not at all (`none`).
      profile_steps: `10:12` traces these pairs for a profiler.
    """

    folder: str = text()
    every: int = number(int, low=1)
    image_every: int = number(int, low=0)
    checkpoint_every: int = number(int, low=1)
    keep: int = number(int, low=1)
    pictures: str = choice("plain", "pixelated", "none")
    profile_steps: str | None = optional(text())

    def __post_init__(self) -> None:
        check(self, "log")
        if self.profile_steps is not None:
            self.profiled()

    def profiled(self) -> range:
        """The pairs to trace; none by default."""
        if self.profile_steps is None:
            return range(0)
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", self.profile_steps)
        if match is None or int(match[1]) >= int(match[2]):
            said = shown(self.profile_steps)
            raise SettingsError(f"log.profile_steps = {said} is no range; write first:last, 10:12")
        return range(int(match[1]), int(match[2]))


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis of the mesh; -1 for all that are left. See `ea_jax.runtime.mesh`."""

    data: int = number(int, low=-1)
    fsdp: int = number(int, low=-1)
    tensor: int = number(int, low=-1)

    def __post_init__(self) -> None:
        check(self, "mesh")
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            if size == 0 or (size == -1 and list(sizes.values()).count(-1) > 1):
                raise SettingsError(
                    f"mesh.{name} = {size} is no size; each has to be at least 1, one may be -1"
                )


@dataclasses.dataclass(frozen=True)
class Settings:
    """An experiment. `preset` names the overrides it was made with, for the record."""

    preset: str
    model: ModelSettings
    concept: ConceptSettings
    lora: LoraSettings
    loss: LossSettings
    optim: OptimSettings
    data: DataSettings
    sample: SampleSettings
    log: LogSettings
    mesh: MeshSettings

    def __post_init__(self) -> None:
        if not isinstance(self.preset, str):
            raise SettingsError(f"preset = {shown(self.preset)} is no name; it has to be a str")
        traced = self.log.profiled()
        if traced and traced.start >= self.optim.pairs:
            steps, pairs = self.log.profile_steps, self.optim.pairs
            raise SettingsError(
                f"log.profile_steps = {steps!r} begins after the last of optim.pairs = {pairs}"
            )
        if self.data.pool % self.optim.batch:
            raise SettingsError(
                f"optim.batch = {self.optim.batch} doesn't divide data.pool = {self.data.pool}"
            )
        if (self.model.guidance is None) != (self.loss.teacher_guidance is None):
            raise SettingsError(
                "model.guidance and loss.teacher_guidance have to be both numbers, or both None "
                "for a model without guidance"
            )
        erased_too = self.concept.erase == "word_and_synonyms"
        for source, is_read in (("synonym_source", erased_too), ("irrelevant_source", False)):
            value = getattr(self.concept, source)
            if value != "config" and not self.loss.rsc and not is_read:
                raise SettingsError(
                    f"concept.{source} = {value!r} would go unused, since only L_rsc reads such "
                    "words and loss.rsc is 0; give it a weight, or set the source to 'config'"
                )
        if self.loss.keep and not self.concept.preserve_prompts:
            raise SettingsError(
                f"loss.keep = {self.loss.keep:g} needs concept.preserve_prompts; "
                "give some, or set loss.keep=0"
            )


SECTIONS: Mapping[str, type] = {
    "model": ModelSettings,
    "concept": ConceptSettings,
    "lora": LoraSettings,
    "loss": LossSettings,
    "optim": OptimSettings,
    "data": DataSettings,
    "sample": SampleSettings,
    "log": LogSettings,
    "mesh": MeshSettings,
}


def from_config(config: Mapping[str, Any]) -> Settings:
    """Settings of a config: `get_config()`'s ConfigDict, or plain nested dicts.

    Raises:
      SettingsError: a key too many, a key missing, or an invalid value; with its full name.
    """
    require_keys("", config, ["preset", *SECTIONS])
    sections = {}
    for name, kind in SECTIONS.items():
        fields = [field.name for field in dataclasses.fields(kind)]
        require_keys(f"{name}.", config[name], fields)
        sections[name] = kind(**{key: _frozen(config[name][key]) for key in fields})
    return Settings(preset=config["preset"], **sections)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
