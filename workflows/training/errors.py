"""Errors of a training run that restarting the ranks would only repeat."""

from cluster.errors import FinalError
from pipeline.errors import TesseraeError


class DivergedError(FinalError, TesseraeError):
    """A loss or a weight is NaN or infinite, in the run or in a checkpoint."""


class DiskFullError(FinalError, TesseraeError):
    """The disk has no room for a file of the run folder."""
