"""Word vectors: their files, their mapped index, and the is-a graph of classes."""
