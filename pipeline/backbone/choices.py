"""The names of choices about a backbone, without torch, so that command lines start fast."""

NEW = "new"
"""The name of a small, untrained network."""

POOLINGS = ("end", "mean", "max", "grid", "token")
"""The ways to pool a block's output into one vector, described in `pipeline.backbone`."""
