"""What may be chosen of a backbone, in words: for command lines, which must not wait for torch."""

NEW = "new"
"""The name of a small network that has learned nothing yet."""

POOLINGS = ("end", "mean", "max", "grid", "token")
"""How a block's output over places becomes one vector; `pipeline.backbone` says what each does."""
