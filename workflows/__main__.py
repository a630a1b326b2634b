"""The entry point of `python -m workflows`, which is the same as `tesserae`."""

import sys

from tesserae_command import main

if __name__ == "__main__":
    sys.exit(main())
