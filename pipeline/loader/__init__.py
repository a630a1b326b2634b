"""Shuffled batches of a split for any number of ranks: `Loader`."""

from pipeline.loader.batch import Batch
from pipeline.loader.crops import Crop
from pipeline.loader.dataset import SplitDataset
from pipeline.loader.loader import Loader
from pipeline.loader.reading_options import Reading, Staging

__all__ = ["Batch", "Crop", "Loader", "Reading", "SplitDataset", "Staging"]
