"""Detectors of real pictures: each says in its own module what it sees, and by which weights."""
