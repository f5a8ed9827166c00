"""Class sets for zero-shot classification: the paper's own, and any other."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """What a picture is classified as.

    Attributes:
      name: of the set; the head of a reading's (head, label) pair.
      template: a class's prompt, with `{}` where its label stands.
      labels: of the classes.
    """

    name: str
    template: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise ValueError(f"template {self.template!r} has to hold {{}} once, for the label")
        if len(self.labels) < 2:
            raise ValueError(f"class set {self.name!r} needs two classes at least; add some")
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise ValueError(f"class set {self.name!r} holds {twice[0]!r} twice; keep one of them")

    @property
    def prompts(self) -> tuple[str, ...]:
        """One a label, in their order."""
        return tuple(self.template.replace("{}", label) for label in self.labels)


ENTITY = ClassSet(
    "entity",
    "A photo of {}",
    (
        "Fruit",
        "Ball",
        "Car",
        "Airplane",
        "Tower",
        "Building",
        "Celebrity",
        "Shoes",
        "Cat",
        "Dog",
    ),
)
ABSTRACTION = ClassSet(
    "abstraction",
    "An Art in the style of {}",
    (
        "Pablo Picasso",
        "Salvador Dali",
        "Claude Monet",
        "Vincent Van Gogh",
        "Rembrandt van Rijn",
        "Frida Kahlo",
        "Edvard Munch",
        "Leonardo da Vinci",
        "Explosions",
        "Environmental Simulation",
    ),
)
# The paper's template is "A [Relationship] B"; who A and B are it leaves open.
RELATIONSHIP = ClassSet(
    "relationship",
    "a man {} a woman",
    (
        "Shake Hand",
        "Kiss",
        "Hug",
        "In",
        "On",
        "Back to Back",
        "Jump",
        "Burrow",
        "Hold",
        "Amidst",
    ),
)
TABLE_6 = {classes.name: classes for classes in (ENTITY, ABSTRACTION, RELATIONSHIP)}
"""The ten concepts of each category in Table 6 of EraseAnything (ICML 2025), by category."""
