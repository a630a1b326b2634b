"""Preparing for minutes while all goes wrong at once: `python -m tests.chaos --help`."""
