"""A test that prepares stores while many faults happen: `python -m tests.chaos --help`."""
