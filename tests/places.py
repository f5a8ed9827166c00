"""The checkout, and data beside it: tests that need the data skip where it is absent."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
FLUX_TOKENIZERS = SHARED / "flux_tokenizers"
NLTK_DATA = SHARED / "nltk_data"
