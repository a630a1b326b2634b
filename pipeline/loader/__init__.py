"""Batches of a split, shuffled, for any number of ranks: `Loader`."""

from pipeline.loader.dataset import SplitDataset
from pipeline.loader.loader import Batch, Loader

__all__ = ["Batch", "Loader", "SplitDataset"]
