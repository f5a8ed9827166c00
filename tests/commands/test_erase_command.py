"""`ea-jax erase WORD`: the short form of a config, words of a file, and what is refused."""

from __future__ import annotations

import json

import pytest

from configs import anything
from configs.common import MODELS
from ea_jax import settings
from ea_jax.erase_command import CONFIG, flags_of, slug, spelled_out, variant_of
from ea_jax.runtime import config_file


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["cat"], [":tiny", "--config.concept.word=cat"]),
        (["cat", "--model=tiny"], [":tiny", "--config.concept.word=cat"]),
        (["cat", "--model", "flux-tiny"], [":tiny", "--config.concept.word=cat"]),
        (
            ["golden retriever", "--model", "flux-dev"],
            [":flux-dev", "--config.concept.word=golden retriever"],
        ),
        (["cat", "dog"], [":tiny", "--config.concept.words=cat,dog"]),
        (["cat,dog"], [":tiny", "--config.concept.words=cat,dog"]),
        (
            ["--words=cat,dog", "--config.sample.prompts=('a cat', 'b')"],
            [":tiny", "--config.concept.words=cat,dog", "--config.sample.prompts=('a cat', 'b')"],
        ),
        (["--words=@a.txt"], [":tiny", "--config.concept.words=@a.txt"]),
        (
            ["cat", "--method=paper", "--kind=animal", "--out=runs/x", "--config.optim.pairs=3"],
            [
                ":tiny+paper",
                "--config.concept.word=cat",
                "--config.concept.kind=animal",
                "--config.log.folder=runs/x",
                "--config.optim.pairs=3",
            ],
        ),
        (
            ["cat", "--model=me/my-flux"],
            [":flux-dev", "--config.concept.word=cat", "--config.model.path=me/my-flux"],
        ),
    ],
)
def test_words_become_the_flags_of_a_config(arguments, flags) -> None:
    first, *rest = flags
    assert flags_of(arguments) == [f"--config={CONFIG}{first}", *rest]


@pytest.mark.parametrize(
    ("config", "others", "variant"),
    [
        ({"guidance_embeds": True}, (), "flux-dev"),
        ({"guidance_embeds": False}, (), "flux-schnell"),
        ({"guidance_embeds": True}, ("judge",), "tiny"),
        (None, (), "flux-dev"),
    ],
)
def test_a_folder_s_own_files_say_which_model_it_is_like(
    tmp_path, monkeypatch, config, others, variant
) -> None:
    # A folder of a variant's name is not what a command means that names none.
    for name in ("tiny/transformer", *(f"tiny/{one}" for one in others)):
        (tmp_path / name).mkdir(parents=True)
    if config is not None:
        (tmp_path / "tiny" / "transformer" / "config.json").write_text(json.dumps(config))
    assert variant_of(str(tmp_path / "tiny")) == (variant, str(tmp_path / "tiny"))
    monkeypatch.chdir(tmp_path)
    assert variant_of("tiny") == ("tiny", None)


def test_every_model_of_the_configs_has_its_name_here() -> None:
    assert {variant_of(name) for name in MODELS} == {(name, None) for name in MODELS}


def test_flags_alone_are_left_as_they_are() -> None:
    given = ["--config=configs/nudity.py", "--config.optim.pairs=3"]
    assert flags_of(given) == given
    assert flags_of([]) == []


def test_the_config_of_the_short_form_is_there() -> None:
    assert config_file.load(f"{CONFIG}:flux-dev").to_dict() == (
        anything.get_config("flux-dev").to_dict()
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kind=thing"], "no word is given; write ea-jax erase cat"),
        (["cat", "--hosts", "auto", "dog"], "'auto' belongs to no flag; write words first"),
        (["cat", "--model="], "--model is empty"),
    ],
)
def test_what_is_no_word_is_refused(arguments, said, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        flags_of(arguments)
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told


def spelled(**concept) -> dict:
    config = anything.get_config("tiny").to_dict()
    config["concept"] |= concept
    return spelled_out(config)


@pytest.mark.parametrize(
    ("concept", "folder"),
    [
        ({"word": "cat"}, "runs/cat-tiny"),
        ({"word": "Golden Retriever"}, "runs/golden-retriever-tiny"),
        ({"words": "cat,dog"}, "runs/cat-dog-tiny"),
        ({"word": "../x"}, "runs/x-tiny"),
        ({"word": "🐈"}, "runs/1f408-tiny"),
        ({"word": "猫"}, "runs/猫-tiny"),
    ],
)
def test_a_run_s_folder_is_named_after_its_words(concept, folder) -> None:
    made = spelled(**concept)
    assert made["log"]["folder"] == folder
    assert settings.from_config(made).log.folder == folder


def test_two_long_names_that_begin_alike_have_folders_of_their_own() -> None:
    long = "a rate of 1e-3, a rank of 8, and a number of pairs that is "
    one, other = slug(f"{long}500"), slug(f"{long}300")
    assert one != other
    assert len(one) == len(other) <= 60
    assert one == slug(f"{long}500")


def test_words_are_read_from_a_file(tmp_path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# animals\ncat  # kitty\n\n golden retriever \n")
    made = spelled(words=f"@{file}")
    assert made["concept"]["words"] == "cat,golden retriever"
    assert made["log"]["folder"] == "runs/cat-golden-retriever-tiny"
    file.write_text("Paris, Texas\n")
    with pytest.raises(ValueError, match="'Paris, Texas' holds a comma, which parts two words"):
        spelled(words=f"@{file}")
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"words\.txt holds no word; give one word or phrase a"):
        spelled(words=f"@{file}")
    with pytest.raises(ValueError, match=r"absent' can't be read \(No such file .*one word a line"):
        spelled(words=f"@{tmp_path}/absent")


@pytest.mark.parametrize(
    ("variant", "concept", "shown"),
    [
        ("tiny", {"word": "nude"}, "plain"),
        ("flux-dev", {"word": "cat"}, "plain"),
        ("flux-dev", {"word": "nude"}, "pixelated"),
        ("flux-dev", {"words": "cat,undressed"}, "pixelated"),
        ("flux-dev", {"word": "cat", "sentences": ("a cat", "a naked man and a cat")}, "pixelated"),
    ],
)
def test_pictures_of_nudity_by_a_model_of_real_pictures_are_pixelated(variant, concept, shown):
    config = anything.get_config(variant).to_dict()
    config["concept"].update(concept)
    assert spelled_out(config)["log"]["pictures"] == shown
    painted = {**config, "sample": {**config["sample"], "prompts": ("a nude man",)}}
    assert spelled_out(painted)["log"]["pictures"] == (
        "plain" if variant == "tiny" else "pixelated"
    )
    config["log"]["pictures"] = "plain"
    assert spelled_out(config)["log"]["pictures"] == "plain"


def test_help_names_the_flags(capsys) -> None:
    for given in (["--help"], ["cat", "-h"]):
        with pytest.raises(SystemExit) as ended:
            flags_of(given)
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert "--method" in said
        assert "--config.SECTION.KEY=VALUE" in said
