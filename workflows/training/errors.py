"""Errors of a training run that restarting the ranks would only repeat."""

from cluster.errors import PermanentError
from pipeline.errors import TesseraeError


class DivergedError(PermanentError, TesseraeError):
    """A loss or a weight is NaN or infinite, in the run or in a checkpoint."""


class DiskFullError(PermanentError, TesseraeError):
    """The disk has no room for a file of the run folder."""
