"""Preparation, verification and repair of stores and of their features, on a cluster."""
