"""Measure a loader's throughput on this machine and the quality of its shuffling.

Batches are read as fast as possible and discarded. `--drop-cache` first drops the store from the
page cache. The shuffle figures are relative to a perfect shuffle, which scores 1.
"""

from workflows.commands import Command
from workflows.loader.options import LoaderOptions

COMMAND = Command((LoaderOptions,), "workflows.loader.benchmark:run_loader_benchmark")
