"""Where a picture looks for a word: the share of attention that goes to its tokens, block by block.

columns = columns_of(painter, "a photo of a cat", "cat")
picture, maps_LHW = looked(painter, painter.text("a photo of a cat"), columns, seed=0, edit=edit)
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.concepts import spans
from ea_jax.edits import Edit
from ea_jax.flux import latents
from ea_jax.flux.columns import Columns
from ea_jax.flux.transformer import Text, dual_columns
from ea_jax.painter import Painter
from ea_jax.runtime.hosts import on_host

MAP_T = 0.7  # noise level at which attention is shown: the layout is being decided
WIDTH = 32  # tokens of a word, at most


def columns_of(painter: Painter, prompt: str, word: str) -> Columns:
    """The tokens of a word in a prompt, one row; ValueError where it isn't there."""
    idx_N, mask_N = spans.locate(
        *(painter.pipeline.t5_tokenizer, prompt, word),
        max_length=painter.text(prompt).t5_BTD.shape[1],
        width=WIDTH,
    )
    return Columns(idx_BN=jnp.asarray(idx_N)[None], mask_BN=jnp.asarray(mask_N)[None])


def looked(
    painter: Painter,
    text: Text,
    columns: Columns,
    seed: int,
    *,
    edit: Edit | None = None,
    strength: float | None = None,
    zeroed_T: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A picture, and where it looked for some tokens while its layout was decided.

    Args:
      painter: inside its mesh.
      text: one encoded prompt.
      columns: of the tokens, one row.
      seed: of the picture, and of the noise that it is shown at `MAP_T` with.
      edit: None is the frozen model.
      strength: of the edit; None takes its recommended one.
      zeroed_T: where the word stands whose columns the edit zeroes; None is `columns`.
    Returns:
      The picture [H, W, 3] in [0, 1]; and of each dual block the mean over heads of the share of
      attention that each place pays to the tokens, [L, rows, columns] in [0, 1]. Where an edit
      zeroes the columns of these tokens, none is left; where it zeroes others, it is that of the
      frozen model on the picture that was painted.
    """
    sampling = painter.sampling
    word_PT = np.zeros(text.t5_BTD.shape[:2], bool)
    word_PT[0, np.asarray(columns.idx_BN[0])[np.asarray(columns.mask_BN[0])]] = True
    hidden_PT = word_PT if zeroed_T is None else zeroed_T[None]
    z_BhwC, images = painter.sample(text, [seed], edit=edit, strength=strength, word_PT=hidden_PT)
    _, h, w, channels = z_BhwC.shape
    grid = latents.grid((h, w))
    noise_BhwC = latents.noise([seed], (h, w, channels))
    x_BSC = latents.pack((1 - MAP_T) * jnp.asarray(z_BhwC) + MAP_T * noise_BhwC)
    weights, lora = painter.bound(edit, strength)
    share_LBQ = _shares(
        *(weights, np.asarray(x_BSC), text, columns, lora),
        config=painter.pipeline.transformer_config,
        grid=grid,
        guidance=sampling.guidance,
        attention=sampling.attention,
    )
    # Queries are the text's, then the image's.
    maps_LQ = on_host(share_LBQ)[:, 0, -grid[0] * grid[1] :]
    if edit is not None and edit.zeroed and hidden_PT[word_PT].all():
        maps_LQ = (1 - edit.used_strength(strength)) * maps_LQ
    return images[0], maps_LQ.reshape(-1, *grid)


@functools.partial(jax.jit, static_argnames=("config", "grid", "guidance", "attention"))
def _shares(
    weights: Any,
    x_BSC: jax.Array,
    text: Text,
    columns: Columns,
    lora: Any,
    *,
    config: Any,
    grid: tuple[int, int],
    guidance: float | None,
    attention: str,
) -> jax.Array:
    return dual_columns(
        weights,
        config,
        x_BSC,
        jnp.full(1, MAP_T),
        text,
        columns,
        grid=grid,
        guidance_B=None if guidance is None else jnp.full(1, guidance),
        lora=lora,
        reduce=_share,
        attention=attention,
    )


def _share(cols_BHQN: jax.Array, columns: Columns) -> jax.Array:
    masked = jnp.where(columns.mask_BN[:, None, None, :], cols_BHQN, 0.0)
    return masked.sum(-1).mean(1)
