"""The entry point of `python -m workflows`, which is the same as `tesserae`."""

import sys

from workflows.cli import main

if __name__ == "__main__":
    sys.exit(main())
