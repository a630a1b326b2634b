"""Colour for grey pictures, learned from a store: what a stage with a target looks like."""
