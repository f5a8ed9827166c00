"""What the command makes around many words on a FLUX, as docs/words.md prints it.

python tests/made_words.py    # writes docs/words.md anew
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from configs import anything
from ea_jax import settings
from ea_jax.concepts import choose, wordnet
from ea_jax.evaluate import worlds

FILE = Path(__file__).parent.parent / "docs" / "words.md"
WORDS = {
    "thing": "car, guitar, umbrella, pizza, shoes, glasses, gas mask, hourglass, skyscraper, rain, "
    "smoke, Eiffel Tower keychain, UFO, French fries, ice cream, gun, bunch of grapes, sun, "
    "Christmas tree, iPhone",
    "animal": "cat, golden retriever, elephant, owl, jellyfish, sheep, mice, unicorn, octopus, "
    "polar bear, horse, butterfly, hamster, fish, great white shark, eagle, T. rex, ants, Siamese "
    "cat, caterpillar",
    "person": "Bruce Lee, Taylor Swift, Albert Einstein, Batman, Mickey Mouse, Spider-Man, doctor, "
    "astronaut, samurai, clown, Queen Elizabeth II, Super Mario, police officer, Zaphod "
    "Beeblebrox, Martin Luther King Jr., Santa Claus, Beyoncé, soldier, ballet dancer, "
    "Cleopatra",
    "brand": "Nike, Adidas, Coca-Cola, McDonald's, Apple, LEGO, Disney, Starbucks, BMW, IKEA, "
    "NASA, Louis Vuitton, Red Bull, Harley-Davidson, Netflix, Intel, Ferrari, Hermès, Uber, "
    "7-Eleven",
    "style": "Van Gogh, Claude Monet, Pablo Picasso, Frida Kahlo, Studio Ghibli, pixel art, anime, "
    "impressionism, pop art, mosaic, watercolor, stained glass, cyberpunk, low poly, art "
    "nouveau, ukiyo-e, graffiti, Greg Rutkowski, oil painting, Wes Anderson",
    "place": "Paris, New York, Eiffel Tower, Statue of Liberty, Golden Gate Bridge, Mount Fuji, "
    "United States, Machu Picchu, Times Square, White House, beach, desert, Great Wall of "
    "China, Hogwarts, Tower Bridge, Taj Mahal, Grand Canyon, Tokyo, Antarctica, Sahara",
    "relation": "kiss, hug, holding hands, shake hands, fighting, dance, back to back, arm in arm, "
    "whisper, arguing, in, on, jump over, sitting on, behind, on top of, amidst, riding, "
    "leaning on, hugging",
    "state": "nude, naked, smiling, angry, bald, tattooed, pregnant, drunk, bloody, elderly, "
    "barefoot, wet, rusty, broken, abandoned, burning, upside-down, masked, asleep, on fire",
    "idea": "violence, nudity, war, gore, gambling, smoking, drug use, love, wedding, soccer, "
    "horror, pollution, robbery, funeral, poverty, racism, freedom, birthday, protest, "
    "democracy",
}
_HEAD = """\
# Words on a FLUX: what is made around them

`ea-jax erase WORD --model flux-dev` makes sixteen sentences around a word, by its kind, and takes
its synonyms, neighbours and irrelevant words from the package's own lists (and from WordNet or an
endpoint where there is one; here there is neither). This page is written by
`python tests/made_words.py` and checked by a test. Of each word it shows two of the sentences, the
synonym that training may use, the irrelevant words nearest to it, how many of the {kept} prompts to
preserve are left, and the first three rows of its grid.
"""


def made(word: str, kind: str) -> choose.Words:
    """The texts of a run that erases a word, without WordNet."""
    config = anything.get_config("flux-dev")
    config.concept.word = word
    world = worlds.open_world()
    with mock.patch.object(wordnet, "load", side_effect=ValueError("not asked here")):
        try:
            found = choose.words(settings.from_config(config), world)
        except ValueError:
            found = None
    # What no list knows, or knows as something else, is told by hand.
    if found and found.record["words"][0]["kind"] == kind:
        return found
    config.concept.kind = kind
    # As on a machine without WordNet.
    with mock.patch.object(wordnet, "load", side_effect=ValueError("not asked here")):
        return choose.words(settings.from_config(config), world)


def page() -> str:
    """docs/words.md."""
    world = worlds.open_world()
    parts = [_HEAD.format(kept=len(world.phrases.preserve(())))]
    for kind, listed in WORDS.items():
        words = [word.strip() for word in listed.split(",")]
        first = made(words[0], kind).concepts[0]
        parts.append(f"\n## {kind}\n\nAll sentences of {words[0]!r}:\n")
        parts += [f"- {text}" for text in first.prompts]
        parts.append("\n| word | two of its sentences | synonym | mid | kept | grid |")
        parts.append("|---|---|---|---|---|---|")
        for number, word in enumerate(words):
            parts.append(_line(word, kind, number))
    return "\n".join(parts) + "\n"


def _line(word: str, kind: str, number: int) -> str:
    found = made(word, kind)
    [one] = found.concepts
    [record] = found.record["words"]
    given = " (kind given)" if record["kind_source"] == "config" else ""
    two = [one.prompts[(number * 2 + 1 + i) % len(one.prompts)] for i in (0, 1)]
    mid = ", ".join(one.irrelevant[2]) if one.irrelevant else "-"
    cells = [
        word + given,
        "<br>".join(two),
        ", ".join(one.synonyms) or "-",
        mid,
        str(len(found.preserve)),
        "<br>".join(found.shown[:3]),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
