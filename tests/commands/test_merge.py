"""Merging writes a whole folder or nothing, and changes nothing but the edited kernels."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import toy_lora
import toy_weights
from flax import traverse_util
from safetensors.numpy import load_file, save_file

import convert.bfl
import convert.diffusers
from convert import comfy, files, layouts, trees
from ea_jax import edits, lora, merge
from ea_jax import merged as merged_edits
from ea_jax.edits import Edit
from ea_jax.runtime.fingerprint import base_hash
from ea_jax.runtime.metrics import NonFiniteError

WEIGHTS = toy_weights.random_like(toy_weights.template())


@pytest.fixture(autouse=True)
def _logs_stay_pytest_s(monkeypatch):
    monkeypatch.setattr(merge, "start_program", lambda: None)


@pytest.fixture
def model(tmp_path):
    """A folder with a transformer in three shards and another part."""
    folder = tmp_path / "model"
    convert.diffusers.save(
        WEIGHTS,
        folder,
        "transformer",
        dtype=jnp.bfloat16,
        config=toy_weights.CONFIG,
        max_shard_bytes=15_000,
    )
    (folder / "vae").mkdir()
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"the vae")
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (folder / "flux1.safetensors").write_bytes(b"the same again, in one file")
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def tensors(folder):
    stored = files.headers(sorted((folder / "transformer").glob("*.safetensors")))
    return {name: files.read(place) for name, place in stored.items()}


def test_a_merged_folder_is_the_old_one_but_for_the_edited_kernels(model, tmp_path):
    edit = Edit(toy_lora.trained("dual_qk+embed"), strength=0.5)
    assert merge.merge_folder(model, edit, tmp_path / "out") == 7
    old, new = contents(model), contents(tmp_path / "out")
    assert set(old) - set(new) == {"flux1.safetensors"}
    assert set(new) - set(old) == {merged_edits.MERGED_FILE}
    changed = {name for name in old if name in new and old[name] != new[name]}
    assert len([name for name in new if "of-" in name]) > 2
    assert changed <= {name for name in new if name.endswith(".safetensors")} - {"vae"}

    before, after = tensors(model), tensors(tmp_path / "out")
    assert {array.dtype for array in after.values()} == {np.dtype(jnp.bfloat16)}
    edited = {name for name in before if not np.array_equal(before[name], after[name])}
    assert len(edited) == 7
    template = toy_weights.template(dtype=jnp.bfloat16)
    expected = lora.merge(
        convert.diffusers.load(template, model, "transformer"), edit.adapters, 0.5
    )
    merged = convert.diffusers.load(template, tmp_path / "out", "transformer")
    for path, layer in lora.walk(expected):
        got = dict(lora.walk(merged))[path]["kernel"]
        np.testing.assert_allclose(
            got.astype(jnp.float32), layer["kernel"].astype(jnp.float32), rtol=2**-7, err_msg=path
        )


def test_adapters_and_deltas_of_the_same_layer_are_both_folded_in(model, tmp_path, caplog):
    adapters = toy_lora.trained("embed")
    ones = {"context_embedder": {"kernel": np.ones((12, 16), np.float32)}}
    merge.merge_folder(model, Edit(adapters, ones), tmp_path / "out")
    name = "context_embedder.weight"
    change = tensors(tmp_path / "out")[name].astype(np.float32) - tensors(model)[name]
    expected = np.asarray(lora.delta(adapters["context_embedder"])).T + 1
    assert "lost in rounding" not in caplog.text
    np.testing.assert_allclose(change, expected, atol=0.1)


def test_the_command_merges_and_says_so(model, tmp_path, caplog):
    path = edits.save(Edit(toy_lora.trained()), tmp_path)
    with caplog.at_level("INFO"):
        merge.main(["--model", str(model), "--lora", str(path), "--out", str(tmp_path / "out")])
    assert "4 layers changed" in caplog.text
    assert [merge._layers(count) for count in (0, 1, 2)] == ["0 layers", "1 layer", "2 layers"]
    assert (tmp_path / "out" / "model_index.json").exists()


def fails(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        merge.main(arguments)
    # A text is printed, and its code is 1.
    error = capsys.readouterr().err if stop.value.code == 1 else f"{stop.value.code}\n"
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_folder_with_something_in_it_is_left_alone(model, tmp_path, capsys):
    path = edits.save(Edit(toy_lora.trained()), tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    error = fails(["--model", str(model), "--lora", str(path), "--out", str(out)], capsys)
    assert "out is not an empty folder; delete it, or choose another --out" in error
    assert contents(out) == {"mine.txt": b"mine"}
    inside = str(model / "new")
    error = fails(["--model", str(model), "--lora", str(path), "--out", inside], capsys)
    assert "choose an --out outside of it" in error


def test_a_strength_that_is_not_finite_is_refused(model, tmp_path, capsys):
    path = edits.save(Edit(toy_lora.trained()), tmp_path)
    arguments = ["--model", str(model), "--lora", str(path), "--out", str(tmp_path / "out")]
    for strength in ("nan", "inf", "-inf", "1e999", ""):
        error = fails([*arguments, f"--strength={strength}"], capsys)
        assert "--strength is" in error
        assert "it has to be a finite number" in error
    with pytest.raises(ValueError, match="strength inf is NaN or Inf in float32"):
        merge.merge_folder(model, edits.load(path), tmp_path / "out", strength=float("inf"))
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_filled_by_whatever_name(model, tmp_path, monkeypatch):
    for name in ("out", "here", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "here")
    for out in (tmp_path / "out", ".", tmp_path / "link"):
        merge.merge_folder(model, Edit(toy_lora.trained()), out)
    for name in ("out", "here", "elsewhere"):
        assert (tmp_path / name / "transformer" / "config.json").exists()
    with pytest.raises(FileExistsError, match="/ is a whole disk"):
        merge.merge_folder(model, Edit(toy_lora.trained()), "/")


def test_nothing_is_written_for_a_lora_of_another_model(model, tmp_path, capsys):
    adapters = toy_lora.trained()
    attn = adapters["transformer_blocks"]["attn"]
    attn["add_q_proj"] = {
        name: np.concatenate([array, array[:1]]) for name, array in attn["add_q_proj"].items()
    }
    path = edits.save(Edit(adapters), tmp_path)
    out = tmp_path / "out"
    error = fails(["--model", str(model), "--lora", str(path), "--out", str(out)], capsys)
    assert "3 blocks of transformer_blocks.attn.add_q_proj, the model 2: it lacks block 2" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", edits.LORA_FILE]


def test_a_truncated_shard_leaves_nothing_behind(model, tmp_path):
    shard = sorted((model / "transformer").glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{shard.name} is cut off"):
        merge.merge_folder(model, Edit(toy_lora.trained()), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_disk_that_fills_up_leaves_nothing_behind(model, tmp_path, monkeypatch):
    def full(path, *_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(OSError, match="No space left"):
        merge.merge_folder(model, Edit(toy_lora.trained()), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_merge_left_is_removed_by_the_next(model, tmp_path):
    left = tmp_path / ".out.unfinished" / "out"
    left.mkdir(parents=True)
    (left / "half.safetensors").write_bytes(b"0")
    merge.merge_folder(model, Edit(toy_lora.trained()), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]
    assert not (tmp_path / "out" / "half.safetensors").exists()


def test_a_missing_shard_is_named(model, tmp_path):
    shard = sorted((model / "transformer").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name} does not exist"):
        merge.merge_folder(model, Edit(toy_lora.trained()), tmp_path / "out")


@pytest.mark.parametrize("strength", [0.0, 1e-9])
def test_an_edit_that_changes_no_bit_is_an_error_and_writes_nothing(model, tmp_path, strength):
    with pytest.raises(ValueError, match=f"nothing would change:? at strength {strength:g}"):
        merge.merge_folder(model, Edit(toy_lora.trained()), tmp_path / "out", strength=strength)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_only_layers_that_change_are_counted(model, tmp_path, caplog):
    adapters = toy_lora.trained()
    query = adapters["transformer_blocks"]["attn"]["add_q_proj"]
    query["B"] = np.stack([query["B"][0], np.full_like(query["B"][1], 1e-9)])
    assert merge.merge_folder(model, Edit(adapters), tmp_path / "out") == 3
    assert "1 of the edit's 4 layers stay as they were" in caplog.text


def test_a_second_merge_of_the_same_edit_is_refused(model, tmp_path):
    edit = edits.load(edits.save(Edit(toy_lora.trained(), concept="cat"), tmp_path))
    other = Edit(toy_lora.trained("embed"), concept="dog")
    merge.merge_folder(model, edit, tmp_path / "one")
    merge.merge_folder(tmp_path / "one", other, tmp_path / "two")
    assert [record["concept"] for record in merged_edits.listed(tmp_path / "two")] == ["cat", "dog"]
    for folder in ("one", "two"):
        with pytest.raises(ValueError, match=f"{folder} holds the edit of 'cat' already"):
            merge.merge_folder(tmp_path / folder, edit, tmp_path / "three")
    assert not (tmp_path / "three").exists()


def test_an_edit_of_another_base_is_warned_of_and_one_of_this_base_is_not(model, tmp_path, caplog):
    for dtype in (jnp.float32, jnp.bfloat16):
        loaded = convert.diffusers.load(toy_weights.template(dtype=dtype), model, "transformer")
        right = Edit(toy_lora.trained(), base=base_hash(loaded), concept="cat")
        merge.merge_folder(model, right, tmp_path / f"right-{np.dtype(dtype)}")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    wrong = Edit(toy_lora.trained(), base="f00", concept="cat")
    merge.merge_folder(model, wrong, tmp_path / "wrong")
    assert "edit of 'cat' was made on weights with hash f00, and those of" in caplog.text


def test_a_kernel_that_overflows_is_named_and_nothing_is_written(model, tmp_path):
    edit = Edit(toy_lora.trained())
    with pytest.raises(NonFiniteError, match=r"add_._proj\.weight would hold NaN or Inf in bfl"):
        merge.merge_folder(model, edit, tmp_path / "out", strength=3e38)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_missing_tensor_is_named(model, tmp_path):
    shard = sorted((model / "transformer").glob("*.safetensors"))[1]
    tensors = load_file(shard)
    name = min(tensors)
    tensors.pop(name)
    save_file(tensors, shard)
    with pytest.raises(ValueError, match=f"missing tensor '{name}'"):
        merge.merge_folder(model, Edit(toy_lora.trained()), tmp_path / "out")


def test_weights_beside_the_transformer_s_own_are_not_copied(model, tmp_path):
    """They have no edit in them, and a variant would be loaded in place of what has."""
    shard = sorted((model / "transformer").glob("*.safetensors"))[0]
    strays = [
        "transformer/flux1-dev.safetensors",
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "transformer/diffusion_pytorch_model.fp16.safetensors.index.json",
        "transformer/diffusion_pytorch_model.bin",
        "flux1-dev.safetensors",
        "flux1-dev-Q4_0.gguf",
    ]
    for stray in strays:
        shutil.copy(shard, model / stray)
    (model / "transformer" / "LICENSE.md").write_text("a licence")
    out = tmp_path / "out"
    merge.merge_folder(model, Edit(toy_lora.trained()), out)
    assert not [stray for stray in strays if (out / stray).exists()]
    own = {path.name for path in (model / "transformer").iterdir()}
    own -= {Path(stray).name for stray in strays}
    assert {path.name for path in (out / "transformer").iterdir()} == own


def test_comfyui_puts_each_layer_where_black_forest_labs_has_it():
    """The rows are `flux_to_diffusers`'s: thirds of txt_attn.qkv, of width 16 here."""
    places = comfy.key_map(toy_weights.template())
    prefix = "transformer.transformer_blocks.1.attn"
    qkv = "diffusion_model.double_blocks.1.txt_attn.qkv.weight"
    assert places[f"{prefix}.add_q_proj"] == trees.Piece(qkv, ((0, 16),))
    assert places[f"{prefix}.add_k_proj"] == trees.Piece(qkv, ((16, 32),))
    assert places[f"{prefix}.add_v_proj"] == trees.Piece(qkv, ((32, 48),))
    image = "diffusion_model.double_blocks.1.img_attn.qkv.weight"
    assert places[f"{prefix}.to_k"] == trees.Piece(image, ((16, 32),))
    single = "diffusion_model.single_blocks.2.linear1.weight"
    place = places["transformer.single_transformer_blocks.2.attn.to_k"]
    assert place == trees.Piece(single, ((16, 32),))
    assert places["transformer.single_transformer_blocks.2.proj_mlp"].rows == ((48, 112),)
    assert places["transformer.context_embedder"].name == "diffusion_model.txt_in.weight"
    pooled = places["transformer.time_text_embed.text_embedder.linear_2"]
    assert pooled.name == "diffusion_model.vector_in.out_layer.weight"
    assert places["transformer.transformer_blocks.0.attn.to_out.0"].rows == ((0, 16),)
    # The halves of the last modulation are swapped.
    assert places["transformer.norm_out.linear"].rows == ((16, 32), (0, 16))


def test_our_file_put_through_comfyuis_key_map_is_our_merge(tmp_path):
    """Patches a single file as ComfyUI does, alpha absent, and loads it back."""
    edit = Edit(toy_lora.trained(toy_lora.EVERYWHERE))
    stored, _ = files.header(edits.save(edit, tmp_path))
    template = toy_weights.template()
    single = black_forest_labs_file(WEIGHTS)
    layers = {name.partition(".lora_")[0] for name in stored}
    places = comfy.key_map(template)
    for layer in layers:
        a = files.read(stored[f"{layer}.lora_A.weight"]).astype(np.float32)
        b = files.read(stored[f"{layer}.lora_B.weight"]).astype(np.float32)
        place = places[layer]
        ((start, stop),) = place.rows
        single[place.name][start:stop] += b @ a
    path = tmp_path / "flux1.safetensors"
    files.write_arrays(path, single, {})
    patched = convert.bfl.load(template, path)
    merged = lora.merge(WEIGHTS, edits.load(tmp_path).adapters)
    for path, layer in lora.walk(merged):
        got = dict(lora.walk(patched))[path]["kernel"]
        np.testing.assert_allclose(got, layer["kernel"], rtol=1e-4, atol=1e-4, err_msg=path)


def black_forest_labs_file(weights):
    """The single file of a tree, put together from the same plan that reads it."""
    flat = traverse_util.flatten_dict(weights)
    pieces, shapes = trees.plan(weights, layouts.BLACK_FOREST_LABS)
    single = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for path, blocks in pieces.items():
        for index, piece in enumerate(blocks):
            leaf = flat[path][index] if path[0] in ("transformer_blocks", STACKED) else flat[path]
            rows = leaf.T if path[-1] == "kernel" else leaf
            done = 0
            for start, stop in piece.rows:
                single[piece.name][start:stop] = rows[done : done + stop - start]
                done += stop - start
    return {comfy.PREFIX + name: array for name, array in single.items()}


STACKED = "single_transformer_blocks"
