"""Copy a folder that `tesserae push` has copied to a URL, and verify every file.

Each file is compared with the SHA-256 in the manifest before it gets its name. Run the same command
again to resume: files that are there are compared, and not copied again.
"""

from workflows.commands import Command
from workflows.transfer.options import PullOptions

COMMAND = Command((PullOptions,), "workflows.transfer.pull:run_pull")
