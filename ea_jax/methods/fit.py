"""Whether a run's settings fit a model and the devices here, before anything heavy is loaded."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax.sharding import Mesh

from ea_jax import lora
from ea_jax.flux import latents
from ea_jax.flux.attention import require_backend, resolve_backend
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.sharded import on_mesh
from ea_jax.flux.transformer import TransformerConfig
from ea_jax.runtime.mesh import platform
from ea_jax.settings import Settings


def opened(settings: Settings, mesh: Mesh, *, columns: int) -> Pipeline:
    """A run's pipeline, no part loaded: the transformer will be sharded, the rest replicated.

    Args:
      settings: of the run.
      mesh: that it will use.
      columns: the most keys whose attention columns it will want.
    Raises:
      ValueError: no such model, or settings that don't fit it.
    """
    model = settings.model
    pipeline = on_mesh(mesh, model.path, dtype=model.dtype, revision=model.revision)
    require_fit(settings, pipeline, mesh, columns=columns)
    # The last part is loaded when the first picture is due.
    pipeline.check_files()
    return pipeline


def require_fit(settings: Settings, pipeline: Pipeline, mesh: Mesh, *, columns: int) -> None:
    """Checks settings against a pipeline of which no part need be loaded.

    Args:
      settings: of a run.
      pipeline: of settings.model.
      mesh, columns: see `opened`.
    Raises:
      ValueError: guidance, resolution, scope, rank or attention that can't be; the message says
        what to change.
    """
    model = settings.model
    distilled = pipeline.transformer_config.guidance_embeds
    if distilled != (model.guidance is not None):
        raise ValueError(
            f"model.guidance is {model.guidance}, but {model.path} is a model "
            + ("with guidance, like dev" if distilled else "without guidance, like schnell")
            + f"; use the variant flux-{'dev' if distilled else 'schnell'} of the config"
        )
    latent = pipeline.latent_shape(model.resolution, model.resolution)
    template = pipeline.template("transformer")
    lora.require_rank(template, scope=settings.lora.scope, rank=settings.lora.rank)
    require_backend(
        resolved(settings, pipeline.transformer_config, mesh, latent=latent).model.attention,
        platform(mesh),
        **_attended(settings, pipeline.transformer_config, latent, columns),
    )


def resolved(
    settings: Settings,
    model: TransformerConfig,
    mesh: Mesh,
    *,
    latent: tuple[int, int, int],
) -> Settings:
    """Settings with a backend's own name for `model.attention=auto`.

    What a run trains with it also paints with, so columns count here even if none are wanted.

    Args:
      settings: of a run.
      model: shape of its transformer.
      mesh: of the devices it will run on.
      latent: height, width and channels of a picture's latent.
    """
    name = resolve_backend(
        settings.model.attention,
        platform(mesh),
        **_attended(settings, model, latent, settings.concept.max_tokens),
    )
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, attention=name))


def _attended(
    settings: Settings, model: TransformerConfig, latent: tuple[int, int, int], columns: int
) -> dict[str, Any]:
    """What a backend is asked to serve."""
    height, width, _ = latent
    return {
        "dtype": settings.model.dtype,
        "head": model.attention_head_dim,
        "columns": columns,
        "tokens": settings.model.text_length + height * width // latents.PATCH**2,
    }
