"""Whether the peer computes what this project computes: losses, gradients, the pool."""

from __future__ import annotations

import numpy as np
import ours
import torch
import torch_pair

BAR = 1e-3


def agree(mine: ours.Pair, theirs: torch_pair.Pair) -> dict[str, float]:
    """Runs pair 0 of a fresh peer on the random numbers that this project draws.

    Returns:
      Relative difference of every term, of each level's gradient (of its norm), of the pool.
    Raises:
      ValueError: one of them is above `BAR`: the two don't compute the same, and a comparison of
        their speed would mean nothing.
    """
    noise_BSC, upper = mine.draws()
    found: dict[str, float] = {}
    # The upper step starts from the same adapters as the lower one, not from its result.
    adapters = [parameter.detach().clone() for parameter in theirs.flux.parameters]
    expected = mine.gradients
    for level, (numbers, gradient, pool_PSC) in expected.items():
        with torch.no_grad():
            for parameter, saved in zip(theirs.flux.parameters, adapters, strict=True):
                parameter.copy_(saved)
        if level == "lower":
            terms = theirs.lower(0, torch.from_numpy(noise_BSC.copy()))
            found["pool"] = _far(theirs.pool_PSC.numpy(), pool_PSC)
        else:
            drawn = {
                name: None if value is None else torch.from_numpy(value.copy())
                for name, value in upper.items()
            }
            terms = theirs.upper(**drawn)
        if set(terms) != set(numbers):
            raise ValueError(f"terms {sorted(terms)} of the peer are not {sorted(numbers)}")
        for name, value in terms.items():
            label = f"{level} {name}" if name in ("total", "grad_norm") else name
            found[label] = _far(np.array(value.item()), np.array(numbers[name]))
        layers = gradient["transformer_blocks"]["attn"]
        for name, (A, B) in theirs.flux.gradients().items():
            far = max(_far(A, layers[name]["A"]), _far(B, layers[name]["B"]))
            found[f"{level} grad {name}"] = far
    above = {name: value for name, value in found.items() if not value <= BAR}
    if above:
        raise ValueError(f"the peer's numbers differ by more than {BAR}: {above}")
    return found


def _far(theirs: np.ndarray, mine: np.ndarray) -> float:
    return float(np.linalg.norm(theirs - mine) / np.linalg.norm(mine))
