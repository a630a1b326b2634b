"""Check this machine's installation and resources, and suggest how to fix what is missing.

The exit status is 1 if something would prevent `tesserae prepare` from running. With STORE, free
space and durable writes are checked at the store's location, otherwise in the current folder.
"""

from workflows.commands import Command
from workflows.setup.options import DoctorOptions

COMMAND = Command((DoctorOptions,), "workflows.setup.doctor:run_doctor")
