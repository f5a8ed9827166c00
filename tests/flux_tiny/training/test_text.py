"""flux-tiny's tokenizers, T5 and CLIP: formats by hand, and losses that fall."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.flux import clip, t5, tokens
from ea_jax.flux.cpu import lookup
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux_tiny import world
from ea_jax.flux_tiny.training import loop, text_stage, tokenizers, train_clip, train_t5
from ea_jax.flux_tiny.vocabulary import BACKGROUNDS, THINGS

NOUNS = ("umbrella", "guitar", "Dracula", "penguin")
COLOURS = ("red", "blue", "green", "yellow")
CAPTIONS = [
    (f"a photo of a {noun}, {colour} background", f"{noun} on {colour}")
    for noun, colour in itertools.product(NOUNS, COLOURS)
]
SCHEDULE = loop.LoopConfig(
    steps=40,
    batch=16,
    learning_rate=1e-2,
    warmup=5,
    weight_decay=0.0,
    ema=0.5,
    log_every=40,
    save_every=40,
    seed=0,
)
T5_SMALL = t5.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
CLIP_SMALL = clip.ClipConfig(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("flux-tiny")
    config = dataclasses.replace(
        text_stage.TOKENIZERS, t5_pieces=200, t5_sentinels=8, clip_merges=60
    )
    tokenizers.run([text for texts in CAPTIONS for text in texts], config, where)
    return where


@pytest.fixture(scope="module")
def pair(folder):
    return tokenizers.load_tokenizers(folder)


def test_t5_text_comes_back_with_its_case(pair):
    ids = pair[0]("a photo of a Dracula on red").input_ids
    assert pair[0].decode(ids, skip_special_tokens=True) == "a photo of a Dracula on red"


def test_clip_text_comes_back_in_lower_case(pair):
    ids = pair[1]("a photo of a Dracula").input_ids
    assert pair[1].decode(ids, skip_special_tokens=True).strip() == "a photo of a dracula"


def test_special_ids_are_those_of_t5_and_clip(pair):
    text, pooled = pair
    assert (text.pad_token_id, text.eos_token_id, text.unk_token_id) == (0, 1, 2)
    assert pooled.eos_token_id == len(pooled) - 1 == max(pooled.get_vocab().values())
    assert pooled.bos_token_id == len(pooled) - 2


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_offsets_cover_exactly_the_word(folder, name):
    prompt = "a photo of a penguin on red"
    read = tokens.tokenize(tokens.load_tokenizer(folder, name), [prompt], 32)
    start, end = prompt.index("penguin"), prompt.index("penguin") + len("penguin")
    inside = [(a, b) for a, b in read.offsets[0] if a < b and a < end and b > start]
    assert "".join(sorted({prompt[a:b] for a, b in inside}, key=prompt.index)).endswith("penguin")
    assert max(b for _, b in inside) == end
    assert min(a for a, _ in inside) == start


def test_a_misspelled_word_falls_into_known_pieces(pair):
    for tokenizer in pair:
        pieces = tokenizer.tokenize("umbrelba")
        assert len(pieces) > len(tokenizer.tokenize("umbrella"))
        assert tokenizer.unk_token not in pieces or tokenizer is pair[1]


def test_no_piece_joins_letters_and_punctuation():
    config = dataclasses.replace(text_stage.TOKENIZERS, t5_pieces=100, t5_sentinels=1)
    tokenizer = tokenizers.train_t5_tokenizer(["a t-shirt, a T-bar, an 8-bit hat"] * 50, config)
    joined = [piece for piece in tokenizer.get_vocab() if set(piece) & set(",-") and piece[1:]]
    assert joined == []
    assert tokenizer.tokenize("bar,") == [*tokenizer.tokenize("bar"), ","]


def test_short_words_are_one_piece(pair):
    for word in ("a", "on", "of"):
        assert pair[0].tokenize(word) == ["▁" + word]


def test_corruption_puts_sentinels_for_spans_and_back():
    text, sentinels = list(range(10, 30)), [98, 97, 96, 95, 94]
    for seed in range(20):
        source, target = train_t5.corrupt(
            text, sentinels, np.random.default_rng(seed), noise=0.3, span=2.0
        )
        assert source[-1] == target[-1] == train_t5.END
        assert [i for i in source if i > 30] == [i for i in target if i > 30] == [98, 97, 96]
        # 6 of 20 tokens are cut out, and filling each span in at its sentinel gives the text.
        assert len(target) == 6 + 3 + 1
        spans = {i: [] for i in sentinels}
        for token in target[:-1]:
            if token > 30:
                last = token
            else:
                spans[last].append(token)
        filled = [t for i in source[:-1] for t in (spans[i] if i > 30 else [i])]
        assert filled == text


def test_corruption_of_two_tokens_keeps_one():
    source, target = train_t5.corrupt([7, 8], [99], np.random.default_rng(0), noise=0.2, span=2.0)
    assert sorted(source) == sorted([1, 99, source[0] if source[0] != 99 else source[1]])
    assert target in ([99, 7, 1], [99, 8, 1])


def test_the_decoder_does_not_look_ahead_or_at_padding():
    config = dataclasses.replace(T5_SMALL, vocab_size=20)
    weights = train_t5.init_decoder(config, 6, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 4)
    text = jax.random.normal(keys[0], (1, 6, 16))
    memory = jax.random.normal(keys[1], (1, 5, 16))
    mask = np.array([[True, True, True, False, False]])
    first = train_t5.decode(weights, config, text, memory, mask)
    later = text.at[:, 4:].set(jax.random.normal(keys[2], (1, 2, 16)))
    padded = memory.at[:, 3:].set(jax.random.normal(keys[3], (1, 2, 16)))
    second = train_t5.decode(weights, config, later, padded, mask)
    np.testing.assert_allclose(first[:, :4], second[:, :4], atol=1e-5)
    assert np.abs(first[:, 4:] - second[:, 4:]).max() > 0.1


def test_the_gradient_of_a_lookup_adds_up_at_repeated_rows():
    ids = np.array([[2, 0], [2, 2]])
    grad = jax.grad(lambda table: (lookup(table, ids) * jnp.array([1.0, 10.0])).sum())
    by_hand = [[1, 10], [0, 0], [3, 30]]
    np.testing.assert_array_equal(grad(jnp.ones((3, 2))), by_hand)


def test_padding_that_says_the_same_everywhere_costs_nothing():
    x_BTD = jnp.array([[[1.0, 5.0], [2.0, 3.0]], [[9.0, 9.0], [2.0, 3.0]]])
    padding = np.array([[False, True], [False, True]])
    assert train_t5._variance(x_BTD, padding) == 0
    # 1 and 9 lie 4 from their mean, 5 and 9 lie 2: (16 + 4) / 2.
    assert train_t5._variance(x_BTD, ~padding) == 10


@pytest.mark.slow
def test_padding_after_the_target_is_not_counted():
    config = dataclasses.replace(T5_SMALL, vocab_size=20)
    weights = {
        "encoder": t5.init_weights(config, jax.random.key(0)),
        "decoder": train_t5.init_decoder(config, 6, jax.random.key(1)),
    }
    ids = np.array([[5, 19, 1, 0]])
    short, long = (
        train_t5.span_loss(
            weights,
            train_t5.Batch(ids, target),
            jax.random.key(0),
            config=config,
            still=0.0,
            own=0.0,
        )[0]
        for target in (np.array([[19, 7, 1]]), np.array([[19, 7, 1, 0, 0, 0]]))
    )
    np.testing.assert_allclose(short, long, rtol=1e-5)


def _train(loss, config, weights, batches):
    step = loop.make_step(loss, config)
    state = loop.start(weights, config)
    history = []
    for number in range(config.steps):
        state, terms = step(state, batches(number), jax.random.key(0))
        history.append(terms)
    return {name: np.array([terms[name] for terms in history]) for name in history[0]}


@pytest.mark.slow
def test_span_corruption_is_learned(pair):
    tokenizer = pair[0]
    shape = dataclasses.replace(T5_SMALL, vocab_size=len(tokenizer))
    config = train_t5.T5TrainConfig(
        encoder=shape, schedule=SCHEDULE, lengths=(32,), shares=(1.0,), noise=0.2, span=2.0,
        pairs=0.5, target=12, still=0.1, own=0.5,
    )  # fmt: skip
    ids = [[tokenizer(t, add_special_tokens=False).input_ids for t in texts] for texts in CAPTIONS]
    comma = tokenizer.convert_tokens_to_ids(",")
    batches = train_t5.text_batches(ids, train_t5.sentinel_ids(tokenizer), comma, config)

    def loss(weights, batch, key):
        return train_t5.span_loss(weights, batch, key, config=shape, still=0.1, own=0.5)

    values = _train(loss, SCHEDULE, train_t5.init_weights(config), batches)
    for name in ("loss", "own"):
        assert values[name][-5:].mean() < 0.7 * values[name][:5].mean()


def test_a_token_must_be_kept_in_directions_that_matter():
    """Recognised by its cosine: a small part of the output, however clean, does not do."""
    kernel_DV, ids = jnp.eye(4), np.array([[1, 2, 0]])
    own_BTD = jax.nn.one_hot(ids, 4)
    common_BTD = jnp.full((1, 3, 4), 5.0)
    loss = lambda memory: float(train_t5._own_loss(kernel_DV, memory, ids))  # noqa: E731
    assert loss(own_BTD) < 0.01 < 0.5 < loss(common_BTD + own_BTD)
    # Padding is no token.
    assert loss(own_BTD) == loss(own_BTD.at[:, 2].set(7.0))


@pytest.mark.slow
def test_pictures_and_captions_find_each_other(pair):
    tokenizer = pair[1]
    shape = dataclasses.replace(
        CLIP_SMALL, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id
    )
    config = train_clip.ClipTrainConfig(
        text=shape, schedule=SCHEDULE, length=24, joined=0.0, width=16
    )
    images = np.random.default_rng(0).integers(0, 256, (len(CAPTIONS), 64, 64, 3), np.uint8)
    batches = train_clip.picture_batches(images, CAPTIONS, tokenizer, config)

    def loss(weights, batch, key):
        return train_clip.contrastive_loss(weights, batch, key, config=shape)

    weights = train_clip.init_weights(config, jax.random.key(0))
    values = _train(loss, SCHEDULE, weights, batches)
    assert values["loss"][-5:].mean() < 0.7 * values["loss"][:5].mean()
    assert values["accuracy"][:5].mean() < 0.3
    assert values["accuracy"][-5:].mean() > 0.7


def test_pooled_text_does_not_depend_on_padding(pair):
    tokenizer = pair[1]
    shape = dataclasses.replace(
        CLIP_SMALL, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id
    )
    weights = clip.init_weights(shape, jax.random.key(0))
    short, full = (
        clip.pool(weights, shape, train_clip.tokenize(tokenizer, ["a guitar"], length))
        for length in (24, 77)
    )
    np.testing.assert_allclose(short, full, atol=1e-6)


@pytest.mark.slow
def test_flux_tinys_t5_and_clip_tell_objects_apart(monkeypatch):
    """By a linear reading. T5 could so be read in 47 % once, and no object was ever painted."""
    monkeypatch.setattr(world, "THING_UNSAID", 0.0)
    # Few captions here to learn slips from: half of them would hide what the words say.
    monkeypatch.setattr(world, "SLIPPED", 0.2)
    rng = np.random.default_rng(0)
    names = np.tile(np.arange(len(THINGS)), 50)
    backgrounds = rng.choice(list(BACKGROUNDS), len(names))
    captions = [
        world.caption(world.thing_scene(THINGS[name], rng, background=str(background)), rng)
        for name, background in zip(names, backgrounds, strict=True)
    ]
    pipeline = Pipeline.load("flux-tiny", parts=("text_encoder", "text_encoder_2"), dtype="float32")
    text, ids = pipeline.encode(captions, max_length=32)
    said_BT = (ids.ids_BT > train_t5.END)[..., None]
    t5_BD = np.where(said_BT, text.t5_BTD, 0).sum(1) / said_BT.sum(1)
    held_out = rng.random(len(names)) < 0.25
    for read_BD in (t5_BD, np.asarray(text.pooled_BD)):
        read_BD = np.c_[(read_BD - read_BD.mean(0)) / read_BD.std(0), np.ones(len(names))]
        known = read_BD[~held_out]
        gram = known.T @ known + np.eye(known.shape[1])
        weights = np.linalg.solve(gram, known.T @ np.eye(len(THINGS))[names[~held_out]])
        right = (read_BD[held_out] @ weights).argmax(1) == names[held_out]
        assert right.mean() > 0.8
