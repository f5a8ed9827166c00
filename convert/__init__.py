"""Names and layouts: weight files <-> plain nested dicts of arrays. Knows no model code."""

from convert.files import WeightsError

__all__ = ["WeightsError"]
