"""`python -m workflows` is `tesserae`."""

import sys

from workflows.cli import main

if __name__ == "__main__":  # the fork server's children import this module too
    sys.exit(main())
