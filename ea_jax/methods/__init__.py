"""Concept erasure methods; each ends in an edit of the same model."""
