"""What attacks on a small random pipeline are tried on: a task about a cat, a detector."""

from __future__ import annotations

from ea_jax.attacks.trials import Victim
from ea_jax.evaluate import metrics
from ea_jax.evaluate.probes import Probe, Reading
from ea_jax.evaluate.task import Task

CAT = frozenset({("object", "cat")})
LENGTH, BASE = 32, Victim("base")


def task(*said: str, first: int = 0) -> Task:
    probes = [Probe(text, first + n, ((metrics.CONCEPT.name, CAT),)) for n, text in enumerate(said)]
    other = Probe("a red dog", first + 90, ((metrics.OTHERS.name, CAT),))
    return Task("toy", "cat", (*probes, other), metrics.METRICS, ("kitty",))


class Bright:
    """Sees a cat in every picture that is brighter than most."""

    name, version = "bright", "1"

    def __call__(self, images_BHWC, prompts):
        return [Reading(CAT if image.mean() > 0.5 else frozenset(), True) for image in images_BHWC]
