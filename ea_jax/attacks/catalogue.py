"""All attacks, in the order of a table, and those that a command names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from ea_jax.attacks import inversion, pictures, prefix, prompts, relearning, ring_a_bell
from ea_jax.attacks.trials import Attack

ALL = "all"
_SEARCHES = ("search", "white-box", "weights")
# Not in `ALL`: they bring back too little even from zeroed columns for a failure to mean anything.
UNPROVEN = ("Ring-A-Bell", "UnlearnDiffAtk", "UnlearnDiffAtk relaxed")


def groups(budget: int | None = None, starts: int | None = None) -> Mapping[str, Sequence[Attack]]:
    """Attacks by group.

    Args:
      budget: most steps or generations that a search may take; None is each one's own.
      starts: of CCE; None is its own number.
    """
    prefixes = capped(prefix.BUDGETS, budget)
    return {
        "black-box": prompts.black_box(),
        "split": prompts.split(),
        "settings": prompts.settings(),
        "search": [ring_a_bell.ring_a_bell(capped(ring_a_bell.BUDGETS, budget))],
        "white-box": [
            prefix.unlearn_diff_atk(budgets=prefixes),
            prefix.unlearn_diff_atk("UnlearnDiffAtk relaxed", prefix.RELAXED, prefixes),
            inversion.cce(capped(inversion.BUDGETS, budget), starts or inversion.STARTS),
        ],
        "weights": [relearning.relearning(capped(relearning.BUDGETS, budget))],
        "pictures": [pictures.image_to_image(), pictures.inversion()],
    }


def capped(budgets: Sequence[int], most: int | None) -> tuple[int, ...]:
    """A curve's points up to `most`, which is the last one."""
    if most is None or most >= budgets[-1]:
        return tuple(budgets)
    return (*(budget for budget in budgets if budget < most), most)


def chosen(
    names: Sequence[str], *, budget: int | None = None, starts: int | None = None
) -> list[Attack]:
    """Attacks by the names of groups or their own, in the order of a table; `plain` always.

    Args:
      names: of groups or attacks, or `ALL`, which leaves `UNPROVEN` ones out.
      budget, starts: see `groups`.
    Raises:
      ValueError: a name that is neither; or a budget or starts of attacks that aren't among them.
    """
    made = groups(budget, starts)
    known = {one.name: one for found in made.values() for one in found}
    wanted = {prompts.PLAIN}
    for name in names:
        if name == ALL:
            wanted |= set(known) - set(UNPROVEN)
        elif name in made:
            wanted |= {one.name for one in made[name]}
        elif name in known:
            wanted.add(name)
        else:
            near = difflib.get_close_matches(name, [ALL, *made, *known], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"attack {name!r} is unknown; give {ALL}, {', '.join(made)}, or one of "
                f"{', '.join(known)}{hint}"
            )
    searches = {one.name for group in _SEARCHES for one in made[group]}
    for key, value, those in (("budget", budget, searches), ("starts", starts, {inversion.CCE})):
        if value is not None and not wanted & those:
            raise ValueError(
                f"--{key}={value} is for {', '.join(sorted(those))}, and --attacks has none of "
                f"these; leave --{key} out"
            )
    return [one for name, one in known.items() if name in wanted]
