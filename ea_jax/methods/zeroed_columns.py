"""Zeroed columns: section 3 of EraseAnything (ICML 2025), the filter that it shows to fail.

While a picture is painted, no query sees the tokens at which a prompt has the concept's word,
exactly as it is spelled: their columns of softmax(Q K') are 0 in every block, and the rest stays as
it is. Nothing is learned and no weight changes, so there is no file: it is a setting of the
painter.
"""

from __future__ import annotations

from typing import Any

from ea_jax.methods.method import Method, without_steps
from ea_jax.methods.ready import Ready
from ea_jax.settings import Settings


def make(ready: Ready) -> Method:
    """The method of a run: its edit names the words."""

    return without_steps(lambda _: ready.edit(zeroed=ready.settings.concept.named))


def blank(settings: Settings, template: Any) -> Any:
    """No adapters."""
    del settings, template
    return {}
