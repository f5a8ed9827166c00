"""Methods behind one interface: their table, and that what compiles them knows none by name."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from test_inversions import BALL, LENGTH, encode
from toy_steps import BASE, SMALL
from toy_t5 import t5_tokenizer

from configs import soccer
from ea_jax import settings
from ea_jax.concepts import bank, rows
from ea_jax.costs import breakdown
from ea_jax.costs.shapes import shapes
from ea_jax.methods import embedder, registry
from ea_jax.methods.forward import forward_of
from ea_jax.methods.ready import Ready, initial_state
from ea_jax.runtime.mesh import make_mesh


def of_method(name: str) -> settings.Settings:
    config = soccer.get_config()
    config.method.update({"name": name, "plus": "nothing"})
    if name == "mace":
        config.concept.anchor = "replaced"
    return settings.from_config(config)


@pytest.mark.parametrize("name", registry.METHODS)
def test_a_methods_entry_says_what_it_reads_of_shared_sections(name, monkeypatch):
    """What tracing its programs asks of `optim` and `loss`, and of no other method's section."""
    made, read = of_method(name), set()
    if name == "erase_anything":
        made = dataclasses.replace(
            made,
            loss=dataclasses.replace(made.loss, attn=1.0, lora=1.0, keep=1.0, rsc=1.0),
            optim=dataclasses.replace(made.optim, optimisers="two"),
        )

    def noting(section):
        def get(self, key):
            read.add(f"{section}.{key}")
            return object.__getattribute__(self, key)

        return get

    foreign = {*registry.changes_nothing(name, "nothing")} - {*registry._NEVER}
    for section in ("optim", "loss", *foreign):
        kind = type(getattr(made, section))
        monkeypatch.setattr(kind, "__getattribute__", noting(section))
    given = shapes(made, SMALL, latent=(4, 6, 2), mesh=make_mesh({}, jax.devices()[:1]))
    for level in given.method.levels:
        jax.eval_shape(level.step, given.state, given.base, given.batches[level.name])
    # All methods draw by the seed, and every run's settings are checked for the others.
    always = {"optim.seed", "loss.teacher_guidance", *([] if given.batches else ["optim.batch"])}
    read -= {"embedder.inversions"} if "embedder" in foreign else set()
    assert not foreign & {key.partition(".")[0] for key in read}
    said = {key for key in registry.METHODS[name].shared if not key.startswith(("lora.", "data."))}
    # Forms of terms are read in other programs.
    forms = {"loss.features", "loss.rsc_form", "loss.rsc_t_min", "loss.tau"}
    assert read - always - forms == said - always - forms


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_methods_state_and_batches_have_shapes_without_a_model(name):
    given = shapes(of_method(name), SMALL, latent=(4, 6, 2), mesh=make_mesh({}, jax.devices()[:1]))
    assert set(given.batches) == {level.name for level in given.method.levels}
    assert bool(given.method.steps) == bool(given.batches)
    for tree in (given.state, given.batches):
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def test_a_closed_form_has_no_program_to_take_apart_but_one_forward():
    made = of_method("embedder")
    given = shapes(made, SMALL, latent=(4, 6, 2), mesh=make_mesh({}, jax.devices()[:1]))
    base = breakdown.filled(given.base)
    assert [part.name for part in breakdown.parts(made, base, SMALL, given)] == ["one forward"]


def test_an_edit_can_be_a_trained_one_plus_the_closed_form():
    """The sum of both, each as it is alone; the closed form isn't added to itself."""
    made = of_method("erase_anything")
    mesh, words = make_mesh({}, jax.devices()[:1]), bank.build(
        [BALL], rows.Recipe(shuffles=4), preserve=("a cloud",), encode=encode,
        tokenizer=t5_tokenizer(), max_length=LENGTH, encoder="random",
    )  # fmt: skip
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, inversions=0, slips=0))
    forward = forward_of(made, SMALL, (2, 3), (1.0, 0.0))
    ready = Ready(made, mesh, forward, BASE, words, {}, "base", "hash")
    alone = registry.chosen(made).make(ready)
    both = registry.with_embedder(alone, ready)
    assert both._replace(edit=alone.edit) == alone
    state = initial_state(alone, made, mesh)
    trained, closed = alone.edit(state, BASE), embedder.make(ready).edit({}, BASE)
    jax.tree.map(
        np.testing.assert_array_equal,
        both.edit(state, BASE).adapters,
        {**trained.adapters, **closed.adapters},
    )
    twice = dataclasses.replace(made, method=settings.MethodSettings("embedder", "embedder"))
    assert registry.chosen(twice) is registry.METHODS["embedder"]


@pytest.mark.parametrize("name", sorted({*registry.METHODS} - {"embedder", "zeroed_columns"}))
def test_a_method_plus_the_closed_form_has_all_that_either_needs(name):
    made = of_method(name)
    plus = dataclasses.replace(made, method=settings.MethodSettings(name, "embedder"))
    both = registry.chosen(plus).needs(plus)
    for one in (registry.METHODS[name], registry.METHODS["embedder"]):
        needed = one.needs(plus)._asdict()
        del needed["check"]
        assert all(getattr(both, key) >= value for key, value in needed.items())


def test_what_leaves_no_file_has_nothing_added():
    made = of_method("zeroed_columns")
    plus = dataclasses.replace(made, method=settings.MethodSettings("zeroed_columns", "embedder"))
    with pytest.raises(settings.SettingsError, match=r"which no file holds; set method\.plus=noth"):
        registry.chosen(plus)


def test_an_unknown_method_is_named_with_those_there_are():
    with pytest.raises(settings.SettingsError, match=r"'embeder' is unknown; .*did you mean 'emb"):
        registry.chosen(of_method("embeder"))


def test_an_edit_with_the_closed_form_needs_what_both_need_and_has_the_shapes_of_both():
    made = of_method("esd")
    given = dataclasses.replace(made.embedder, inversions=1.0, vocabulary="world", captions=3)
    plus = dataclasses.replace(
        made, embedder=given, method=settings.MethodSettings("esd", "embedder")
    )
    alone, both = registry.chosen(made), registry.chosen(plus)
    assert (alone.needs(made).concept, both.needs(plus).concept) == (False, True)
    assert both.needs(plus).vocabulary == ("world", 3, 0)
    shapes_of = (set(entry.blank(plus, BASE)) for entry in (alone, both))
    assert list(shapes_of) == [{"transformer_blocks"}, {"transformer_blocks", "context_embedder"}]


def test_zeroed_columns_are_an_edit_without_weights():
    made = of_method("zeroed_columns")
    entry = registry.chosen(made)
    ready = Ready(
        *(made, make_mesh({}, jax.devices()[:1]), forward_of(made, SMALL, (2, 3), (1.0, 0.0))),
        *(BASE, None, {}, "base", "hash"),
    )
    edit = entry.make(ready).edit({}, BASE)
    assert (edit.zeroed, edit.adapters, edit.deltas) == (("soccer ball",), {}, {})
    assert (edit.concept, edit.method, edit.base) == ("soccer ball", "zeroed_columns", "hash")
    assert entry.blank(made, BASE) == {}


def test_a_changed_setting_is_one_that_the_method_reads():
    registry.require_read("ca_noise", "nothing", ["ca.lr", "lora.rank", "loss.t_draw", "log.every"])
    registry.require_read("erase_anything", "embedder", ["embedder.keep", "optim.pairs"])
    registry.require_read("uce", "nothing", ["optim.seed", "concept.word"])
    registry.require_read("esd", "nothing", ["loss.teacher_guidance"])
    registry.require_read("erase_anything", "nothing", ["data.inversions", "data.x_t"])
    registry.require_read("embedder", "nothing", ["embedder.inversions", "data.inversions"])
    registry.require_read("esd", "embedder", ["data.inversion_rate"])
    for key in ("loss.teacher_guidance", "data.inversions"):
        with pytest.raises(settings.SettingsError, match=f"{key} is set, .*'eap' doesn't read it"):
            registry.require_read("eap", "nothing", [key])
    for name, plus in (("gem", "nothing"), ("erase_anything", "embedder")):
        with pytest.raises(settings.SettingsError, match=r"ca\.lr .* method ca_model or ca_noise$"):
            registry.require_read(name, plus, ["lora.rank", "ca.lr"])
    with pytest.raises(settings.SettingsError, match=r"embedder, or add method\.plus=embedder$"):
        registry.require_read("esd", "nothing", ["embedder.keep"])
    unread = r"optim\.pairs is set, .*'esd' .*set a key of section esd instead, or take"
    with pytest.raises(settings.SettingsError, match=unread):
        registry.require_read("esd", "nothing", ["esd.steps", "optim.pairs"])
    with pytest.raises(
        settings.SettingsError, match=r"lora\.rank is set, .*section embedder instead, or"
    ):
        registry.require_read("embedder", "nothing", ["lora.rank"])
    registry.require_read("typo", "nothing", ["ca.lr"])


def test_values_of_other_methods_sections_change_nothing():
    of_esd = registry.changes_nothing("esd", "nothing")
    assert {"log", "data.cache", "mesh", "model.remat", "ca", "eap", "embedder"} < {*of_esd}
    assert not {"esd", "lora", "optim", "loss", "data", "concept"} & {*of_esd}
    assert "embedder" not in registry.changes_nothing("erase_anything", "embedder")
    assert "ca" not in registry.changes_nothing("ca_noise", "nothing")


def test_each_methods_own_section_is_one_of_the_settings():
    sections = {name: entry.section for name, entry in registry.METHODS.items()}
    assert {name for name, own in sections.items() if own is None} == {
        "erase_anything",
        "zeroed_columns",
    }
    assert {*sections.values()} - {None} < {*settings.SECTIONS}
