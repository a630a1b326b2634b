"""Show what a store holds: splits, sizes, rows, recipe, and the reasons for quarantined rows."""

from workflows.commands import Command
from workflows.reports.options import InfoOptions

COMMAND = Command((InfoOptions,), "workflows.reports.store_info:run_info")
