"""`python -m workflows` is `tesserae`."""

import sys

from workflows.cli import main

if __name__ == "__main__":
    sys.exit(main())
