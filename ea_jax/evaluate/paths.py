"""Where a concept's content travels in a FLUX: pooled CLIP, T5's outputs, dual and single blocks.

Pictures are painted with parts of the text exchanged for another concept's, and a detector says
whose concept they show. It works on any FLUX pipeline for which there is a detector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from ea_jax.concepts import spans
from ea_jax.evaluate.metrics import Rate
from ea_jax.evaluate.probes import Detector
from ea_jax.flux.columns import ColumnGain
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.transformer import Text

ROWS = {
    "as is": "pooled of c, T5 of c",
    "pooled": "pooled of another concept, T5 of c",
    "anchor": "pooled of c, T5 of the anchor",
    "swapped": "pooled of c, T5 of c with the outputs at idx of another concept's",
    "dual": "as is, columns idx zeroed in the dual blocks",
    "single": "as is, columns idx zeroed in the single blocks",
    "both": "as is, columns idx zeroed in both",
}
# Of T5's concept, and of the other one.
BARS = {"pooled": (">= 95", "<= 3"), "anchor": ("", "<= 10"), "swapped": ("<= 20", ">= 75")}


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Two prompts alike but for their concept.

    Attributes:
      prompt, other_prompt: with the concept c, and with another one.
      anchor: the prompt without the concept.
      word, other_word: the concepts as they stand in their prompts.
      label, other_label: (head, label) under which the detector reports them.
    """

    prompt: str
    other_prompt: str
    anchor: str
    word: str
    other_word: str
    label: tuple[str, str]
    other_label: tuple[str, str]


def table(
    pipeline: Pipeline,
    exchanges: Sequence[Exchange],
    detector: Detector,
    *,
    seed: int,
    batch: int,
    text_length: int,
    guidance: float | None = None,
    on_batch: Callable[[str, int], None] = lambda row, done: None,
) -> dict[str, tuple[Rate, Rate]]:
    """Rates at which the own and the other concept are seen, for each of `ROWS`.

    Args:
      pipeline: with all parts loaded.
      exchanges: one picture a row each; their number is cut to whole batches.
      detector: reads the pictures.
      seed: of the first picture; the n-th has the n-th seed from there, in all rows.
      batch: pictures painted at once.
      text_length: T5 tokens.
      guidance: None is the pipeline's usual one.
      on_batch: told the row and how many of its pictures are done.
    """
    rates = {row: (Rate(0, 0), Rate(0, 0)) for row in ROWS}
    for first in range(0, len(exchanges) - batch + 1, batch):
        part = exchanges[first : first + batch]
        variants = _variants(pipeline, part, text_length)
        for row, (text, gain) in variants.items():
            z_BhwC = pipeline.sample(
                text,
                seeds=range(seed + first, seed + first + batch),
                guidance=guidance,
                column_gain=gain,
            )
            readings = detector(np.asarray(pipeline.decode(z_BhwC)), [e.prompt for e in part])
            own, other = rates[row]
            for exchange, reading in zip(part, readings, strict=True):
                own += Rate(int(reading.valid and exchange.label in reading.seen), 1)
                other += Rate(int(reading.valid and exchange.other_label in reading.seen), 1)
            rates[row] = own, other
            on_batch(row, first + batch)
    return rates


def _variants(
    pipeline: Pipeline, part: Sequence[Exchange], text_length: int
) -> dict[str, tuple[Text, ColumnGain]]:
    encode = lambda prompts: pipeline.encode(prompts, max_length=text_length)  # noqa: E731
    text, tokens = encode([e.prompt for e in part])
    other, other_tokens = encode([e.other_prompt for e in part])
    anchor, _ = encode([e.anchor for e in part])
    prompts, others = [e.prompt for e in part], [e.other_prompt for e in part]
    idx_BN, mask_BN = spans.columns(tokens, prompts, [[e.word] for e in part])
    theirs_BN, _ = spans.columns(other_tokens, others, [[e.other_word] for e in part])
    t5_BTD = np.array(text.t5_BTD)
    gain_BT = np.ones(t5_BTD.shape[:2], np.float32)
    for row, exchange in enumerate(part):
        count = int(mask_BN[row].sum())
        idx = idx_BN[row, :count]
        # The other concept's outputs in order; the last one again where it has fewer.
        theirs = _fill(theirs_BN[row], count)
        t5_BTD[row, idx] = np.asarray(other.t5_BTD)[row, theirs]
        gain_BT[row, idx] = 0
        if not count:
            raise ValueError(f"{exchange.word!r} has no tokens in {exchange.prompt!r}")
    # Gains of 1 stand where nothing is zeroed: one program paints all rows.
    zero, one = jnp.asarray(gain_BT), jnp.ones_like(gain_BT)
    plain = ColumnGain(dual_BT=one, single_BT=one)
    return {
        "as is": (text, plain),
        "pooled": (Text(t5_BTD=text.t5_BTD, pooled_BD=other.pooled_BD), plain),
        "anchor": (Text(t5_BTD=anchor.t5_BTD, pooled_BD=text.pooled_BD), plain),
        "swapped": (Text(t5_BTD=jnp.asarray(t5_BTD), pooled_BD=text.pooled_BD), plain),
        "dual": (text, ColumnGain(dual_BT=zero, single_BT=one)),
        "single": (text, ColumnGain(dual_BT=one, single_BT=zero)),
        "both": (text, ColumnGain(dual_BT=zero, single_BT=zero)),
    }


def _fill(positions_N: np.ndarray, count: int) -> np.ndarray:
    real = positions_N[: 1 + int(np.flatnonzero(positions_N).max(initial=0))]
    return real[np.minimum(np.arange(count), len(real) - 1)]


def markdown(rates: dict[str, tuple[Rate, Rate]]) -> str:
    """The path table."""
    lines = [
        "| text | concept of T5's caption seen | the other's seen | bars | pictures |",
        "|---|---|---|---|---|",
    ]
    for row, (own, other) in rates.items():
        shown = f"{own.percent:.1f}", f"{other.percent:.1f}"
        if row == "anchor":  # c is pooled CLIP's concept here, and T5 has none
            shown = "", shown[0]
        bars = ", ".join(bar for bar in BARS.get(row, ()) if bar) or "reported"
        lines.append(f"| {ROWS[row]} | {shown[0]} | {shown[1]} | {bars} | {own.total} |")
    return "\n".join(lines) + "\n"
