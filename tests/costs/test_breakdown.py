"""What is taken apart is the method's own step, whichever method it is."""

from __future__ import annotations

import jax
import pytest
from toy_steps import SMALL

from configs import soccer
from ea_jax import settings
from ea_jax.costs import breakdown, scaling
from ea_jax.costs.shapes import shapes
from ea_jax.runtime.flops import count_flops
from ea_jax.runtime.mesh import make_mesh


def of_method(name: str) -> settings.Settings:
    config = soccer.get_config()
    config.method.name = name
    config.loss.attn = 0.5
    return settings.from_config(config)


def costs(name: str) -> dict[str, int]:
    """Operations of each part, by its name."""
    made = of_method(name)
    given = shapes(made, SMALL, latent=(4, 6, 2), mesh=make_mesh({}, jax.devices()[:1]))
    found = breakdown.parts(made, breakdown.filled(given.base), SMALL, given)
    return {part.name: count_flops(part.function, *part.arguments) for part in found}


@pytest.mark.slow
def test_terms_that_are_off_cost_nothing() -> None:
    found = costs("erase_anything")
    on, off = (found[f"lower step, attention loss {name}"] for name in ("on", "off"))
    full, plain = (found[f"lower step, full maps{name}"] for name in ("", ", attention loss off"))
    assert 0 < found["lower step, L_attn alone"] < off < on
    assert plain < full
    # L_keep has a teacher beside it, L_lora has none.
    assert 0 < found["upper step, L_lora alone"] < found["upper step, L_keep alone"]
    assert found["upper step, L_rsc alone"] > 0


def test_another_method_is_taken_apart_by_its_programs() -> None:
    found = costs("esd")
    assert list(found) == ["one forward", "esd step"]
    # Three forwards of the teacher, one of the student and its gradient.
    assert found["esd step"] > 4 * found["one forward"]


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("erase_anything", ["attention loss on", "off"]),
        ("esd", ["esd"]),
        ("embedder", ["embedder"]),
    ],
)
def test_scaling_compares_what_a_method_has(name: str, variants: list[str]) -> None:
    found = scaling._variants(of_method(name))
    assert list(found) == variants
    assert all(made.data.x_t == "pool" for made in found.values())


def test_a_closed_form_has_nothing_to_scale() -> None:
    given = shapes(
        of_method("embedder"), SMALL, latent=(4, 6, 2), mesh=make_mesh({}, jax.devices()[:1])
    )
    with pytest.raises(ValueError, match=r"a closed form has no steps .* choose another method"):
        scaling._program(given)
