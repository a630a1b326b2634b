"""Batches of a split, shuffled, for any number of ranks: `Loader`."""

from pipeline.loader.dataset import SplitDataset
from pipeline.loader.epochs import Batch
from pipeline.loader.loader import Loader

__all__ = ["Batch", "Loader", "SplitDataset"]
