"""Detectors for pictures of real models; each is imported when it is asked for."""
