# What this project takes from transformers: a checker needs half a minute to read the whole of it.
from typing import Any

CLIPTokenizer: Any
T5Tokenizer: Any
