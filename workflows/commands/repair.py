"""Restore damaged or missing files of a store, and change nothing else.

Records are restored from their second copy, table parts from the merged table, and pixels from the
source, whose bytes must still match the recorded checksums. The exit status is 0 if the store is
complete and undamaged afterwards.
"""

from workflows.commands import Command
from workflows.preparation.options import RepairOptions

COMMAND = Command((RepairOptions,), "workflows.preparation.repair:run_repair")
