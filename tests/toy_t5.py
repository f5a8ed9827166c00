"""A T5 tokenizer of a few known pieces, so that positions can be counted by hand."""

from __future__ import annotations

from transformers import T5TokenizerFast

_WORDS = """
▁a ▁an ▁the ▁nu de ▁woman ▁with ▁beautiful ▁hair ▁soccer ▁ball ▁Soccer ▁Ball ▁foot ball ▁cat ▁dog
▁on ▁grass ▁beside ▁cloud ▁shirt ▁helmet ▁photo ▁of ▁Van ▁Go gh ▁caf é ▁stra ß e ▁ , . ' s
"""


def t5_tokenizer() -> T5TokenizerFast:
    """Words above are one piece or two; any other falls into letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    letters += [letter.upper() for letter in letters]
    pieces = dict.fromkeys([*_WORDS.split(), *letters])
    scored = [(piece, -1.0 if len(piece) > 1 else -10.0) for piece in pieces]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    return T5TokenizerFast(vocab=[*special, *scored], extra_ids=0)
