"""The same algorithm in PyTorch: diffusers' transformer, peft's LoRA, the same terms.

Written for speed within what torch offers: fused attention with the concept's columns beside it,
a frozen teacher in one batch without gradient, truncated forwards for L_rsc's features, fused
AdamW.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import torch
import torch_flux
from cases import Case
from torch_flux import Flux, Tensor, Text

Terms = dict[str, Tensor]


class Pair:
    """A lower and an upper step, eager."""

    compiled = False

    def __init__(self, case: Case, folder: Path):
        inputs = cases.draw(case)
        self.case, self.loss = case, case.settings.loss
        self.guidance: Any = case.settings.model.guidance
        self.flux = Flux(
            case, folder, inputs, processor=torch_flux.ColumnProcessor, compiled=self.compiled
        )
        optim = case.settings.optim

        def adamw(rate: float) -> torch.optim.Optimizer:
            return torch.optim.AdamW(
                self.flux.parameters,
                lr=rate,
                betas=(optim.b1, optim.b2),
                eps=optim.eps,
                weight_decay=optim.weight_decay,
                fused=True,
            )

        self.optimisers = adamw(optim.lr_lower), adamw(optim.lr_upper)
        self.sigmas = torch.from_numpy(case.sigmas)
        self.pool_PSC = torch.from_numpy(inputs.pool_PSC.copy())
        self.concept, self.anchor = Text(inputs.concept), Text(inputs.anchor)
        self.kept = {
            name: (torch.from_numpy(latent_BSC), Text(prompts))
            for name, (latent_BSC, prompts) in inputs.kept.items()
        }
        self.contrast = None
        if inputs.contrast is not None:
            latent_BSC, concept, others = inputs.contrast
            self.contrast = torch.from_numpy(latent_BSC), Text(concept), Text(others)

    def run(self, step: int) -> None:
        self.lower(step, torch.randn(self.pool_PSC.shape))
        self.upper(**self.draw())

    def draw(self) -> dict[str, Tensor | None]:
        """The upper step's random numbers."""
        drawn: dict[str, Tensor | None] = dict.fromkeys(
            ("noise_BSC", "t_B", "contrast_BSC", "contrast_B")
        )
        if self.kept:
            rows = sum(len(latent_BSC) for latent_BSC, _ in self.kept.values())
            drawn["noise_BSC"] = torch.randn(rows, *self.pool_PSC.shape[1:])
            drawn["t_B"] = torch.randint(1, 1001, (rows,)) / 1000
        if self.contrast is not None:
            low = self.loss.rsc_t_min
            drawn["contrast_BSC"] = torch.randn(self.contrast[0].shape)
            drawn["contrast_B"] = low + (1 - low) * torch.rand(len(self.contrast[0]))
        return drawn

    def lower(self, step: int, noise_BSC: Tensor) -> Terms:
        loss = self.loss
        index, fresh = (torch.from_numpy(place) for place in self.case.places(step))
        t_B, next_B = self.sigmas[index], self.sigmas[index + 1]
        x_BSC = torch.where(fresh[:, None, None], noise_BSC, self.pool_PSC)
        with self.flux.frozen():
            both = [torch.cat(p) for p in zip(self.anchor.encoded, self.concept.encoded)]  # noqa: B905
            v, _ = self.flux.velocity(
                x_BSC.repeat(2, 1, 1), t_B.repeat(2), both, guidance=loss.teacher_guidance
            )
            anchor_BSC, concept_BSC = v.chunk(2)
            target_BSC = anchor_BSC - loss.eta * (concept_BSC - anchor_BSC)
        v, cols = self.flux.velocity(
            x_BSC,
            t_B,
            self.concept.encoded,
            guidance=self.guidance,
            columns=self.concept.columns,
        )
        mass_LB = torch.stack([cols_BHQN.sum(-1).mean((1, 2)) for cols_BHQN in cols])
        terms = {"esd": (v - target_BSC).square().mean(), "attn": mass_LB.mean()}
        self._update(terms, self.optimisers[0])
        self.pool_PSC.copy_(x_BSC + (next_B - t_B)[:, None, None] * v.detach())
        return terms

    def upper(self, *, noise_BSC, t_B, contrast_BSC, contrast_B) -> Terms:
        terms: Terms = {}
        if self.kept:
            latents, prompts = zip(*self.kept.values())  # noqa: B905
            x_BSC = _noised(torch.cat(latents), noise_BSC, t_B)
            text = [torch.cat(part) for part in zip(*(text.encoded for text in prompts))]  # noqa: B905
            v, _ = self.flux.velocity(x_BSC, t_B, text, guidance=self.guidance)
            row = 0
            for name, (latent_BSC, prompt) in self.kept.items():
                part = slice(row, row + len(latent_BSC))
                row = part.stop
                if name == "lora":
                    target_BSC = noise_BSC[part] - latent_BSC
                else:
                    with self.flux.frozen():
                        target_BSC, _ = self.flux.velocity(
                            x_BSC[part], t_B[part], prompt.encoded, guidance=self.guidance
                        )
                terms[name] = (v[part] - target_BSC).square().mean()
        if self.contrast is not None:
            terms["rsc"] = self._rsc(contrast_BSC, contrast_B)
        self._update(terms, self.optimisers[1])
        return terms

    def _rsc(self, noise_BSC: Tensor, t_B: Tensor) -> Tensor:
        latent_BSC, concept, others = self.contrast  # pyright: ignore
        x_BSC = _noised(latent_BSC, noise_BSC, t_B)
        each = len(others.t5_BTD) // len(x_BSC)
        with torch.no_grad():
            other_BQ = self._feature(
                x_BSC.repeat_interleave(each, 0), t_B.repeat_interleave(each), others
            )
        un_BQ = self._feature(x_BSC, t_B, concept)
        near_BW = cosine(un_BQ[:, None], other_BQ.unflatten(0, (-1, each))) / self.loss.tau
        to_irrelevant_B = near_BW[:, 1:].logsumexp(1)
        return (torch.logaddexp(near_BW[:, 0], to_irrelevant_B) - to_irrelevant_B).mean()

    def _feature(self, x_BSC: Tensor, t_B: Tensor, text: Text) -> Tensor:
        cols_BHQN = self.flux.columns(x_BSC, t_B, text, guidance=self.guidance)
        image_BQ = cols_BHQN[:, :, -x_BSC.shape[1] :].mean(1).sum(-1)
        return image_BQ / text.columns[1].sum(-1, keepdim=True)

    def _update(self, terms: Terms, optimiser: torch.optim.Optimizer) -> None:
        """One step on the weighted sum; adds `total` and `grad_norm` to the terms."""
        total = sum(getattr(self.loss, name) * term for name, term in terms.items())
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # pyright: ignore
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.flux.parameters])
        terms |= {"total": total, "grad_norm": norm}  # pyright: ignore
        optimiser.step()


class CompiledPair(Pair):
    """The same with the model's forward passes under torch.compile."""

    compiled = True


def cosine(a: Tensor, b: Tensor) -> Tensor:
    squares = (a.square().sum(-1) * b.square().sum(-1)).clamp_min(1e-20)
    return (a * b).sum(-1) / squares.sqrt()


def _noised(latent_BSC: Tensor, noise_BSC: Tensor, t_B: Tensor) -> Tensor:
    t = t_B[:, None, None]
    return (1 - t) * latent_BSC + t * noise_BSC
