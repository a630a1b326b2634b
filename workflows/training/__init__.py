"""The machinery shared by all training stages: ranks, options, run folders and checkpoints."""
