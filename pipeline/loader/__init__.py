"""Shuffled batches of a split for any number of ranks: `Loader`.

Only `dataset` and `torch_framework`, which a loader of tensors imports, need torch.
"""

from pipeline.loader.batch import Batch
from pipeline.loader.crops import Crop
from pipeline.loader.loader import Loader
from pipeline.loader.reading_options import Reading, Staging

__all__ = ["Batch", "Crop", "Loader", "Reading", "Staging"]
