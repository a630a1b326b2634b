"""Stores and their features: prepared, verified and repaired on a cluster."""
