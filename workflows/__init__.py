"""What a person runs: one module a command, the command line, and what makes the environment."""

import sys

# Here, because `python -m workflows.setup.install` comes through here first, and every later file
# would greet an older Python with a syntax error.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"tesserae needs Python 3.11 or newer, this is {sys.version.split()[0]}. "
        "Name another one: make setup PYTHON=python3.11"
    )
