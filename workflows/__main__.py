"""The entry point of `python -m workflows`, which is the same as `tesserae`."""

import sys


def main() -> int:
    """Run the command, and return its exit status.

    Ctrl-C while modules are loaded ends it quietly, as later: no handler is installed yet.
    """
    try:
        from workflows.cli import main as run_command
    except KeyboardInterrupt:
        return 130  # 128 and the number of SIGINT, as shells have it
    return run_command()


if __name__ == "__main__":
    sys.exit(main())
