"""What a method is: how its state begins, what each of its steps does, and the edit it ends in.

    method = make(ready)
    state = method.init(key)
    for step in range(method.steps):
        state = method.before(state, weights, step)
        for level in method.levels:
            state, terms = level.step(state, weights, level.batch(step))
    edit = method.edit(state, weights)

The state is a pytree, saved whole and restored bit for bit; all else is a function of the run's
settings and the step. A closed form has no steps: its `edit` solves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ea_jax.concepts.bank import PromptBank
from ea_jax.concepts.kept_words import Vocabulary
from ea_jax.edits import Edit
from ea_jax.flux.transformer import Weights
from ea_jax.settings import Settings

State = Any
Batch = Any
Terms = dict[str, jax.Array]


class Level(NamedTuple):
    """One of the programs that a method runs at every step.

    Attributes:
      name: of its terms, in the log.
      batch: what it trains on at a step, from 0: in host memory, a function of seed and step.
      step: jitted; uses up the state it is given, and returns its terms as scalars by name.
    """

    name: str
    batch: Callable[[int], Batch]
    step: Callable[[State, Weights, Batch], tuple[State, Terms]]


def unchanged(state: State, weights: Weights, step: int) -> State:
    """A method's `before` where nothing is to be done between steps."""
    del weights, step
    return state


class Method(NamedTuple):
    """A way to erase a concept.

    Attributes:
      steps: of a run; 0 for a closed form.
      init: a run's key -> the state at its start; traced, so that its shapes are known.
      edit: what a state amounts to, at any step.
      levels: programs of a step, in the order that they run.
      before: what the host does to the state before a step: a search, or before step 0 what needs
        the weights. Raises NonFiniteError where that gives NaN or Inf.
    """

    steps: int
    init: Callable[[jax.Array], State]
    edit: Callable[[State, Weights], Edit]
    levels: tuple[Level, ...] = ()
    before: Callable[[State, Weights, int], State] = unchanged


def without_steps(edit: Callable[[Weights], Edit]) -> Method:
    """A method that trains nothing: its edit depends on the frozen weights alone."""
    return Method(0, lambda key: {}, lambda state, weights: edit(weights))


def _accepted(bank: PromptBank) -> None:
    """Any prompts will do."""
    del bank


class Needs(NamedTuple):
    """What is prepared for a method beside prompts and weights.

    Attributes:
      contrast: sentences with a synonym and with irrelevant words in the concept's place.
      concept: pictures of the concept's sentences.
      keep: pictures of concept.preserve_prompts.
      anchor: how many pictures of each concept's anchors.
      related: likewise, where no prompt to keep is about what is nearest to a concept.
      columns: the softmax columns of the concept's tokens.
      vocabulary: words whose outputs are kept.
      check: given the encoded prompts before weights are loaded; raises ValueError if they lack
        what the method needs.
    """

    contrast: bool = False
    concept: bool = False
    keep: bool = False
    anchor: int = 0
    related: int = 0
    columns: bool = False
    vocabulary: Vocabulary = Vocabulary()
    check: Callable[[PromptBank], None] = _accepted


def nothing(settings: Settings) -> Needs:
    """What a method needs that takes prompts and weights, and nothing beside them."""
    del settings
    return Needs()
