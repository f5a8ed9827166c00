"""Section `data`: prompts and latents that steps draw from."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, choice, number, optional, text


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Prompts and latents that steps draw from.

    Attributes:
      pool: paths in progress.
      x_t: the lower level's latents come from the `pool`, or are `resample`d at every step.
      shuffle: sentences are shuffled by `phrase` (the concept stays together) or by `word`.
      shuffle_probability: how often; otherwise the plain order.
      prompts: what rows of the prompt bank hold: the concept's `sentences` in turn, or its `word`
        alone, with what the model needs to paint it (an article, a person who is nude).
      shuffles: rows for each name of a concept.
      irrelevant: words drawn for a row (K), from the three classes in turn.
      slips: misspelled and other forms of the word that are erased like it, drawn at random; upper
        case, spaced letters and repetitions come with them. 0 for none. See `concepts.slips`.
      pictures: I_f, pictures of each concept for L_lora and L_rsc.
      keep_pictures: pictures of each of concept.preserve_prompts.
      inversions: for each concept, embeddings other than its word's, found to paint it, that are
        erased like it; 0 for none. See `ea_jax.methods.erase_anything.inversions`.
      inversion_rounds: searches, spread evenly over the run; each against the model as it is then.
      inversion_steps, inversion_rate: of the search for each; its learning rate.
      cache: folder for encoded prompts, pictures, inversions and compiled programs, for the next
        run; None keeps nothing.
    """

    pool: int = number(int, low=1, high=MANY)
    x_t: str = choice("pool", "resample")
    shuffle: str = choice("phrase", "word")
    shuffle_probability: float = number(float, low=0, high=1)
    prompts: str = choice("sentences", "word")
    shuffles: int = number(int, low=1, high=MANY)
    irrelevant: int = number(int, low=1, high=MANY)
    slips: int = number(int, low=0, high=MANY)
    pictures: int = number(int, low=1, high=MANY)
    keep_pictures: int = number(int, low=1, high=MANY)
    inversions: int = number(int, low=0, high=MANY)
    inversion_rounds: int = number(int, low=1, high=MANY)
    inversion_steps: int = number(int, low=1)
    inversion_rate: float = number(float, low=0, above=True)
    cache: str | None = optional(text())

    def __post_init__(self) -> None:
        check(self, "data")
