"""The command line, its commands, and the set-up of the environment they run in."""

import sys

# The check is in this file because `python -m workflows.setup.install` imports it first. Any later
# file would fail with a syntax error on an older Python.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"tesserae needs Python 3.11 or newer, this is {sys.version.split()[0]}. "
        "Choose a newer one: make setup PYTHON=python3.11"
    )
