"""Metrics of generated pictures and of rankings of classes."""
