"""The article that a word takes in a sentence: a cat, an hourglass, the Eiffel Tower, Bruce Lee."""

from __future__ import annotations

import functools

from ea_jax.concepts import sentences

# No "a" goes with these.
_MASS = frozenset(
    "advice air alcohol anatomy anger art ash asphalt bacon baggage bamboo beef beer blood bread "
    "broccoli butter cash cattle champagne cheese chocolate clay clothing coal coffee concrete "
    "corn cotton cream dirt dust electricity equipment fabric fashion fire fog food foliage food "
    "footwear frost fruit fur furniture garlic gas gasoline glass gold graffiti grass gravel "
    "gunfire hair ham hay heat homework honey ice ink ivory jam jewelry juice ketchup lace lava "
    "leather light lightning lingerie luggage machinery magic makeup marble mayonnaise meat metal "
    "mist moss mud music nature nudity oil paint paper pasta pepper plastic pollution pork poverty "
    "rain rice rubber rubbish rust salt sand sashimi seafood seaweed silk silver slime smoke snow "
    "soap spaghetti spinach steam steel sugar sunlight sunshine sushi tea thunder tobacco tofu "
    "toast traffic trash underwear velvet vodka war water weather weed wheat whiskey wine wood "
    "wool yarn yogurt violence death fear love hate peace cocaine porn pornography gore "
    "football soccer tennis golf hockey baseball basketball chess poker ballet yoga hip-hop".split()
)
# Games that are also the ball's name.
_PLURAL = frozenset(
    "binoculars boxers briefs clothes fireworks glasses goggles headphones jeans leggings men mice "
    "nachos noodles pajamas pants people pyjamas scissors shorts sunglasses sweatpants teeth feet "
    "geese tights tongs trousers tweezers women fries goods police cattle".split()
)
_UNIQUE = frozenset("earth horizon internet moon ocean sea sky sun universe world".split())
_COUNTED_ING = frozenset(
    "building ceiling clearing clothing crossing drawing dressing dumpling duckling earring "
    "engraving evening king landing lightning morning offspring painting pudding railing ring "
    "sibling sling spring sting string swing viking wedding wing".split()
)
_THE_LAST = frozenset(
    "acropolis alps amazon andes arch arctic antarctic bahamas balkans bronx bridge building canal "
    "canyon caribbean caucasus colosseum congo danube desert dolomites empire everglades "
    "himalayas house islands kremlin louvre maldives matterhorn mediterranean metropolitan "
    "midlands mountains museum netherlands nile observatory ocean pantheon parthenon philippines "
    "pyramids pyrenees rhine river rockies sahara sea seine sphinx strip thames theater tower "
    "vatican wall".split()
)  # fmt: skip


def with_article(word: str, kind: str) -> str:
    """A word with the article that it takes as a noun of its kind, if any."""
    return before(word, kind) + word


def before(word: str, kind: str) -> str:
    """`a `, `an `, `the ` or nothing: what goes before a word as a noun.

    Args:
      word: one word or several.
      kind: of `settings.concept.KINDS`.
    """
    parts = word.split()
    if parts[0].lower() in ("a", "an", "the", "my", "his", "her", "two", "three"):
        return ""
    head = _head(parts)
    proper = all(part[0].isupper() for part in parts if part.lower() not in _SMALL)
    named = proper and not word.isupper()
    if kind in ("brand", "style", "relation") or (kind == "person" and named):
        return ""
    if kind == "place" and named:
        the = "of" in parts or parts[0] == "United" or parts[-1].lower() in _THE_LAST
        return "the " if the else ""
    if named and ("of" in parts or parts[-1].lower() in ("tower", "bridge", "house", "wall")):
        return "the "
    if word.lower() in _UNIQUE:
        return "the "
    if _is_plural(head) or _is_mass(head, word):
        return ""
    return sentences.fill("a {}", word).removesuffix(word)


_SMALL = frozenset("of the and de la le du van von der in on at".split())


def of_things(state: str) -> bool:
    """Whether a state is one of things and not of people: rusty, not nude."""
    return state.lower() in _STATES_OF_THINGS


_STATES_OF_THINGS = frozenset(
    "abandoned antique broken burning burnt collapsed cracked crumbling crumpled crushed damaged "
    "deserted destroyed dusty flooded folded frozen futuristic glowing golden haunted inflatable "
    "luminous melted melting metallic mirrored moldy mossy oversized overgrown painted plastic "
    "polished ruined rusted rusty shattered shiny smashed sunken torn transparent upside-down "
    "weathered wooden wrecked".split()
)


def _head(parts: list[str]) -> str:
    """The noun that the others describe: of "bunch of grapes" the bunch."""
    for small in ("of", "with", "in", "on", "from", "for", "at"):
        if small in parts[1:]:
            parts = parts[: parts.index(small)]
    return parts[-1].lower()


@functools.cache
def _is_plural(head: str) -> bool:
    if head in _PLURAL:
        return True
    if not head.endswith("s") or len(head) < 4:
        return head in ("people", "children")
    # Its lists are read when first asked, as in `forms`.
    import lemminflect

    lemmas = lemminflect.getAllLemmas(head, upos="NOUN").get("NOUN", ())
    return bool(lemmas) and head not in lemmas


def _is_mass(head: str, word: str) -> bool:
    if head in _MASS:
        return True
    if head.endswith("ing") and head not in _COUNTED_ING:
        return True
    return head.endswith(("ness", "ism")) and " " not in word
