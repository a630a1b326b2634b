"""Check every file of a store against its recorded digest, and list missing and damaged files.

The exit status is 0 if the store is complete and undamaged, and 1 if a file is missing or damaged
or if a split is not finished.
"""

from workflows.commands import Command
from workflows.preparation.options import VerifyOptions

COMMAND = Command((VerifyOptions,), "workflows.preparation.verify:run_verify")
