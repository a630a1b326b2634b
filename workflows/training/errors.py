"""Errors of a training run that no further generation of ranks could avoid."""

from cluster.errors import FinalError
from pipeline.errors import TesseraeError


class DivergedError(FinalError, TesseraeError):
    """A loss or a weight is not finite any more, or was not when it was saved."""


class DiskFullError(FinalError, TesseraeError):
    """A file of the run's folder has no room on its disk."""
