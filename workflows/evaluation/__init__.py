"""Metrics of generated images and of rankings of classes."""

HELD_OUT = ("val", "test")
"""The splits that a run is evaluated on if none is named, in order of preference."""
