"""The cost structure of the published algorithm in PyTorch.

What it runs for one lower and one upper step: x_t is sampled from noise down to t at every lower
step; two teacher passes, one after the other, adapters on; L_rsc's synonym and irrelevant words
are each sampled over all 28 steps; the dual blocks write out full attention maps in every pass.
That is 14 (the mean over t) + 2 + 4 x 28 passes without gradient and 3 with. Losses are those of
this project's preset `release`; none of the authors' code is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import torch
import torch_flux
from cases import Case
from torch_flux import Flux, Tensor, Text
from torch_pair import cosine

TEACHER_GUIDANCE, RATE, TAU = 3.0, 1e-3, 0.07
W_ATTN, W_LORA, W_RSC = 0.001, 0.1, 0.1


class MapProcessor:
    """A dual block's attention with its whole map [B, H, S, S], kept until the next pass."""

    map_BHQK: Tensor

    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states=None,
        attention_mask=None,
        image_rotary_emb=None,
    ):
        q, k, v = torch_flux.project(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        self.map_BHQK = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
        return torch_flux.close(attn, self.map_BHQK @ v, encoder_hidden_states.shape[1])


class Pair:
    """A lower and an upper step, eager, of one picture."""

    def __init__(self, case: Case, folder: Path):
        inputs = cases.draw(case)
        if len(inputs.pool_PSC) != 1 or inputs.contrast is None:
            raise ValueError(
                f"case {case.name} has no batch of 1 with L_rsc; choose tiny-1 or wide"
            )
        self.guidance: Any = case.settings.model.guidance
        self.flux = Flux(case, folder, inputs, processor=MapProcessor)
        self.optimiser = torch.optim.AdamW(self.flux.parameters, lr=RATE, weight_decay=1e-5)
        self.sigmas = torch.from_numpy(case.sigmas)
        self.shape = inputs.pool_PSC.shape
        self.concept, self.anchor = Text(inputs.concept), Text(inputs.anchor)
        self.latent_BSC, self.picture = (
            torch.from_numpy(inputs.kept["lora"][0]),
            Text(inputs.kept["lora"][1]),
        )
        _, concept, others = inputs.contrast
        self.bare = Text(concept)
        others = Text(others)
        self.others = [
            (t5_TD[None], pooled_D[None], tuple(part[row, None] for part in others.columns))
            for row, (t5_TD, pooled_D) in enumerate(zip(*others.encoded, strict=True))
        ]

    def run(self, step: int) -> None:
        self._lower()
        self._upper()

    def _lower(self) -> None:
        steps = len(self.sigmas) - 1
        text = self.concept.encoded
        with torch.no_grad():
            x_BSC, t_B = self._sample(text, steps // 2), self.sigmas[steps // 2].expand(1)
            anchor_BSC = self._velocity(x_BSC, t_B, self.anchor.encoded, TEACHER_GUIDANCE)
            concept_BSC = self._velocity(x_BSC, t_B, text, TEACHER_GUIDANCE)
        v = self._velocity(x_BSC, t_B, text)
        esd = (v - (anchor_BSC - (concept_BSC - anchor_BSC))).square().mean()
        cols_BHQN = _columns(self._map(), self.concept.columns)
        norms_BQN = torch.linalg.vector_norm(cols_BHQN, dim=1)
        self._update(esd + W_ATTN * norms_BQN.sum())

    def _upper(self) -> None:
        noise_BSC, t_B = torch.randn(self.shape), torch.rand(1)
        x_BSC = (1 - t_B) * self.latent_BSC + t_B * noise_BSC
        v = self._velocity(x_BSC, t_B, self.picture.encoded)
        lora = (noise_BSC - self.latent_BSC - v).square().mean()
        self._velocity(x_BSC, t_B, self.bare.encoded)
        un_Q = self._feature(self.bare.columns)
        features = []
        with torch.no_grad():
            for *text, columns in self.others:
                self._sample(text, len(self.sigmas) - 1)
                features.append(self._feature(columns))
        synonym_Q, irrelevant_KQ = features[0], torch.stack(features[1:])
        to_un = cosine(synonym_Q, un_Q) / TAU
        to_irrelevant = (cosine(synonym_Q, irrelevant_KQ) / TAU).logsumexp(0)
        rsc = to_un - torch.logaddexp(to_un, to_irrelevant)
        self._update(W_LORA * lora + W_RSC * rsc)

    def _velocity(self, x_BSC: Tensor, t_B: Tensor, text: Any, guidance: Any = None) -> Tensor:
        guidance = self.guidance if guidance is None else guidance
        return self.flux.velocity(x_BSC, t_B, text, guidance=guidance)[0]

    def _sample(self, text: Any, steps: int) -> Tensor:
        """From fresh noise through the first `steps` noise levels."""
        x_BSC = torch.randn(self.shape)
        for i in range(steps):
            v = self._velocity(x_BSC, self.sigmas[i].expand(1), text)
            x_BSC = x_BSC + (self.sigmas[i + 1] - self.sigmas[i]) * v
        return x_BSC

    def _map(self) -> Tensor:
        return self.flux.model.transformer_blocks[-1].attn.processor.map_BHQK

    def _feature(self, columns: Any) -> Tensor:
        """Head 0's attention to the concept's tokens, as a map over the image."""
        cols_BHQN = _columns(self._map(), columns)
        return cols_BHQN[0, 0, -self.shape[1] :].sum(-1) / columns[1].sum()

    def _update(self, total: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        self.optimiser.step()


def _columns(map_BHQK: Tensor, columns: tuple[Tensor, Tensor]) -> Tensor:
    """The concept's columns of a map of one row."""
    idx_BN, mask_BN = columns
    return map_BHQK[..., idx_BN[0][mask_BN[0]]]
