"""`ea-jax erase WORD ...`: the short form of `--config`, and words that stand in a file.

ea-jax erase cat
ea-jax erase cat dog --method paper
ea-jax erase "golden retriever" --model flux-dev --config.model.path=FOLDER
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert import bfl
from convert.diffusers import read_json
from ea_jax.arguments import Parser, text
from ea_jax.concepts import minors
from ea_jax.evaluate import worlds
from ea_jax.flux import hub
from ea_jax.settings.concept import KINDS

CONFIG = Path(__file__).parents[1] / "configs" / "anything.py"
_EPILOG = (
    "All other settings are flags, too: --config.SECTION.KEY=VALUE, with the sections and keys of "
    "ea_jax/settings, as --config.optim.seed=1. --config=FILE starts from another config."
)
_VARIANTS = ("tiny", "flux-dev", "flux-schnell")
_SLUG = 60  # letters of a folder's name, at most


def flags_of(arguments: Sequence[str]) -> list[str]:
    """The flags that an experiment's command line takes: `--config` and what changes it.

    Args:
      arguments: words, then flags; or flags alone, which are left as they are.
    """
    is_short = not any(one.partition("=")[0] == "--config" for one in arguments)
    if is_short and {"-h", "--help"} & {*arguments}:
        _parser().parse_args(["--help"])
    if not arguments or (arguments[0].startswith("-") and not _is_ours(arguments[0])):
        return list(arguments)
    parser = _parser()
    # What absl reads has its value behind "=": a word apart is ours. argparse would take a flag
    # with a space in its value for a word.
    flags = [one for one in arguments if one.startswith("--") and "=" in one and not _is_ours(one)]
    given, rest = parser.parse_known_args([one for one in arguments if one not in flags])
    if stray := [argument for argument in rest if not argument.startswith("--")]:
        parser.error(f"{stray[0]!r} belongs to no flag; write words first, flags as --flag=value")
    words = [*given.word, *([given.words] if given.words else [])]
    if not words:
        parser.error("no word is given; write ea-jax erase cat, or ea-jax erase --config=FILE")
    variant, path = variant_of(given.model)
    if given.method:
        variant += f"+{given.method}"
    key = "words" if len(words) > 1 or given.words or "," in words[0] else "word"
    made = [f"--config={CONFIG}:{variant}", f"--config.concept.{key}={','.join(words)}"]
    if path:
        made.append(f"--config.model.path={path}")
    if given.kind:
        made.append(f"--config.concept.kind={given.kind}")
    if given.out:
        made.append(f"--config.log.folder={given.out}")
    return [*made, *rest, *flags]


def spelled_out(config: dict[str, Any]) -> dict[str, Any]:
    """A config whose words are read from their file, and whose folder is named after them.

    `concept.words = @FILE` is a file with one word or phrase a line; `{word}` in `log.folder` is
    what is erased; `log.pictures = auto` becomes what `minors.how_shown` says of all texts.

    Raises:
      ValueError: no such file, no word in it, or a comma.
    """
    concept, log = dict(config["concept"]), dict(config["log"])
    words = concept.get("words")
    if isinstance(words, str) and words.startswith("@"):
        listed = words_in(words[1:], "concept.words")
        if apart := next((word for word in listed if "," in word), None):
            raise ValueError(
                f"{words[1:]}: {apart!r} holds a comma, which parts two words; write each on a "
                "line of its own"
            )
        words = concept["words"] = ",".join(listed)
    if isinstance(log.get("folder"), str):
        named = words or concept.get("word") or "word"
        log["folder"] = log["folder"].replace("{word}", slug(str(named)))
    if log.get("pictures") == "auto":
        given = [*concept.values(), config["sample"].get("prompts")]
        said = [text for value in given for text in _texts(value)]
        log["pictures"] = minors.how_shown(said, real=config["model"].get("path") != hub.EMBEDDED)
    return {**config, "concept": concept, "log": log}


def _texts(value: Any) -> list[str]:
    """The texts of a setting: one, or a list of them."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [one for one in listed if isinstance(one, str)]


def _parser() -> Parser:
    parser = Parser("erase", "Erases one word or several from a model.")
    parser.epilog = _EPILOG
    parser.add_argument("word", nargs="*", help="what is erased; several words go in one run")
    parser.add("--words", rule=text, help="the same, with commas, or @FILE with one a line")
    parser.add(
        "--model",
        rule=text,
        default="tiny",
        help=f"{', '.join(_VARIANTS)}, a FLUX.1's folder, or a FLUX.1-dev's hub id",
    )
    parser.add("--method", rule=text, help="preset, like paper; the model's own by default")
    parser.add("--kind", rule=text, help=f"of the word: {', '.join(KINDS)}; looked up by default")
    parser.add("--out", rule=text, help="folder of the run; runs/WORD-MODEL[-PRESET] by default")
    return parser


def _is_ours(argument: str) -> bool:
    return argument.partition("=")[0] in ("--words", "--model", "--method", "--kind", "--out")


def variant_of(name: str) -> tuple[str, str | None]:
    """Variant and path of a model: a variant's name, or a folder or hub id of a FLUX.1.

    A folder's own files say whether it is like flux-tiny, schnell or dev; a hub id is one of dev.
    """
    if name == hub.EMBEDDED:
        return "tiny", None
    if name in _VARIANTS:
        return name, None
    if Path(name).is_dir():
        return _variant_in(Path(name)), name
    return ("flux-dev", name) if "/" in name else (name, None)


def _variant_in(folder: Path) -> str:
    if worlds.has_detector(str(folder)):
        return "tiny"
    try:
        where = folder / "transformer" / "config.json"
        single = None if where.exists() else bfl.beside(folder)
        guided = (bfl.read_config(single) if single else read_json(where)).get("guidance_embeds")
    except (ValueError, OSError):
        return "flux-dev"  # what is wrong there is said when the model is opened
    return "flux-dev" if guided else "flux-schnell"


def words_in(file: str | Path, key: str) -> list[str]:
    """The words of a text file, one word or phrase a line; `#` begins a comment.

    Args:
      file: to read.
      key: of the setting that names the file, for messages.
    Raises:
      ValueError: no such file, or no word in it.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ValueError(
            f"{key} = '@{file}' can't be read ({reason}); give a text file, one word a line"
        ) from None
    words = [word for line in lines if (word := line.partition("#")[0].strip())]
    if not words:
        raise ValueError(f"{file} holds no word; give one word or phrase a line")
    return words


def slug(words: str) -> str:
    """Words as a part of a path: letters and digits of any script; two long ones differ."""
    plain = re.sub(r"[^\w]+", "-", words.lower()).strip("-")
    plain = plain or "-".join(f"{ord(letter):x}" for letter in words.strip())
    if len(plain) <= _SLUG:
        return plain
    return f"{plain[: _SLUG - 9]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"
