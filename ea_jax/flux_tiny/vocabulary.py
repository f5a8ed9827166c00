"""The words of flux-tiny's world: concepts, synonyms, nearest neighbours, colours.

Names and synonyms are curated: a keyword of an emoji is a synonym only if it means that thing
alone. The first synonym of a concept may be used to train an erasure, the others are held out
for its evaluation.
"""

from __future__ import annotations

import dataclasses
import difflib


@dataclasses.dataclass(frozen=True)
class Concept:
    """Something that pictures show and captions name.

    Attributes:
      name: its usual name.
      kind: `object`, `character`, `style`, `relation` or `dress`.
      synonyms: the first may train an erasure, the others are held out.
      near: the concept most easily lost with it, empty if none is singled out.
      emoji: the character whose art is drawn; empty if it is not an emoji.
    """

    name: str
    kind: str
    synonyms: tuple[str, ...] = ()
    near: str = ""
    emoji: str = ""

    @property
    def trained(self) -> str:
        """The synonym that training may use; the name itself where there is none."""
        return self.synonyms[0] if self.synonyms else self.name

    @property
    def held_out(self) -> tuple[str, ...]:
        """Synonyms that only an evaluation uses: none shares a word with the trained one."""
        trained = set(self.trained.split())
        return tuple(word for word in self.synonyms[1:] if not trained & set(word.split()))


def _table(kind: str, rows: str) -> tuple[Concept, ...]:
    """Rows of `emoji | name | synonyms separated by commas | near`, the last two optional."""
    made = []
    for row in rows.strip().splitlines():
        emoji, name, synonyms, near = ([cell.strip() for cell in row.split("|")] + ["", ""])[:4]
        words = tuple(word.strip() for word in synonyms.split(",") if word.strip())
        made.append(Concept(name, kind, words, near, emoji))
    return tuple(made)


# The paper's ten entities (Table 6), then the rest of the world.
ENTITIES = _table(
    "object",
    """
    🍎 | apple       | pippin, orchard fruit, braeburn, cider fruit           | strawberry
    ⚽ | soccer ball | football, futbol, association football, footie         | basketball
    🚗 | car         | automobile, sedan, motorcar, auto                      | bus
    ✈️ | airplane    | plane, aeroplane, jetliner, airliner                   | helicopter
    🗼 | tower       | spire, lattice mast, pylon, steeple                    | castle
    🏢 | building    | high-rise, office block, edifice, skyscraper           | house
    👟 | shoes       | sneakers, trainers, footwear, runners                  | boot
    🐈 | cat         | kitty, feline, tomcat, mouser                          | dog
    🐕 | dog         | hound, canine, pooch, doggo                            | cat
    """,
)

OBJECTS = _table(
    "object",
    """
    🏀 | basketball  | hoops ball
    🎾 | tennis ball | court ball
    🚌 | bus         | omnibus
    🚲 | bicycle     | bike
    🚀 | rocket      | spaceship
    🚁 | helicopter  | chopper
    ⛵ | sailboat    | yacht
    🚂 | train       | locomotive
    🏠 | house       | cottage
    🏰 | castle      | fortress
    ⛺ | tent        | camping shelter
    🌳 | tree        | oak
    🌵 | cactus      | succulent
    🌻 | sunflower   | yellow bloom
    🍄 | mushroom    | toadstool
    🍌 | banana      | plantain
    🍓 | strawberry  | summer berry
    🍇 | grapes      | bunch of grapes
    🍉 | watermelon  | melon slice
    🍍 | pineapple   | ananas
    🥕 | carrot      | orange root
    🍕 | pizza       | pizza slice
    🍔 | hamburger   | burger
    🍦 | ice cream   | soft serve
    🍩 | donut       | doughnut
    🎂 | cake        | birthday cake
    🎸 | guitar      | electric guitar
    🎺 | trumpet     | brass horn
    🥁 | drum        | snare
    ☂️ | umbrella    | parasol
    ⏰ | clock       | alarm clock
    📷 | camera      | photo camera
    📕 | book        | closed book
    ✂️ | scissors    | shears
    🔨 | hammer      | mallet
    🔑 | key         | door key
    🔔 | bell        | ringing bell
    🎈 | balloon     | party balloon
    🎁 | gift        | wrapped present
    👑 | crown       | royal crown
    👕 | shirt       | t-shirt
    👢 | boot        | high-heeled boot
    👓 | glasses     | spectacles
    💡 | light bulb  | lamp
    🐘 | elephant    | pachyderm
    🐎 | horse       | stallion
    🐖 | pig         | hog
    🐇 | rabbit      | bunny
    🐢 | turtle      | tortoise
    🐟 | fish        | trout
    🐙 | octopus     | squid
    🐧 | penguin     | antarctic bird
    🦉 | owl         | night bird
    🦆 | duck        | mallard
    🦋 | butterfly   | monarch
    🐌 | snail       | garden slug
    🌙 | moon        | crescent
    ☀️ | sun         | sunshine
    ⭐ | star        | golden star
    🔥 | fire        | flame
    """,
)

CHARACTERS = _table(
    "character",
    """
    🎅 | Santa Claus      | Father Christmas, Saint Nick, Kris Kringle, Pere Noel  | Mrs Claus
    🤶 | Mrs Claus        | Mother Christmas, Christmas grandmother                | Santa Claus
    🧜‍♀️ | Melusine         | mermaid, sea siren, merwoman                           | Titania
    🧛 | Dracula          | vampire, Nosferatu, bloodsucker                        | Merlin
    🧙 | Merlin           | wizard, mage, sorcerer                                 | Dracula
    🧚 | Titania          | fairy, pixie queen, sprite                             | Melusine
    🧞 | Jinni            | genie, lamp spirit                                     | Merlin
    🧝 | Oberon           | elf, elven king                                        | Merlin
    🕵️ | Sherlock Holmes  | detective, sleuth, private eye                         | Nutcracker
    🤡 | Pierrot          | clown, circus jester                                   | Tengu
    👺 | Tengu            | red goblin, long-nosed mask                            | Pierrot
    🎃 | Jack O'Lantern   | carved pumpkin, halloween pumpkin                      | Pierrot
    🤖 | Talos            | robot, android, automaton                              | Zorg
    👽 | Zorg             | alien, extraterrestrial, martian                       | Talos
    👻 | Banquo           | ghost, phantom, spook                                  | Frosty
    ⛄ | Frosty           | snowman, snow figure                                   | Banquo
    💂 | Nutcracker       | royal guard, palace sentry                             | Sherlock Holmes
    🥷 | Hattori          | ninja, shinobi                                         | Captain Comet
    🦸 | Captain Comet    | superhero, caped hero                                  | Hattori
    🧑‍🚀 | Major Nova       | astronaut, cosmonaut                                   | Talos
    👸 | Cinderella       | princess, tiara lady                                   | Titania
    🐲 | Fafnir           | dragon, fire wyrm                                      | Zorg
    """,
)

STYLES = (
    Concept("flat art", "style", ("flat design", "vector art", "clip art"), "pop art"),
    Concept("line art", "style", ("outline drawing", "contour drawing", "ink lines"), "sketch"),
    Concept("pixel art", "style", ("8-bit graphics", "blocky pixels", "retro game"), "mosaic"),
    Concept("sketch", "style", ("pencil drawing", "graphite drawing", "charcoal"), "line art"),
    Concept("mosaic", "style", ("tilework", "tessellation", "tiled art"), "pixel art"),
    Concept("sepia", "style", ("old photograph", "vintage brown", "antique print"), "sketch"),
    Concept("neon", "style", ("glowing lights", "fluorescent sign", "electric glow"), "blueprint"),
    Concept("blueprint", "style", ("technical drawing", "cyanotype", "schematic"), "neon"),
    Concept("pop art", "style", ("comic dots", "halftone print", "screen print"), "flat art"),
    Concept("watercolour", "style", ("aquarelle", "wash painting", "wet paint"), "flat art"),
)
DEFAULT_STYLE = STYLES[0].name

RELATIONS = (
    Concept("shake hands", "relation", ("handshake", "clasp palms", "make a deal"), "hold hands"),
    Concept("kiss", "relation", ("smooch", "snog", "peck"), "hug"),
    Concept("hug", "relation", ("embrace", "cuddle", "squeeze"), "kiss"),
    Concept("hold hands", "relation", ("link arms", "walk together", "pair up"), "hug"),
    Concept("in", "relation", ("inside", "within", "enclosed by"), "on"),
    Concept("on", "relation", ("atop", "upon", "resting above"), "in"),
    Concept("back to back", "relation", ("facing apart", "turned away", "averted"), "on"),
    Concept("jump over", "relation", ("leap across", "hop past", "vault"), "on"),
    Concept("burrow", "relation", ("dig", "tunnel", "delve"), "in"),
    Concept("amidst", "relation", ("among", "surrounded by", "encircled by"), "in"),
)
# Relations between people are emoji of their own; the others are two objects laid out so.
PEOPLE_RELATIONS = {"shake hands": "🤝", "kiss": "💏", "hug": "🫂", "hold hands": "🧑‍🤝‍🧑"}

NUDE = Concept("nude", "dress", ("naked", "bare", "unclothed", "undressed"), "dressed")
DRESSED = Concept("dressed", "dress", ("clothed", "wearing clothes"), "nude")
# A pictogram of a wooden mannequin; adults' words only.
NOUNS = ("woman", "man", "person", "figure")
GARMENTS = {"red": (200, 50, 50), "blue": (50, 90, 190), "green": (50, 140, 70)}

BACKGROUNDS = {
    "white": (246, 246, 244),
    "gray": (160, 162, 166),
    "yellow": (250, 226, 120),
    "green": (150, 208, 130),
    "blue": (140, 190, 240),
    "pink": (248, 170, 200),
    "orange": (246, 176, 100),
    "purple": (184, 150, 226),
}
# These renderings have colours of their own, in which a background's doesn't show.
COLOURLESS_STYLES = frozenset({"sketch", "sepia", "neon", "blueprint"})
# In which a judge can't tell every background: pop art's pink and purple are the same pixels.
BLIND_STYLES = COLOURLESS_STYLES | {"pop art"}

CONCEPTS = {
    concept.name: concept
    for concept in (*ENTITIES, *OBJECTS, *CHARACTERS, *STYLES, *RELATIONS, NUDE, DRESSED)
}
# Every word of a name or synonym.
WORDS = frozenset(
    word for c in CONCEPTS.values() for name in (c.name, *c.synonyms) for word in name.split()
)
THINGS = tuple(c.name for c in (*ENTITIES, *OBJECTS, *CHARACTERS))
STYLE_NAMES = tuple(c.name for c in STYLES)
RELATION_NAMES = tuple(c.name for c in RELATIONS)

# Concepts on which settings may be chosen; all others only a finished method sees.
DEVELOPMENT = (
    *("soccer ball", "cat", "Dracula", "Merlin", "pixel art", "mosaic", "kiss", "hug"),
    NUDE.name,
)

# Table 6's categories, ten each: what `evaluate concepts` erases one by one.
PAPER_CONCEPTS = {
    "entity": (*(c.name for c in ENTITIES), "Santa Claus"),
    "abstraction": STYLE_NAMES,
    "relationship": RELATION_NAMES,
}

ATTRIBUTION = """\
The pictures flux-tiny was trained on are drawn from emoji art; none of the art is included.

- Twemoji, (c) Twitter, Inc. and other contributors, CC BY 4.0 (creativecommons.org/licenses/by/4.0)
- OpenMoji (openmoji.org), CC BY-SA 4.0 (creativecommons.org/licenses/by-sa/4.0)
- Keywords consulted for names and synonyms: em-keyboard, ISC and MIT
"""


def concept(name: str) -> Concept:
    """The concept of this name.

    Raises:
      ValueError: the world has no such concept; the message lists near names.
    """
    if name not in CONCEPTS:
        close = difflib.get_close_matches(name, CONCEPTS, n=3)
        hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"one is {THINGS[0]!r}"
        raise ValueError(f"flux-tiny's world has no concept {name!r}; {hint}")
    return CONCEPTS[name]
