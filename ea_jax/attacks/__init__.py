"""Attacks on an erasure: each makes trials for a victim, and success is counted the same way."""
