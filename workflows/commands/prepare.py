"""Decode every image of a source once, resize it to every size, and store it.

Run the same command again to resume an interrupted run: committed shards are kept. A finished store
can grow: run the command again with further sizes or splits.
"""

from workflows.commands import Command
from workflows.preparation.options import PrepareOptions

COMMAND = Command((PrepareOptions,), "workflows.preparation.prepare:run_prepare")
