"""diffusers' transformer with a peft LoRA, whose dual blocks hand out the concept's columns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from cases import Case, Inputs, Prompts
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

QUERY_CHUNK = 512
Tensor = torch.Tensor


class _LogSumExp(torch.autograd.Function):
    """The softmax's denominators, which the fused attention knows, with their gradient.

    torch's own attention returns them without one. The map is computed again in the backward
    pass, 512 queries at a time, and never kept.
    """

    @staticmethod
    def forward(ctx, q_BHSE, k_BHSE, lse_BHS, scale):
        ctx.save_for_backward(q_BHSE, k_BHSE, lse_BHS)
        ctx.scale = scale
        return lse_BHS.clone()

    @staticmethod
    def backward(ctx, grad_BHS):  # pyright: ignore
        q, k, lse = ctx.saved_tensors
        grads_q, grad_k = [], torch.zeros_like(k)
        for q_part, lse_part, grad_part in zip(
            *(x.split(QUERY_CHUNK, dim=2) for x in (q, lse, grad_BHS)), strict=True
        ):
            map_BHQK = torch.exp(q_part @ k.mT * ctx.scale - lse_part[..., None])
            map_BHQK = map_BHQK * (grad_part[..., None] * ctx.scale)
            grads_q.append(map_BHQK @ k)
            grad_k = grad_k + map_BHQK.mT @ q_part
        return torch.cat(grads_q, dim=2), grad_k, None, None


def attend_with_columns(
    q_BHSE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, idx_BN: Tensor, mask_BN: Tensor
) -> tuple[Tensor, Tensor]:
    """Fused attention, and the softmax columns [B, H, S, N] of some keys beside it."""
    scale = q_BHSE.shape[-1] ** -0.5
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out_BHSE, lse_BHS = fused(q_BHSE, k_BHSE, v_BHSE)
    lse_BHS = _LogSumExp.apply(q_BHSE, k_BHSE, lse_BHS.detach(), scale)
    where = idx_BN[:, None, :, None].expand(-1, k_BHSE.shape[1], -1, k_BHSE.shape[-1])
    chosen_BHQN = q_BHSE @ k_BHSE.gather(2, where).mT * scale
    cols_BHQN = torch.exp(chosen_BHQN - lse_BHS[..., None])
    return out_BHSE, cols_BHQN * mask_BN[:, None, None, :]


def project(attn, hidden_states, encoder_hidden_states, image_rotary_emb) -> list[Tensor]:
    """Queries, keys and values [B, H, S, E] of a dual block, text first; norms and rotation on."""
    text = [attn.add_q_proj, attn.add_k_proj, attn.add_v_proj]
    image = [attn.to_q, attn.to_k, attn.to_v]
    norms = [(attn.norm_added_q, attn.norm_q), (attn.norm_added_k, attn.norm_k)]
    found = []
    for part in range(3):
        t = text[part](encoder_hidden_states).unflatten(-1, (-1, attn.head_dim))
        i = image[part](hidden_states).unflatten(-1, (-1, attn.head_dim))
        if part == 2:
            joint = torch.cat([t, i], dim=1)
        else:
            norm_text, norm_image = norms[part]
            joint = torch.cat([norm_text(t), norm_image(i)], dim=1)
            joint = apply_rotary_emb(joint, image_rotary_emb, sequence_dim=1)
        found.append(joint.transpose(1, 2))
    return found


def close(attn, out_BHSE: Tensor, text_tokens: int) -> tuple[Tensor, Tensor]:
    """The output projections of a dual block: image stream, text stream."""
    out_BSD = out_BHSE.transpose(1, 2).flatten(2, 3)
    image = attn.to_out[0](out_BSD[:, text_tokens:])
    return image, attn.to_add_out(out_BSD[:, :text_tokens])


class ColumnProcessor:
    """A dual block's attention: fused, and the columns of `columns` appended to `kept`."""

    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states=None,
        attention_mask=None,
        image_rotary_emb=None,
        columns=None,
        kept=None,
    ):
        q, k, v = project(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        if columns is None:
            out_BHSE = F.scaled_dot_product_attention(q, k, v)
        else:
            out_BHSE, cols_BHQN = attend_with_columns(q, k, v, *columns)
            kept.append(cols_BHQN)
        return close(attn, out_BHSE, encoder_hidden_states.shape[1])


class Text:
    """A batch of prompts as tensors."""

    def __init__(self, prompts: Prompts):
        self.t5_BTD = torch.from_numpy(prompts.t5_BTD)
        self.pooled_BD = torch.from_numpy(prompts.pooled_BD)
        self.columns = (
            torch.from_numpy(prompts.idx_BN).long(),
            torch.from_numpy(prompts.mask_BN),
        )

    @property
    def encoded(self) -> tuple[Tensor, Tensor]:
        return self.t5_BTD, self.pooled_BD


class Flux:
    """The model and its forward passes, the frozen one with adapters switched off."""

    def __init__(
        self,
        case: Case,
        folder: Path,
        inputs: Inputs,
        *,
        processor: Callable[..., Any],
        compiled: bool = False,
    ):
        model = FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer")
        model.requires_grad_(False)
        settings = case.settings
        model.add_adapter(
            LoraConfig(
                r=settings.lora.rank,
                lora_alpha=settings.lora.alpha,
                target_modules=list(inputs.adapters),
            )
        )
        for block in model.transformer_blocks:
            block.attn.set_processor(processor())
        self.model, self.layers = model, {}
        for name, (A_LDR, B_LRD) in inputs.adapters.items():
            for i, block in enumerate(model.transformer_blocks):
                layer = getattr(block.attn, name)
                self.layers[name, i] = layer
                with torch.no_grad():
                    layer.lora_A["default"].weight.copy_(torch.from_numpy(A_LDR[i].T.copy()))
                    layer.lora_B["default"].weight.copy_(torch.from_numpy(B_LRD[i].T.copy()))
        self.tuned = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        text_ids = torch.zeros(settings.model.text_length, 3)
        rows, columns = case.grid
        image_ids = torch.cartesian_prod(
            torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float()
        )
        self.rope = model.pos_embed(torch.cat([text_ids, image_ids]))
        # One program for every shape that a pair of steps has.
        torch._dynamo.config.recompile_limit = 32
        wrap = torch.compile(dynamic=False) if compiled else lambda function: function
        self._velocity, self._columns = wrap(self._velocity_of), wrap(self._columns_of)

    def velocity(
        self, x_BSC: Tensor, t_B: Tensor, text: tuple[Tensor, Tensor], *, guidance, columns=None
    ) -> tuple[Tensor, list[Tensor]]:
        """Velocity, and what the dual blocks' processors kept."""
        guidance_B = torch.full(t_B.shape, guidance)
        return self._velocity(x_BSC, t_B, *text, guidance_B, columns)

    def columns(self, x_BSC: Tensor, t_B: Tensor, text: Text, *, guidance: float) -> Tensor:
        """The last dual block's columns; the single blocks are not run."""
        guidance_B = torch.full(t_B.shape, guidance)
        return self._columns(x_BSC, t_B, *text.encoded, guidance_B, text.columns)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The base model: adapters off, no gradient."""
        for layer in self.tuned:
            layer.enable_adapters(False)
        try:
            with torch.no_grad():
                yield
        finally:
            for layer in self.tuned:
                layer.enable_adapters(True)

    def gradients(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Gradients of the adapters, in the layout of `Inputs.adapters`."""
        found: dict[str, tuple[list, list]] = {}
        for (name, _), layer in self.layers.items():
            A, B = found.setdefault(name, ([], []))
            A.append(layer.lora_A["default"].weight.grad.numpy().T)
            B.append(layer.lora_B["default"].weight.grad.numpy().T)
        return {name: (np.stack(A), np.stack(B)) for name, (A, B) in found.items()}

    def _dual(self, x_BSC, t_B, t5_BTD, pooled_BD, guidance_B, columns, first):
        """Both streams behind the dual blocks; columns from block `first` on."""
        model = self.model
        image, text = model.x_embedder(x_BSC), model.context_embedder(t5_BTD)
        temb = model.time_text_embed(t_B * 1000, guidance_B * 1000, pooled_BD)
        kept: list[Tensor] = []
        for i, block in enumerate(model.transformer_blocks):
            wanted = columns is not None and i >= first
            options = {"columns": columns, "kept": kept} if wanted else None
            text, image = block(
                hidden_states=image,
                encoder_hidden_states=text,
                temb=temb,
                image_rotary_emb=self.rope,
                joint_attention_kwargs=options,
            )
        return image, text, temb, kept

    def _velocity_of(self, x_BSC, t_B, t5_BTD, pooled_BD, guidance_B, columns):
        image, text, temb, kept = self._dual(x_BSC, t_B, t5_BTD, pooled_BD, guidance_B, columns, 0)
        for block in self.model.single_transformer_blocks:
            text, image = block(
                hidden_states=image,
                encoder_hidden_states=text,
                temb=temb,
                image_rotary_emb=self.rope,
            )
        return self.model.proj_out(self.model.norm_out(image, temb)), kept

    def _columns_of(self, x_BSC, t_B, t5_BTD, pooled_BD, guidance_B, columns):
        last = len(self.model.transformer_blocks) - 1
        return self._dual(x_BSC, t_B, t5_BTD, pooled_BD, guidance_B, columns, last)[3][-1]
