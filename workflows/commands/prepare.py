"""Decode every image of a source once, and store it as raw pixels, as encoded rows, or as both.

Run the same command again to resume an interrupted run: committed shards are kept. A finished store
can grow: run the command again with further sizes, encodings or splits.
"""

from workflows.commands import Command
from workflows.preparation.options import PrepareOptions

COMMAND = Command((PrepareOptions,), "workflows.preparation.prepare:run_prepare")
